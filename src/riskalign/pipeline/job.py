"""What all stages of a job share: configuration, data, world, folder, ledger, manifest."""

import contextlib
import dataclasses
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from riskalign.data import Tokenized
from riskalign.errors import InputError
from riskalign.evaluation import UNSAFE, Bounded
from riskalign.files.atomic import remove
from riskalign.files.folder import Outputs, check_outputs, hold
from riskalign.models import LoadedModel, fingerprint, load_model
from riskalign.pipeline import machine
from riskalign.pipeline.conduct import Workers
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.given import JobData, given_data
from riskalign.pipeline.judged import (
    SCORED,
    JudgedWorld,
    judged_world,
    labelling_world,
    preferences_of,
    trained_on,
)
from riskalign.pipeline.ledger import Ledger, Manifest, Outcome, Work, stage_seed
from riskalign.pipeline.methods import KINDS, get_method, has_rows
from riskalign.pipeline.presets import method_name
from riskalign.pipeline.progress import Progress, Silent, Update
from riskalign.pipeline.settings import BudgetConfig
from riskalign.pipeline.sources import source_hash
from riskalign.plugin import files_of, outside
from riskalign.worlds import Prompt, World, get_world, has_dev, max_cost_of
from riskalign.worlds.world import Split


@dataclass(frozen=True)
class ModelOnDisk:
    """A model by name or folder, and the fingerprint of the weights that it must have."""

    name: str
    weights: str
    trust_remote_code: bool
    chat_template: str | None = None

    def load(self) -> LoadedModel:
        """Load it; raise `InputError` when its weights are others by now."""
        loaded = load_model(self.name, trust_remote_code=self.trust_remote_code)
        if fingerprint(loaded.model) != self.weights:
            raise InputError(f"model {self.name!r}: its weights changed while the job ran.")
        if self.chat_template is not None:
            loaded.tokenizer.chat_template = self.chat_template
        return loaded


class InMemory:
    """Models ready for inference: those asked for last stay in memory, and `always`."""

    def __init__(self, models: Mapping[str, ModelOnDisk], bf16: bool, always: str) -> None:
        self._models, self._bf16, self._always = models, bf16, always
        self._kept: dict[str, LoadedModel] = {}

    def __call__(self, *names: str) -> list[LoadedModel]:
        """The models of these names."""
        self._kept = {k: kept for k, kept in self._kept.items() if k in (*names, self._always)}
        for name in names:
            if name not in self._kept:
                loaded = self._models[name].load()
                machine.for_inference(loaded, self._bf16)  # in place
                self._kept[name] = loaded
        return [self._kept[name] for name in names]

    def kept(self) -> list[Any]:
        """The models in memory."""
        return [kept.model for kept in self._kept.values()]


