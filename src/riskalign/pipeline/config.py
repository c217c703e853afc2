"""`AlignConfig`: everything that decides what the steps do; checked before work starts."""

from collections.abc import Iterator
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from riskalign.data import PreferenceSettings
from riskalign.errors import FieldError
from riskalign.losses import ORDERED
from riskalign.pipeline.launch import LaunchConfig
from riskalign.pipeline.methods import KINDS, METHODS, get_method, has_rows
from riskalign.pipeline.schedule import Schedule, temperatures
from riskalign.pipeline.settings import (
    BudgetConfig,
    EvaluationConfig,
    Kind,
    LoraSettings,
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
from riskalign.settings import LISTED, Flag, Name, Positive, Seed, Words, parse, refuse, settings


@settings
class AlignConfig:
    """A whole job.

    A kind of step may come again (`order: [helpful, safe, safe]`), on pairs sampled anew or a
    file's again; the temperatures of `n` rounds are `n` times as high, to tilt as far as one.

    Raises `InputError`, naming the field, for a value out of range.
    """

    model: Name = "smollm2-135m"
    """The start model: a hub id, a folder, or a GGUF file."""
    chat_template: Words | None = None
    """A Jinja file, for a model whose tokenizer has none."""
    output_dir: Name = "runs/align"
    """Folder of the run."""
    seed: Seed = 0
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
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """How answers are sampled for pairs."""
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
    """In place of a world: a file of judged answers, for all steps' pairs and held-out prompts."""
    scoring: ScoringConfig | None = None
    """What judges the answers then."""
    bf16: Flag | None = None
    """bfloat16, in training by autocast; null where the device has it natively."""
    trust_remote_code: Flag = False
    """Run code that comes with a model."""
    launch: LaunchConfig | None = None
    """Train, sample and measure in several processes; null for this one alone."""
    evaluation: EvaluationConfig | None = field(default_factory=EvaluationConfig)
    """How the models are compared; null leaves it out."""
    budget: BudgetConfig | None = None
    """A limit on the risk: the most helpful point of the dial that surely keeps it is certified."""

    def __post_init__(self) -> None:
        """Refuse the first field that does not go with the others."""
        refuse((name, why) for name, is_wrong, why in _rules(self) if is_wrong)

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

    def lambdas(self) -> dict[str, float]:
        """Larger multipliers that a budget is tested at as well, the largest first, and names."""
        given = () if self.budget is None else self.budget.lambdas
        return {f"lambda-{each:g}": each for each in sorted(set(given), reverse=True)}

    def multiplied(self) -> dict[str, dict[str, str]]:
        """For each of `lambdas`: the job's steps that are done again, and what they are called."""
        steps = [name for name, kind in self.steps() if kind == "safe"]
        return {each: {step: f"{step}-{each}" for step in steps} for each in self.lambdas()}

    def budget_settings(self, *, baked: bool = False) -> list[tuple[str, float | None]]:
        """What a budget is tested on, the safest first: names, and points of the dial.

        With `baked` they are averages of weights. Models of `lambdas` are no points: None.
        """
        kinds = list(dict.fromkeys(kind for _, kind in self.steps()))
        if self.budget is None:
            return []
        points = self.budget.settings
        if not points:
            points = tuple(i / 10 for i in range(10, -1, -1)) if len(kinds) > 1 else (1.0,)
            points = points[::-1] if kinds[-1] == "helpful" and len(kinds) > 1 else points
        names, between = {0.0: "step1", 1.0: "final"}, "merge" if baked else "dial"
        dial = [(names.get(w, f"{between}-{w:g}"), w) for w in dict.fromkeys(points)]
        return [*((name, None) for name in self.lambdas() if not baked), *dial]

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
        steps = () if without_steps else (kind for _, kind in self.steps() if has_rows(kind))
        asked = (kind for name in self.method_kinds() for kind in get_method(name).pairs(self))
        return list(dict.fromkeys((*steps, *asked)))

    def step_beta(self, kind: Kind) -> float:
        """The temperature of this kind's loss: as given, else from the schedule."""
        if (given := self.step(kind).beta) is not None:
            return given
        derived = temperatures(self.beta, self.lambda_, self.schedule)
        return max(1, self.order.count(kind)) * derived[kind == "safe"]

    def tail_aim(self, name: str, kind: Kind) -> TailAim | None:
        """What the step called `name` asks of whole answers; None where it does not."""
        step = self.step(kind)
        if step.answer_risk is None:
            return None
        names = [other for other, of in self.steps() if of == kind]
        # A file's answers stay where they are, so that every round is solved for all of them.
        done = 0 if self.is_given(kind) or name not in names else names.index(name)
        rounds, ordered = max(1, len(names)) - done, step.target in ORDERED
        beta = self.step_beta(kind)
        return TailAim(step.answer_risk, step.limit, beta, step.gap_scale, rounds, ordered)

    def is_given(self, kind: Kind) -> bool:
        """Whether this kind's rows are a file's, and not sampled."""
        step = self.step(kind)
        return step.data is not None or (self.data is not None and not step.own_answers)

    def own_answers(self) -> list[Kind]:
        """The kinds of steps that learn from their model's answers to a data set's prompts."""
        return [kind for kind in sorted(self.pair_kinds()) if self.step(kind).own_answers]

    def step_sampling(self, kind: Kind) -> SamplingConfig:
        """How answers are sampled for this kind's pairs."""
        return self.step(kind).sampling or self.sampling


Rules = Iterator[tuple[str, object, str]]  # a field, whether it is wrong, and why


def _rules(config: AlignConfig) -> Rules:
    """What does not go with other fields."""
    order, kinds, template = config.order, {k for _, k in config.steps()}, config.chat_template
    methods, four_bits = ", ".join(config.method_kinds()), config.load_in_4bit
    no_file = template is not None and not Path(template).is_file()
    yield "chat_template", no_file, f"{template!r} is no file; give one of a Jinja template"
    yield "order", not (config.sft or order), "is empty; list helpful, safe or ppo"
    for name in config.methods:
        yield f"methods.{name}", name not in order, "is given, and order does not have it"
    for name in config.method_kinds():
        try:
            config.options(name)
        except FieldError as error:
            yield f"methods.{name}.{error.field}", True, error.problem
    if config.sft is not None:
        yield "sft", config.world is None, "needs a world's demonstrations; name one, or sft: null"
        yield "load_in_4bit", four_bits, "does not go with sft, which merges its adapter"
    for kind in KINDS:
        for name, is_wrong, why in _step_rules(config, kind):
            yield f"{kind}.{name}", is_wrong, why
    if config.data is not None:
        yield from _data_rules(config, config.data)
    else:
        yield "scoring", config.scoring, "is given and data is not; a world scores for itself"
    yield "order", order and not kinds, "leaves no step to do; every step in it has skip: true"
    for kind in config.pair_kinds(without_steps=True):
        step = config.step(kind)
        yield f"{kind}.rows", step.rows == "groups", f"is groups, and {methods} takes pairs"
        yield f"{kind}.anchors", step.anchors, f"is above 0, and {methods} learns from an order"
    for name in config.method_kinds():
        for field_name, why in get_method(name).problems(config):
            yield field_name, True, why
    yield "merges", config.merges and len(kinds) < 2, "needs steps of two kinds to lie between"
    if config.budget is not None:
        why = "needs an evaluation, which says how models are asked and measures the choice afresh"
        yield "budget", config.evaluation is None, why
        for name in ("settings", "baked"):
            lone = getattr(config.budget, name) and len(kinds) < 2
            yield f"budget.{name}", lone, "needs steps of two kinds to lie between"
        for is_wrong, why in _lambda_rules(config, config.budget) if config.budget.lambdas else ():
            yield "budget.lambdas", is_wrong, why
    yield from _launch_rules(config, methods)
    if four_bits:
        why = "is true, and 4-bit weights cannot be trained; give peft: {r: 16}"
        yield "load_in_4bit", config.peft is None, why
        yield "load_in_4bit", methods, f"does not go with {methods} yet"


def _lambda_rules(config: AlignConfig, budget: BudgetConfig) -> Iterator[tuple[object, str]]:
    kinds = [kind for _, kind in config.steps()]
    first = kinds.index("safe") if "safe" in kinds else 0
    least, beyond = min(budget.lambdas), any(w > 1 for w in budget.settings)
    yield set(kinds[first:]) != {"safe"}, "needs the safe steps to be the last ones of order"
    yield least <= config.lambda_, f"has {least:g}, which is not above lambda_: {config.lambda_:g}"
    yield config.schedule == "both", "is of the safe step alone, and schedule both moves both steps"
    alike = len(config.lambdas()) < len(set(budget.lambdas))
    yield alike, "has two that are the same in six digits, by which their models are called"
    for name in ("beta", "limit"):
        given = getattr(config.safe, name) is not None
        yield given, f"says how much costs weigh, and so does safe.{name}; give one"
    yield beyond, "are the safe end in place of settings beyond 1; give either"


def _launch_rules(config: AlignConfig, methods: str) -> Rules:
    launch = None if config.launch is None else config.launch.resolved()
    for name in ("sft", *KINDS):
        step = getattr(config, name)
        for engine, file in ({} if step is None else step.engine_files()).items():
            yield f"{name}.{engine}", not file.is_file(), f"{str(file)!r} is no file"
        lost = step is not None and step.fsdp_config is not None and not step.fsdp
        yield f"{name}.fsdp_config", lost, "is given, which needs fsdp: true"
    if launch is not None:
        why = f"is given, and {methods} has a loop of its own for one process; set launch: null"
        yield "launch", methods and launch.processes > 1, why
        return
    for name in ("sft", *KINDS):
        step = getattr(config, name)
        for engine in () if step is None else ("fsdp", "deepspeed"):
            why = "shards over processes, and launch is null; give launch: {processes: 2} or so"
            yield f"{name}.{engine}", engine in step.engine(), why


def _step_rules(config: AlignConfig, kind: Kind) -> Rules:
    step, wanted, other = config.step(kind), kind in config.pair_kinds(), KINDS[kind == "helpful"]
    for name in ("safe_cost",) if kind == "safe" else ("answer_risk", "limit"):
        why = f"is of the {other} step; give {other}.{name}"
        yield name, getattr(step, name) is not None, why
    if wanted and config.is_given(kind):
        why = "is groups, which is how answers are sampled; a file has its own"
        yield "rows", step.rows == "groups", why
        unsolved = step.anchors > 0 and step.answer_risk is None
        yield "anchors", unsolved, f"is above 0, which for a file needs {kind}.answer_risk"
    elif wanted:
        sampling = config.step_sampling(kind)
        others = sampling.temperatures != (1.0,) or sampling.top_p < 1
        why = "is the risk of the model's own answers; sample with temperatures: [1.0], top_p: 1.0"
        yield "answer_risk", step.answer_risk is not None and others, why
    unlabelled = step.own_answers and (config.data is None or step.data is not None)
    lost = "needs the job's data to label answers by, and no data of its own"
    yield "own_answers", unlabelled, lost
    nothing = wanted and step.data is None and config.world is None and config.data is None
    yield "data", nothing, "is null and there is no world for pairs; give either, or skip: true"


def _data_rules(config: AlignConfig, data: PreferenceSettings) -> Rules:
    scoring, otherwise = config.scoring_settings(), "or evaluation: null"
    yield "data.path", data.path is None, "is null; give a file, a folder or a hub id"
    yield "world", config.world is not None, "is given beside data; set world: null"
    why = "is false, and a model's own answers are to messages"
    yield "data.chat", config.own_answers() and not data.chat, why
    if config.evaluation is None:
        return
    why = f"is false, and an evaluation asks in messages; true, {otherwise}"
    yield "data.chat", not data.chat, why
    why = f"is 0, which leaves no prompt to ask; raise it, give scoring.prompts, {otherwise}"
    yield "data.eval_fraction", data.eval_fraction == 0 and scoring.prompts is None, why
    for kind in ("reward", "cost"):
        unjudged = getattr(scoring, kind) is None and data.scorer_fraction == 0
        why = "is null and data.scorer_fraction is 0, so nothing judges answers; give a scorer's "
        yield f"scoring.{kind}", unjudged, f"{why}folder, raise data.scorer_fraction, {otherwise}"
