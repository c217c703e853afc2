"""What all stages of a job share: configuration, world, folder, ledger, manifest, progress."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from riskalign.data import Preferences
from riskalign.errors import InputError
from riskalign.files.atomic import remove
from riskalign.files.folder import hold
from riskalign.models import LoadedModel, fingerprint, load_model
from riskalign.pipeline import machine
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.given import given_data
from riskalign.pipeline.judged import (
    JudgedWorld,
    judged_world,
    labelling_world,
    preferences_of,
    trained_on,
)
from riskalign.pipeline.ledger import Ledger, Outcome
from riskalign.pipeline.manifest import Manifest, stage_seed
from riskalign.pipeline.outputs import inputs_of, outputs_of
from riskalign.pipeline.presets import method_name
from riskalign.pipeline.progress import Progress, Update
from riskalign.pipeline.settings import Kind
from riskalign.pipeline.sources import source_hash
from riskalign.plugin import files_of
from riskalign.worlds import Prompt, World, get_world, has_dev, max_cost_of
from riskalign.worlds.world import Split

Work = Callable[[str, Update], Outcome]  # from a stage's key and a way to tell how far it is


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


class Job:
    """One job in one folder; made, and its configuration checked, before any work.

    Holds the folder from then on until `recorded` ends.

    `given` are the pairs that steps bring, and `preferences` the judged answers of a job that has
    them. What jobs in the folders `siblings` have done from the same inputs is not done again.
    `inputs` are models that are measured, with which the job trains none.
    """

    def __init__(
        self,
        config: AlignConfig,
        progress: Progress,
        title: str | None,
        command: str | None,
        siblings: Sequence[Path] = (),
        preferences: Preferences | None = None,
        given: Mapping[Kind, Dataset] | None = None,
        inputs: Mapping[str, str | None] | None = None,
    ) -> None:
        self.config = config
        self.progress = progress
        # What the model after the last step is called. Averages of weights are models of their own.
        self.method: str | None = method_name(dataclasses.replace(config, merges=()))
        self.title = title or method_name(config)
        self.folder = Path(config.output_dir).expanduser()
        self.command = command or f"riskalign align --config {self.folder / 'config.yaml'}"
        self.preferences = preferences
        self.notes: list[str] = []
        self.start: LoadedModel | None = None  # loaded before the job was made, until it is used
        self.chat_template = chat_template_of(config)
        self.trained_on: set[str] = set()
        self.world: World | None
        if preferences is None:
            self.world = _needed_world(config)
        else:
            own = (given or {}).values()
            self.trained_on = trained_on(preferences, own)
            self.world = judged_world(config, preferences, own, self.folder)
        self.labelling: JudgedWorld | None = None
        if preferences is not None and config.own_answers():
            self.labelling = labelling_world(preferences, self.folder)
        self.max_cost = None if self.world is None else max_cost_of(self.world)
        self.eval_prompts: list[Prompt] = []
        if self.world is not None and config.evaluation is not None:
            self.eval_prompts = evaluation_prompts(config, self.world)
            if preferences is None:  # scorers may be yet to train
                _check_world(self.world, self.eval_prompts, config.evaluation.prompts)
        outputs = outputs_of(config, trains=inputs is None)
        read = {**inputs_of(config), **(inputs or {})}
        with contextlib.ExitStack() as stack:
            stack.enter_context(hold(self.folder, outputs, read))
            machine.check_folder(self.folder)
            self.ledger = Ledger(self.folder, siblings)
            self.manifest = Manifest(self.folder, config, self.command)
            self._holding = stack.pop_all()

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Note in the manifest how the job ends; say it plainly when the disk is full."""
        with self._holding, self._noted():
            yield

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
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
                f"output_dir {str(self.folder)!r}: the disk is full. Free some space and run the "
                "same command again: finished stages are kept, nothing is half-written."
            ) from error
        self.manifest.end("finished")

    def _kept(self) -> str:
        """What an interruption leaves to go on from."""
        steps = [
            f"{path.parents[1].name} to {path.name.replace('-', ' ')}"
            for path in sorted(self.folder.glob("*/checkpoints/checkpoint-*"))
        ]
        found = [*self.manifest.content["stages"], *steps]
        return f"kept in {self.folder}: {', '.join(found) or 'nothing yet'}"

    def stage(
        self, name: str, inputs: Mapping[str, Any], work: Work, scratch: Path | None = None
    ) -> Outcome:
        """The outcome of a stage, which is done unless it is finished with the same inputs.

        `scratch`, what an interrupted stage goes on from, goes once the ledger knows the stage.
        """
        template = {} if self.chat_template is None else {"chat_template": self.chat_template}
        key = self.ledger.key(name, {**inputs, **template})
        self.progress.stage(name)
        outcome = self.ledger.find(name, key)
        reused = outcome is not None
        if outcome is None:
            outcome = self.ledger.run(
                name,
                key,
                lambda: work(key, lambda n, total, note: self.progress.update(n, note, total)),
            )
        if scratch is not None:
            remove(scratch)
        self.progress.done("done before" if reused else "")
        self.manifest.note("stages", name, {"key": key, "reused": reused, **outcome})
        return outcome

    def note(self, sentence: str) -> None:
        """Keep a sentence that the report must have."""
        self.notes.append(sentence)
        self.manifest.content["notes"] = self.notes
        self.manifest.write()

    def log(self, folder: Path) -> list[dict[str, Any]]:
        """A trained step's log, from its folder."""
        found: list[dict[str, Any]] = json.loads((folder / "log.json").read_text("utf-8"))
        return found

    def seed(self, stage: str) -> int:
        """The stage's own seed, noted in the manifest."""
        seed = stage_seed(self.config, stage)
        self.manifest.note("seeds", stage, seed)
        return seed

    def relative(self, path: Path) -> str:
        """A path below the job's folder, as the ledger lists it."""
        return path.relative_to(self.folder).as_posix()

    def world_identity(self) -> dict[str, Any]:
        """What decides the world's prompts and scores."""
        if isinstance(self.world, JudgedWorld):
            return self.world.identity()
        return world_identity(self.config.world, self.world)