class Job:
    """One job in one folder; made, and its configuration checked, before anything is written.

    Within `recorded` it holds the folder, with its `ledger` and `manifest`. What jobs in the
    folders `siblings` have done from the same inputs is not done again. `measured` are models, by
    the names of flags, that a job measures which trains none.
    """

    manifest: Manifest

    def __init__(
        self,
        config: AlignConfig,
        data: JobData,
        progress: Progress | None,
        title: str | None = None,
        command: str | None = None,
        siblings: Sequence[Path] = (),
        measured: Mapping[str, str | None] | None = None,
    ) -> None:
        self.config, self.data = config, data
        self.progress = progress or Silent()
        # What the model after the last step is called. Averages of weights are models of their own.
        self.method: str | None = method_name(dataclasses.replace(config, merges=()))
        self.title = title or method_name(config)
        self.folder = Path(config.output_dir).expanduser()
        self.command = command or f"riskalign align --config {self.folder / 'config.yaml'}"
        self.bf16 = machine.use_bf16(config.bf16)
        self.measured = measured
        self.launch = None if config.launch is None else config.launch.resolved()
        if self.launch is not None:
            self.launch.check_machine()
            self.launch.check_precision(self.bf16)
        self.workers: Workers | None = None
        self.notes: list[str] = []
        self.stages: dict[str, Outcome] = {}  # finished ones, in order
        self.scorers: dict[str, Mapping[str, float]] = {}
        self.tokenized: dict[str, Tokenized] = {}  # given rows, by their field
        template = config.chat_template
        self.chat_template = template and Path(template).read_text(encoding="utf-8")
        self.trained_on: set[str] = set()
        self.world: World | None
        self.labelling: JudgedWorld | None = None
        if data.preferences is None:
            self.world = _needed_world(config)
        else:
            self.trained_on = trained_on(data.preferences, data.given.values())
            self.world = judged_world(config, data.preferences, self.trained_on, self.folder)
            if config.own_answers():
                self.labelling = labelling_world(data.preferences, self.folder)
        self.max_cost = None if self.world is None else max_cost_of(self.world)
        self.eval_prompts: list[Prompt] = []
        if self.world is not None and config.evaluation is not None:
            self.eval_prompts = evaluation_prompts(config, self.world)
            if data.preferences is None:  # scorers may be yet to train
                for score in (self.world.reward, self.world.cost):  # or a broken one is found late
                    score(self.eval_prompts[0], "")
        self.calibration: list[Prompt] = []
        if self.world is not None and config.budget is not None:
            self.calibration = calibration_prompts(config, self.world, self.eval_prompts)
            self.bounded(config.budget)
        self._outputs = outputs_of(config, trains=measured is None)
        self._inputs = {**inputs_of(config), **(measured or {})}
        self._siblings, self.ledger = siblings, Ledger(self.folder, siblings)
        check_outputs(self.folder, self._outputs, self._inputs)

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Hold the folder; note in the manifest how the job ends, plainly when the disk is full."""
        with hold(self.folder, self._outputs, self._inputs):
            machine.check_folder(self.folder)
            self.ledger = Ledger(self.folder, self._siblings)
            self.manifest = Manifest(self.folder, self.config, self.command)
            if self.launch is not None:
                self.workers = Workers(self.launch, self.folder)
            try:
                with contextlib.ExitStack() as stack:
                    if self.workers is not None:
                        stack.callback(self.workers.stop)
                    yield
            except KeyboardInterrupt as stop:
                self.manifest.end("interrupted")
                stop.args = (self._kept(),)
                raise
            except Exception as error:
                if not machine.is_disk_full(error):
                    self.manifest.end("failed", f"{type(error).__name__}: {error}")
                    raise
                raise InputError(
                    f"output_dir {str(self.folder)!r}: the disk is full. Free some space and run "
                    "the same command again: finished stages are kept, nothing is half-written."
                ) from error
            self.manifest.end("finished")

    def bounded(self, budget: BudgetConfig) -> Bounded:
        """How the limits of a budget are tested.

        Raises `InputError` where a largest cost is missing, or no prompt has a limit's category.
        """
        bounded = budget.bounded(self.max_cost)
        risks = [limit.risk for limit in budget.all_limits() if limit.risk != UNSAFE]
        if bounded.max_cost is None and risks:
            raise InputError(
                f"budget.max_cost: is null, and the world does not say its largest cost, without "
                f"which no bound on {risks[0]} holds for every distribution. Give it, or limit "
                "unsafe_rate."
            )
        known = {prompt.facts.get("category") for prompt in self.calibration}
        for limit in budget.all_limits():
            if limit.category is not None and limit.category not in known:
                named = ", ".join(sorted(str(each) for each in known - {None})) or "none"
                raise InputError(
                    f"budget.limits: no calibration prompt is of the category {limit.category!r}; "
                    f"the world's prompts have the fact 'category' with {named}."
                )
        return bounded

    def _kept(self) -> str:
        """What an interruption leaves to go on from."""
        steps = [
            f"{path.parents[1].name} to {path.name.replace('-', ' ')}"
            for path in sorted(self.folder.glob("*/checkpoints/checkpoint-*"))
        ]
        return f"kept in {self.folder}: {', '.join([*self.stages, *steps]) or 'nothing yet'}"

    def stage(
        self,
        name: str,
        inputs: Mapping[str, Any],
        work: Work,
        *,
        code: Iterable[str] = (),
        scratch: Path | None = None,
    ) -> Outcome:
        """The outcome of a stage, which is done unless it is finished with the same inputs.

        What `code` names in a user's own packages counts among them. `scratch`, what an interrupted
        stage goes on from, goes once the ledger knows the stage.
        """
        inputs = dict(inputs)
        if self.chat_template is not None:
            inputs["chat_template"] = self.chat_template
        if hashes := outside(code):
            inputs["outside"] = hashes

        def done(key: str, update: Update) -> Outcome:
            if self.workers is None:
                return work(key, update)
            self.workers.peak = 0.0
            found = work(key, update)
            return {**found, **({"worker_peak_megabytes": p} if (p := self.workers.peak) else {})}

        key, reused, outcome = self.ledger.stage(name, inputs, self.progress, done)
        if scratch is not None:
            remove(scratch)
        self.stages[name] = outcome
        self.manifest.note("stages", name, {"key": key, "reused": reused, **outcome})
        return outcome

    def note(self, sentence: str) -> None:
        """Keep a sentence that the report must have."""
        self.notes.append(sentence)
        self.manifest.content["notes"] = self.notes
        self.manifest.write()

    def note_scorer(self, name: str, quality: Mapping[str, float]) -> None:
        """Keep how well a scorer of this job does on what it did not learn from."""
        self.scorers[name] = quality
        self.manifest.note("models", name, quality)

    def seed(self, stage: str) -> int:
        """The stage's own seed, noted in the manifest."""
        seed = stage_seed(self.config, stage)
        self.manifest.note("seeds", stage, seed)
        return seed

    def world_identity(self) -> dict[str, Any]:
        """What decides the world's prompts and scores."""
        if isinstance(self.world, JudgedWorld):
            return self.world.identity()
        return world_identity(self.config.world, self.world)


