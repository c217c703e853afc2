"""`AlignConfig`: everything that decides what the steps do; checked before work starts."""

from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from riskalign.data import PreferenceSettings
from riskalign.errors import FieldError
from riskalign.losses import ORDERED
from riskalign.pipeline.methods import KINDS, METHODS, get_method, has_rows
from riskalign.pipeline.schedule import Schedule, temperatures
from riskalign.pipeline.settings import (
    EvaluationConfig,
    Kind,
    LoraSettings,
    Problem,
    SamplingConfig,
    ScoringConfig,
    SFTConfig,
    StepConfig,
    StepKind,
    Weight,
)
from riskalign.pipeline.tail import TailAim
from riskalign.safe_rlhf import PPOSettings
from riskalign.scorers import ScorerSettings
from riskalign.settings import (
    LISTED,
    Flag,
    Name,
    Positive,
    Whole,
    Words,
    parse,
    refuse,
    settings,
    wrong,
)


@settings
class AlignConfig:
    """A whole job.

    A kind of step may come again (`order: [helpful, safe, safe]`): its later rounds use pairs
    sampled anew, and the temperatures of its `n` rounds are `n` times as high, so that together
    they tilt as far as one. The rounds of a file's pairs train on them again.

    Raises `InputError`, naming the field, for a value out of range.
    """

    model: Name = "smollm2-135m"
    """The start model: a hub id, a folder, or a GGUF file."""
    chat_template: Words | None = None
    """A Jinja file, for a model whose tokenizer has none."""
    output_dir: Name = "runs/align"
    """Folder of the run."""
    seed: Whole = 0
    """Decides every random number."""
    world: Words | None = "vault"
    """Prompts with a reward and a cost program: a name, or module:Class; null with data."""
    beta: Positive = 0.1
    """KL price: the temperature of the helpful step."""
    lambda_: Positive = 1.0
    """Multiplier of the cost: the safe step's temperature is beta over it."""
    schedule: Schedule = "objective"
    """How the steps' temperatures follow (docs/method.md)."""
    order: Annotated[tuple[StepKind, ...], LISTED] = ("helpful", "safe")
    """The steps: helpful, safe, ppo (Safe RLHF's), or package.module:name of a method."""
    merges: Annotated[tuple[Weight, ...], LISTED] = ()
    """For each w the model of weights (1 - w) step 1 + w last step is measured as well."""
    sft: SFTConfig | None = None
    """Begin with supervised tuning on the world's demonstrations."""
    helpful: StepConfig = field(default_factory=StepConfig)
    """The helpful step."""
    safe: StepConfig = field(default_factory=StepConfig)
    """The safe step."""
    ppo: PPOSettings = field(default_factory=PPOSettings)
    """The step ppo."""
    methods: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Options of methods from packages, by their names in order."""
    scorers: ScorerSettings | None = None
    """Train reward and cost models for ppo on pairs, in place of the world's programs."""
    peft: LoraSettings | None = None
    """Train a LoRA adapter, not all weights."""
    load_in_4bit: Flag = False
    """Train it on 4-bit weights (QLoRA, needs bitsandbytes)."""
    data: PreferenceSettings | None = None
    """In place of a world: a file of judged answers, which pairs for every step are made of, and
    whose held-out prompts the models are asked."""
    scoring: ScoringConfig | None = None
    """What judges the answers then."""
    bf16: Flag | None = None
    """bfloat16 for sampling and evaluation, and for training by autocast; null where the device has
    it natively."""
    trust_remote_code: Flag = False
    """Run code that comes with a model."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How answers are sampled for pairs."""
    evaluation: EvaluationConfig | None = field(default_factory=EvaluationConfig)
    """How the models are compared; null leaves it out."""

    def __post_init__(self) -> None:
        """Refuse the first field that is out of range."""
        refuse(_problems(self))

    def step(self, kind: Kind) -> StepConfig:
        """The settings of the steps of this kind."""
        return self.helpful if kind == "helpful" else self.safe

    def scoring_settings(self) -> ScoringConfig:
        """As given, else the defaults."""
        return self.scoring or ScoringConfig()

    def steps(self) -> list[tuple[str, StepKind]]:
        """Name and kind of the steps to do, in order; a kind's later rounds are numbered."""
        done: list[tuple[str, StepKind]] = []
        for kind in self.order:
            if not has_rows(kind) or not self.step(kind).skip:
                n = sum(other == kind for _, other in done) + 1
                name = kind.replace(":", ".")  # a folder's
                done.append((name if n == 1 else f"{name}-{n}", kind))
        return done

    def method_kinds(self) -> list[str]:
        """The methods with loops of their own among the steps."""
        return list(dict.fromkeys(kind for kind in self.order if not has_rows(kind)))

    def options(self, kind: str) -> Any:
        """A method's options."""
        if kind in METHODS:
            return getattr(self, kind)
        return parse(get_method(kind).options, self.methods.get(kind, {}))

    def pair_kinds(self, *, without_steps: bool = False) -> list[Kind]:
        """The kinds of pairs that the job needs; `without_steps` only those that methods do."""
        found: dict[Kind, None] = {}
        for _, kind in self.steps():
            if has_rows(kind) and not without_steps:
                found[kind] = None
        for kind in self.method_kinds():
            found |= dict.fromkeys(get_method(kind).pairs(self))
        return list(found)

    def step_beta(self, kind: Kind) -> float:
        """The temperature of this kind's loss: as given, else from the schedule."""
        given = self.step(kind).beta
        if given is not None:
            return given
        derived = temperatures(self.beta, self.lambda_, self.schedule)
        rounds = max(1, sum(other == kind for other in self.order))
        return rounds * (derived.helpful if kind == "helpful" else derived.safe)

    def tail_aim(self, name: str, kind: Kind) -> TailAim | None:
        """What the step called `name` asks of whole answers; None where it does not."""
        step = self.step(kind)
        if step.answer_risk is None:
            return None
        names = [other for other, of in self.steps() if of == kind]
        # A file's answers stay where they are, so that every round is solved for all of them.
        done = 0 if self.is_given(kind) or name not in names else names.index(name)
        return TailAim(
            risk=step.answer_risk,
            limit=step.limit,
            beta=self.step_beta(kind),
            gap_scale=step.gap_scale,
            rounds=max(1, len(names)) - done,
            ordered=step.target in ORDERED,
        )

    def is_given(self, kind: Kind) -> bool:
        """Whether this kind's rows are a file's, and not sampled."""
        step = self.step(kind)
        return step.data is not None or (self.data is not None and not step.own_answers)

    def own_answers(self) -> list[Kind]:
        """The kinds of steps that learn from their model's answers to a data set's prompts."""
        return [k for k in KINDS if k in self.pair_kinds() and self.step(k).own_answers]

    def step_sampling(self, kind: Kind) -> SamplingConfig:
        """How answers are sampled for this kind's pairs."""
        return self.step(kind).sampling or self.sampling