def evaluation_prompts(config: AlignConfig, world: World | None = None) -> list[Prompt]:
    """The prompts that a job's models are measured on, the same for the same configuration.

    Of a data set they are at most as many as `evaluation.prompts` says.

    Raises:
        InputError: the job has no evaluation, or neither a world nor judged answers, or these hold
            out fewer than the 2 prompts that an interval takes.
    """
    if world is None and (preferences := preferences_of(config)) is not None:
        given = given_data(config, preferences).values()
        world = judged_world(config, preferences, given, Path(config.output_dir).expanduser())
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


def chat_template_of(config: AlignConfig) -> str | None:
    """The text of the template that a job gives its model, if it gives one."""
    path = config.chat_template
    return None if path is None else Path(path).read_text(encoding="utf-8")


def world_identity(spec: str | None, world: World | None) -> dict[str, Any]:
    """What decides a world's prompts and scores, as far as can be known: name and source.

    A world in a package may lean on its neighbours, so all files beside it count.
    """
    files = files_of(type(getattr(world, "unguarded", world)).__module__)
    return {"spec": spec, "sources": {path.name: source_hash(path) for path in files}}


def _needed_world(config: AlignConfig) -> World | None:
    ppo = any(kind == "ppo" for _, kind in config.steps())
    needed = (
        config.evaluation is not None
        or ppo
        or config.sft is not None
        or any(config.step(kind).data is None for kind in config.pair_kinds())
    )
    return get_world(config.world) if config.world is not None and needed else None


def _check_world(world: World, prompts: list[Prompt], wanted: int) -> None:
    """Find a broken world before hours of training rather than after."""
    ids = {prompt.id for prompt in prompts}
    if len(prompts) != wanted or len(ids) != wanted:
        raise InputError(
            f"world {world.name!r}: asked for {wanted} evaluation prompts, it gave "
            f"{len(prompts)} with {len(ids)} different ids. Lower evaluation.prompts or mend it."
        )
    for name, score in (("reward", world.reward), ("cost", world.cost)):
        value = score(prompts[0], "")
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(
                f"world {world.name!r}: its {name} of an empty answer is {value!r}, not a number."
            )