def evaluation_prompts(config: AlignConfig, world: World | None = None) -> list[Prompt]:
    """The prompts that a job's models are measured on, the same for the same configuration.

    Of a data set they are at most as many as `evaluation.prompts` says.

    Raises `InputError`: the job has no evaluation, or neither a world nor judged answers, or these
    hold out fewer than the 2 prompts that an interval takes.
    """
    if world is None and (preferences := preferences_of(config)) is not None:
        learnt = trained_on(preferences, given_data(config, preferences)[0].values())
        world = judged_world(config, preferences, learnt, Path(config.output_dir).expanduser())
    if world is None and config.world is not None:
        world = get_world(config.world)
    if world is None or config.evaluation is None:
        raise InputError("world, evaluation: the job has none, so it asks no evaluation prompts.")
    split: Split = config.evaluation.split
    seed = stage_seed(config, "evaluate" if split == "eval" else "develop")
    if split == "dev" and not has_dev(world):
        # The pairs' seeds differ from this one, so that these are other prompts.
        split = "train"
    n = config.evaluation.prompts
    if isinstance(world, JudgedWorld):
        n = min(n, world.count(split))
        if n < 2:
            raise InputError(
                f"evaluation: there are {n} prompts to ask, beside {world.left_out} that training "
                "has, and intervals take 2. Raise data.eval_fraction, give (more) "
                "scoring.prompts, or set evaluation: null."
            )
    return world.prompts(split, n, seed)


