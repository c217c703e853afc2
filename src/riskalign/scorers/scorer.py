"""What a scorer is, what its folder says of it (`scorer.json`), and which policies it may judge."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

from riskalign import __version__
from riskalign.data import Text
from riskalign.errors import FieldError, InputError
from riskalign.evaluation.intervals import Interval
from riskalign.files.atomic import new_folder
from riskalign.files.cache import file_sha256
from riskalign.files.folder import from_json
from riskalign.scorers.rows import Kind, TrainingData
from riskalign.settings import parse

SCHEMA = 1
_CARD, _PROMPTS = "scorer.json", "prompts.sha256"

Family = Literal["embedding", "causal"]


@dataclass(frozen=True)
class Card:
    """Where a scorer comes from and how good it is.

    `encoder` is the name of the sentence encoder or causal model it was made from and
    `encoder_sha256` what pins that model's weights. `data_sha256` is the training file's ("" for
    data that is no file), `half` the part of its prompts that was used, `prompt_hashes` their
    `text_hash`es, sorted. `metrics` are those of `judge`, on the prompts that `judged_on` names;
    `verdicts` those of a cost on the labelled answers there (older cards have none).
    """

    kind: Kind
    family: Family
    encoder: str
    encoder_sha256: str
    seed: int
    data: str
    data_sha256: str
    half: str
    rows: int
    settings: Mapping[str, Any]
    metrics: Mapping[str, Interval]
    judged_on: str
    versions: Mapping[str, str]
    prompt_hashes: tuple[str, ...]
    verdicts: Mapping[str, int] = field(default_factory=dict)


class Model(Protocol):
    """What scores answers, of either family."""

    def score(self, prompts: Sequence[Text], answers: Sequence[Text]) -> list[float]:
        """The scores of n > 0 answers to n prompts, each text or messages."""
        ...

    def write(self, folder: Path) -> None:
        """Write the weights into a folder."""
        ...


@dataclass(frozen=True)
class Scorer:
    """A reward or cost model with its card."""

    card: Card
    model: Model

    @property
    def kind(self) -> Kind:
        """``reward`` or ``cost``."""
        return self.card.kind

    def score(self, prompts: Sequence[Text], answers: Sequence[Text]) -> list[float]:
        """The scores of n answers to n prompts, each text or messages.

        A cost is the log-odds of being unsafe: above 0 where that is likelier than not; of the
        causal family the sign is learnt, and the scale as log-odds roughly so. Differences of
        rewards are log-odds of being the better answer.

        Raises `InputError`: other numbers of prompts than of answers.
        """
        if len(prompts) != len(answers):
            raise InputError(f"{len(prompts)} prompts but {len(answers)} answers. Give as many.")
        return self.model.score(prompts, answers) if prompts else []

    def save(self, folder: str | Path) -> None:
        """Write `scorer.json`, the prompts' hashes and the weights, all or nothing."""
        with new_folder(folder) as temporary:
            write_card(self.card, temporary)
            self.model.write(temporary)


def make_card(data: TrainingData, **more: Any) -> Card:
    """The card of a scorer that was trained just now, on this data; `more` are the other fields."""
    packages = ("torch", "transformers", "numpy", "scipy")
    return Card(
        kind=data.kind,
        data=data.source,
        data_sha256=data.sha256,
        half=data.half,
        rows=len(data.rows),
        versions={"riskalign": __version__, **{name: version(name) for name in packages}},
        prompt_hashes=tuple(sorted(set(data.hashes))),
        **more,
    )


def write_card(card: Card, folder: Path) -> None:
    """Write both files into a folder."""
    hashes = "".join(f"{each}\n" for each in card.prompt_hashes)
    (folder / _PROMPTS).write_bytes(hashes.encode())
    content = {"schema": SCHEMA, **dataclasses.asdict(card)}
    del content["prompt_hashes"]
    content["prompts"] = len(card.prompt_hashes)
    content["prompts_sha256"] = hashlib.sha256(hashes.encode()).hexdigest()
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / _CARD).write_text(f"{text}\n", encoding="utf-8")


def read_card(folder: str | Path) -> Card:
    """Read what `write_card` wrote.

    Raises `InputError`: no scorer there, a field is missing or wrong, or the prompts' hashes are
    not those that belong to it.
    """
    path, hashes = Path(folder) / _CARD, Path(folder) / _PROMPTS
    if not path.is_file():
        raise InputError(
            f"{folder}: no scorer here (no {_CARD}). Give a folder that "
            "`riskalign score train` wrote."
        )
    try:
        content = from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}). Train the scorer again.") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path}: field 'schema' is {schema!r}; this version reads {SCHEMA}.")
    if not hashes.is_file() or file_sha256(hashes) != content.get("prompts_sha256"):
        raise InputError(
            f"{hashes}: not the training prompts' hashes that {_CARD} names (missing or "
            "changed). Train the scorer again."
        )
    content["prompt_hashes"] = hashes.read_text(encoding="utf-8").split()
    try:
        return parse(Card, content)
    except FieldError as error:
        raise InputError(
            f"{path}: field '{error.field}': {error.problem}. Train the scorer again."
        ) from error


def check_independent(evaluator: Scorer, trainer: Scorer, *others: Scorer) -> str:
    """A sentence for the report that says why the evaluator is another scorer than the trainers.

    A policy learns its own scorer's mistakes, and the same mistakes would hide them. So the
    evaluator must differ from every trainer in encoder, family or seed, and must have been trained
    on none of their prompts (compared by `text_hash`).

    Raises `InputError`: it does not differ, or shares prompts; names which scorer and the remedy.
    """
    judge, trainers = evaluator.card, [one.card for one in (trainer, *others)]
    compared = {"encoder": "encoder_sha256", "family": "family", "seed": "seed"}
    ways: dict[str, None] = {}
    for number, other in enumerate(trainers, start=1):
        name = f"scorer {number} that trained the policy ({other.kind}, {other.encoder})"
        differs = [w for w, f in compared.items() if getattr(judge, f) != getattr(other, f)]
        if not differs:
            raise InputError(
                f"the evaluating scorer has the same encoder, family and seed ({judge.seed}) as "
                f"{name}. Train it with another seed, encoder or family, on other prompts."
            )
        if shared := len(set(judge.prompt_hashes) & set(other.prompt_hashes)):
            raise InputError(
                f"the evaluating scorer was trained on {shared} prompt(s) of {name}. Train the "
                "two on parts that share none: `riskalign score train --half a` and `--half b`."
            )
        ways |= dict.fromkeys(differs)
    prompts = len({each for card in trainers for each in card.prompt_hashes})
    return (
        f"The evaluating {judge.kind} scorer ({judge.family}, {judge.encoder}, seed {judge.seed}) "
        f"is independent of the {len(trainers)} that trained the policy: it differs in "
        f"{' and '.join(ways)}, and none of its {len(judge.prompt_hashes):,} training prompts is "
        f"among their {prompts:,}."
    )


def check_unseen(name: str, card: Card, groups: Mapping[str, AbstractSet[str]]) -> None:
    """Refuse a scorer that learnt from prompts on which it would judge.

    `name` is what the error calls the scorer: the setting that names it, and its folder. `groups`
    are `text_hash`es of prompts by what they are, to follow "the prompts that".

    Raises `InputError`: it learnt from a prompt of a group; names how many and the remedy.
    """
    for what, prompts in groups.items():
        if shared := len(prompts & set(card.prompt_hashes)):
            raise InputError(
                f"{name}: learnt from {shared} of the prompts that {what}, and would not "
                "notice what it got wrong there. Give a scorer that was trained on others."
            )