_OF_ONE_KIND: tuple[tuple[str, Kind, str], ...] = (
    ("answer_risk", "safe", "the costs"),
    ("limit", "safe", "the costs"),
    ("safe_cost", "helpful", "pairs by reward"),
)


def _problems(config: AlignConfig) -> Iterator[Problem]:
    template = config.chat_template
    yield from wrong(
        "chat_template",
        template is not None and not Path(template).is_file(),
        f"{template!r} is no file; give one that holds a Jinja template",
    )
    yield from wrong(
        "order", not config.order and config.sft is None, "is empty; list helpful, safe or ppo"
    )
    for name in config.methods:
        yield from wrong(
            f"methods.{name}", name not in config.order, "is given, and order does not have it"
        )
    for name in config.method_kinds():
        try:
            config.options(name)
        except FieldError as error:
            yield f"methods.{name}.{error.field}", error.problem
    if config.sft is not None:
        yield from wrong(
            "sft",
            config.world is None,
            "is given and there is no world to show demonstrations; name one, or set sft: null",
        )
        yield from wrong(
            "load_in_4bit", config.load_in_4bit, "does not go with sft, which merges its adapter"
        )
    for kind in ("helpful", "safe"):
        step = config.step(kind)
        for name, of, why in _OF_ONE_KIND:
            given = kind != of and getattr(step, name) is not None
            yield from wrong(f"{kind}.{name}", given, f"is of {why}; give {of}.{name}")
        wanted = kind in config.pair_kinds()
        if config.is_given(kind) and wanted:
            yield from wrong(
                f"{kind}.rows",
                step.rows == "groups",
                "is groups, which is how answers are sampled; a file says itself what it holds",
            )
            yield from wrong(
                f"{kind}.anchors",
                step.anchors > 0 and step.answer_risk is None,
                f"is above 0, which of a file's rows needs {kind}.answer_risk",
            )
        elif step.answer_risk is not None and wanted:
            sampling = config.step_sampling(kind)
            yield from wrong(
                f"{kind}.answer_risk",
                sampling.temperatures != (1.0,) or sampling.top_p < 1,
                "is the risk of the model's own answers; sample them with temperatures: [1.0] "
                "and top_p: 1.0",
            )
        yield from wrong(
            f"{kind}.own_answers",
            step.own_answers and (config.data is None or step.data is not None),
            "is true, which needs the job's data to label answers by, and no data of its own",
        )
        yield from wrong(
            f"{kind}.data",
            wanted and step.data is None and config.world is None and config.data is None,
            "is null and there is no world to make pairs in; give data, or world, or skip: true",
        )
    if config.data is not None:
        yield from _data_problems(config, config.data)
    yield from wrong(
        "scoring",
        config.scoring is not None and config.data is None,
        "is given and data is not; a world scores for itself",
    )
    yield from wrong(
        "order",
        bool(config.order) and not config.steps(),
        "leaves no step to do; every step in it has skip: true",
    )
    methods = ", ".join(config.method_kinds())
    for kind in config.pair_kinds(without_steps=True):
        yield from wrong(
            f"{kind}.rows",
            config.step(kind).rows == "groups",
            f"is groups, and {methods} takes pairs",
        )
        yield from wrong(
            f"{kind}.anchors",
            config.step(kind).anchors > 0,
            f"is above 0, and {methods} learns from ordered pairs",
        )
    for name in config.method_kinds():
        yield from get_method(name).problems(config)
    one_kind = len({kind for _, kind in config.steps()}) < 2
    yield from wrong(
        "merges", bool(config.merges) and one_kind, "needs steps of two kinds to lie between"
    )
    yield from wrong(
        "load_in_4bit",
        config.load_in_4bit and config.peft is None,
        "is true, and 4-bit weights cannot be trained themselves; give peft, such as peft: {r: 16}",
    )
    yield from wrong(
        "load_in_4bit", config.load_in_4bit and bool(methods), f"does not go with {methods} yet"
    )


def _data_problems(config: AlignConfig, data: PreferenceSettings) -> Iterator[Problem]:
    yield from wrong("data.path", data.path is None, "is null; give a file, a folder or a hub id")
    yield from wrong("world", config.world is not None, "is given beside data; set world: null")
    yield from wrong(
        "data.chat",
        bool(config.own_answers()) and not data.chat,
        "is false, and a model's own answers are to messages",
    )
    if config.evaluation is None:
        return
    scoring = config.scoring_settings()
    yield from wrong("data.chat", not data.chat, "is false, and an evaluation asks in messages")
    yield from wrong(
        "data.eval_fraction",
        data.eval_fraction == 0 and scoring.prompts is None,
        "is 0, which leaves no prompt to ask; raise it, give scoring.prompts, or evaluation: null",
    )
    for kind in ("reward", "cost"):
        yield from wrong(
            f"scoring.{kind}",
            getattr(scoring, kind) is None and data.scorer_fraction == 0,
            "is null and data.scorer_fraction is 0, so nothing can judge answers; give a scorer's "
            "folder, raise data.scorer_fraction, or set evaluation: null",
        )