def calibration_prompts(
    config: AlignConfig, world: World, evaluated: Sequence[Prompt]
) -> list[Prompt]:
    """Prompts that limits are tested on, drawn as those of the evaluation, and none of those.

    Of a data set they are at most as many as `budget.prompts` says.

    Raises `InputError` where there are fewer than 2.
    """
    budget, evaluation = config.budget, config.evaluation
    assert budget is not None
    assert evaluation is not None
    split: Split = evaluation.split
    if split == "dev" and not has_dev(world):
        split = "train"
    n = budget.prompts + len(evaluated)
    if isinstance(world, JudgedWorld):
        n = world.count(split)
    taken = {prompt.id for prompt in evaluated}
    seed = stage_seed(config, "evaluate" if evaluation.split == "eval" else "develop")
    drawn = [prompt for prompt in world.prompts(split, n, seed) if prompt.id not in taken]
    if len(drawn) > budget.prompts:
        drawn = random.Random(stage_seed(config, "calibrate")).sample(drawn, budget.prompts)
    if len(drawn) < 2:
        raise InputError(
            f"budget: the evaluation leaves {len(drawn)} prompts to test limits on. Raise "
            "data.eval_fraction, lower evaluation.prompts, or set budget: null."
        )
    return drawn


def world_identity(spec: str | None, world: World | None) -> dict[str, Any]:
    """What decides a world's prompts and scores, as far as can be known: name and source.

    A world in a package may lean on its neighbours, so all files beside it count.
    """
    files = files_of(type(getattr(world, "unguarded", world)).__module__)
    return {"spec": spec, "sources": {path.name: source_hash(path) for path in files}}


def _needed_world(config: AlignConfig) -> World | None:
    needed = (
        config.evaluation is not None
        or config.sft is not None
        or bool(config.method_kinds())
        or any(config.step(kind).data is None for kind in config.pair_kinds())
    )
    return get_world(config.world) if config.world is not None and needed else None


def outputs_of(config: AlignConfig, *, trains: bool = True) -> Outputs:
    """All that a job may write below its folder; without `trains`, one that only measures."""
    files = ["manifest.json", "config.yaml", "finished.json"]
    if config.evaluation is not None:
        files += ["results.json", "report.html", "rare.json"]
        scored = ["start", "step1", "final", "rare", *(f"merge-{w:g}" for w in config.merges)]
        scored += [f"dial-{w:g}" for w in config.evaluation.dial]
        files += [f"evaluation/{name}.jsonl" for name in scored]
        if config.budget is not None:
            files += ["certificate.json", "evaluation/certified.jsonl"]
            points = config.budget_settings()
            if config.budget.baked:
                files += ["certificate-baked.json", "evaluation/baked.jsonl"]
                points += config.budget_settings(baked=True)
            files += [f"calibration/{name}.jsonl" for name in dict(points)]
    if not trains:
        return Outputs(files)
    trees = ["model"]
    if config.data is not None and config.evaluation is not None:
        scoring = config.scoring_settings()
        trees += [f"scorers/{kind}" for kind in SCORED if getattr(scoring, kind) is None]
    if config.own_answers():
        trees += [f"labellers/{kind}" for kind in SCORED]
    again = [name for own in config.multiplied().values() for name in own.values()]
    names = [*(name for name, _ in config.steps()), *again]
    for name in names if config.sft is None else ["sft", *names]:
        files.append(f"{name}/log.json")
        trees += [f"{name}/{tree}" for tree in ("model", "adapter", "checkpoints")]
    for name, kind in config.steps():
        if not has_rows(kind):
            method = get_method(kind)
            trees += [f"{name}/{tree}" for tree in method.trees]
            files += [f"pairs/{name}-{of}.jsonl" for of in method.pairs(config)]
        elif not config.is_given(kind):
            files.append(f"pairs/{name}.jsonl")
    if not config.is_given("safe"):
        files += [f"pairs/{name}.jsonl" for name in again]
    return Outputs(files, trees)


def inputs_of(config: AlignConfig) -> dict[str, str | None]:
    """The names of files and folders that a job reads, by field; some may be hub ids or None."""
    found = {"model": config.model, "chat_template": config.chat_template}
    for kind in KINDS:
        step = config.step(kind)
        found |= {f"{kind}.data": step.data, f"{kind}.eval_data": step.eval_data}
    for group, names in (
        ("data", ("path", "safe_path")),
        ("scoring", (*SCORED, "encoder", "prompts")),
    ):
        if (settings := getattr(config, group)) is not None:
            found |= {f"{group}.{name}": getattr(settings, name) for name in names}
    return found
