"""What a saved scorer says of itself: `scorer.json` and the hashes of its training prompts."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from riskalign import __version__
from riskalign.errors import InputError
from riskalign.evaluation.intervals import Interval
from riskalign.files.cache import file_sha256
from riskalign.scorers.scorer_data import KINDS, Kind
from riskalign.scorers.training_data import TrainingData

SCHEMA = 1
CARD_FILE = "scorer.json"
PROMPTS_FILE = "prompts.sha256"

Family = Literal["embedding", "causal"]


@dataclass(frozen=True)
class Card:
    """Where a scorer comes from and how good it is.

    `encoder` is the name of the sentence encoder or causal model it was made from and
    `encoder_sha256` what pins that model's weights. `data_sha256` is the training file's ("" for
    data that is no file), `half` the part of its prompts that was used, `prompt_hashes` their
    `text_hash`es, sorted. `metrics` are those of `judge`, on the prompts that `judged_on` names.
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


def write_card(card: Card, folder: Path) -> None:
    """Write both files into a folder."""
    hashes = "".join(f"{each}\n" for each in card.prompt_hashes)
    (folder / PROMPTS_FILE).write_bytes(hashes.encode())
    content = {"schema": SCHEMA, **dataclasses.asdict(card)}
    del content["prompt_hashes"]
    content["prompts"] = len(card.prompt_hashes)
    content["prompts_sha256"] = hashlib.sha256(hashes.encode()).hexdigest()
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / CARD_FILE).write_text(f"{text}\n", encoding="utf-8")


def read_card(folder: str | Path) -> Card:
    """Read what `write_card` wrote.

    Raises:
        InputError: no scorer there, a field is missing or wrong, or the prompts' hashes are not
            those that belong to it.
    """
    path = Path(folder) / CARD_FILE
    if not path.is_file():
        raise InputError(
            f"{folder}: no scorer here (no {CARD_FILE}). Give a folder that "
            "`riskalign score train` wrote."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}). Train the scorer again.") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        raise InputError(f"{path}: field 'schema' is {found!r}; this version reads {SCHEMA}.")
    fields = {field.name for field in dataclasses.fields(Card)} - {"prompt_hashes"}
    if missing := sorted((fields | {"prompts_sha256"}) - set(content)):
        raise InputError(f"{path}: field '{missing[0]}' is missing. Train the scorer again.")
    for field, known in (("kind", KINDS), ("family", get_args(Family))):
        if content[field] not in known:
            raise InputError(
                f"{path}: field '{field}' is {content[field]!r}. Give one of {', '.join(known)}."
            )
    hashes = Path(folder) / PROMPTS_FILE
    if not hashes.is_file() or file_sha256(hashes) != content["prompts_sha256"]:
        raise InputError(
            f"{hashes}: not the training prompts' hashes that {CARD_FILE} names (missing or "
            "changed). Train the scorer again."
        )
    try:
        metrics = {name: Interval(**each) for name, each in content["metrics"].items()}
    except (AttributeError, TypeError) as error:
        raise InputError(f"{path}: field 'metrics': {error}. Train the scorer again.") from error
    values = {name: content[name] for name in fields} | {"metrics": metrics}
    return Card(**values, prompt_hashes=tuple(hashes.read_text(encoding="utf-8").split()))


def make_card(
    kind: Kind,
    family: Family,
    data: TrainingData,
    *,
    encoder: str,
    encoder_sha256: str,
    seed: int,
    settings: Mapping[str, Any],
    metrics: Mapping[str, Interval],
    judged_on: str,
) -> Card:
    """The card of a scorer that was trained just now, on this data."""
    packages = ("torch", "transformers", "numpy", "scipy")
    return Card(
        kind=kind,
        family=family,
        encoder=encoder,
        encoder_sha256=encoder_sha256,
        seed=seed,
        data=data.source,
        data_sha256=data.sha256,
        half=data.half,
        rows=len(data.rows),
        settings=dict(settings),
        metrics=dict(metrics),
        judged_on=judged_on,
        versions={"riskalign": __version__, **{name: version(name) for name in packages}},
        prompt_hashes=tuple(sorted(set(data.hashes))),
    )
