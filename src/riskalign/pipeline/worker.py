"""One of the processes that a job starts by `accelerate launch`: its share of what it is asked.

python -m riskalign.pipeline.worker FOLDER, where the folder holds what `conduct` says. Workers
write there and to a step's checkpoints, never what the job knows itself by.
"""

import dataclasses
import itertools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import distributed
from transformers import AutoTokenizer

from riskalign.data import PairCounts, Tokenized
from riskalign.errors import InputError
from riskalign.files.atomic import write_json_lines, write_text
from riskalign.files.folder import lent
from riskalign.files.ranks import place as rank_and_number
from riskalign.pipeline import machine
from riskalign.pipeline.conduct import END, RAISED, WATCHED
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.fit import Fit, fit, fitted
from riskalign.pipeline.given import JobData, read_data
from riskalign.pipeline.job import InMemory, Job, ModelOnDisk
from riskalign.pipeline.parse import load_config
from riskalign.pipeline.parts import Asked, drawn, measured
from riskalign.pipeline.progress import Update, quiet_libraries
from riskalign.pipeline.settings import EvaluationConfig, SamplingConfig
from riskalign.pipeline.sft import tune
from riskalign.settings import parse
from riskalign.worlds import Prompt

_OFTEN = 0.1  # seconds between two files of progress


class Told:
    """Tells the job how far a worker is, not too often; the last position by `flush`."""

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, -_OFTEN
        self._last: dict[str, Any] | None = None

    def __call__(self, n: int, total: int, note: str) -> None:
        self._last = {"n": n, "of": total, "note": note}
        if time.monotonic() - self._at >= _OFTEN:
            self.flush()

    def flush(self) -> None:
        """Write the last position, if it is not there yet."""
        if self._last is not None:
            write_text(self._path, json.dumps(self._last))
            self._last, self._at = None, time.monotonic()


@dataclasses.dataclass(frozen=True)
class Worker:
    """A worker's place among those of its request, and what they are asked."""

    folder: Path
    rank: int
    processes: int
    config: AlignConfig
    asked: Mapping[str, Any]
    measured: Mapping[str, str | None] | None
    kept: dict[str, Any]
    """What the last request had made, for those that need the same."""
    update: Update

    def job(self) -> Job:
        """The job as its own process has it, to ask its world and prompts."""
        asked = self.config, self.measured
        if self.kept.get("asked") != asked:
            data = JobData() if self.config.data is None else read_data(self.config)
            job = Job(self.config, data, None, measured=self.measured)
            self.kept.update(asked=asked, job=job)
        found: Job = self.kept["job"]
        return found

    def models(self, known: Mapping[str, ModelOnDisk], bf16: bool) -> InMemory:
        """Models to ask; those of the last request where they are the same ones."""
        if self.kept.get("known") != known:
            self.kept.update(known=known, models=InMemory(known, bf16, always="start"))
        found: InMemory = self.kept["models"]
        return found

    def write(self, found: Iterable[tuple[int, Any]]) -> None:
        """Leave what this worker found."""
        write_json_lines(self.folder / f"shard-{self.rank:05}.jsonl", found)

    def leave(self, trainer: Any) -> None:
        """Leave a trained model, all processes together, and then what is to say of it."""
        trainer.save_model(str(self.folder / "trained"))
        if self.processes > 1:
            distributed.barrier()
        if self.rank == 0:
            found = fitted(trainer)._asdict()
            del found["model"]
            write_text(self.folder / "result.json", json.dumps(found))


def _fit(worker: Worker) -> None:
    asked = worker.asked
    how = Fit(asked["kind"], ModelOnDisk(**asked["start"]), **asked["how"])
    rows = Dataset.load_from_disk(str(worker.folder / "rows"))
    trainer = fit(
        worker.config,
        how,
        how.start.name,
        AutoTokenizer.from_pretrained(
            worker.folder / "tokenizer", trust_remote_code=how.start.trust_remote_code
        ),
        Tokenized(rows, PairCounts(**asked["counts"])),
        checkpoints=Path(asked["checkpoints"]),
        unfinished=worker.folder / "unfinished",
        update=worker.update if worker.rank == 0 else lambda *_: None,
    )
    worker.leave(trainer)


def _sft(worker: Worker) -> None:
    start = ModelOnDisk(**worker.asked["start"])
    rows = Dataset.load_from_disk(str(worker.folder / "rows"))
    how = {"seed": worker.asked["seed"], "bf16": worker.asked["bf16"]}
    update = worker.update if worker.rank == 0 else lambda *_: None
    trainer = tune(worker.config, start.load(), rows, worker.folder / "unfinished", update, **how)
    worker.leave(trainer)


def _draw(worker: Worker) -> None:
    asked, job = worker.asked, worker.job()
    sampling, seed = parse(SamplingConfig, asked["sampling"]), asked["seed"]
    world = job.world if job.labelling is None else job.labelling
    assert world is not None
    prompts = _same(world.prompts("train", sampling.prompts, seed), asked["ids"])
    found = drawn(
        world,
        ModelOnDisk(**asked["model"]).load(),
        prompts,
        sampling,
        worker.update,
        seed=seed,
        bf16=asked["bf16"],
        of=(worker.rank, worker.processes),
    )
    worker.write((place, dataclasses.asdict(row)) for place, row in found)


def _measure(worker: Worker) -> None:
    asked, job = worker.asked, worker.job()
    assert job.world is not None
    drawn_prompts = job.calibration if asked["calibration"] else job.eval_prompts
    prompts = _same(drawn_prompts[: len(asked["ids"])], asked["ids"])
    known = {name: ModelOnDisk(**model) for name, model in asked["models"].items()}
    about = dict(asked["asked"])
    about["how"] = parse(EvaluationConfig, about["how"])
    models = worker.models(known, asked["bf16"])
    of = worker.rank, worker.processes
    found = measured(Asked(**about), models, job.world, prompts, worker.update, of=of)
    rows = ((place, [dataclasses.asdict(answer) for answer in own]) for place, own in found)
    worker.write(rows)


WORKS: Mapping[str, Callable[[Worker], None]] = {
    "fit": _fit,
    "sft": _sft,
    "draw": _draw,
    "measure": _measure,
}


def serve(folder: Path) -> None:
    """Do this process's share of the requests in a folder, as they come, until the last one."""
    rank, processes = rank_and_number()
    kept: dict[str, Any] = {}
    try:
        for i in itertools.count():
            place = folder / str(i)
            while not (place / "request.json").exists():
                if not folder.exists():  # the job is gone
                    return
                time.sleep(0.02)
            request = json.loads((place / "request.json").read_text(encoding="utf-8"))
            if request["work"] == END:
                return
            machine.reset_peak_memory()
            try:
                _do(request, place, rank, processes, kept)
            except BaseException as error:
                _tell_error(place, rank, error)
                raise
            about = {"peak": machine.peak_memory()}
            write_text(place / f"done-{rank:05}.json", json.dumps(about))
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def _do(
    request: Mapping[str, Any], place: Path, rank: int, processes: int, kept: dict[str, Any]
) -> None:
    os.chdir(request["cwd"])
    sys.path += [each for each in request["path"] if each not in sys.path]
    if processes != request["processes"]:
        raise InputError(
            f"launch: {processes} processes run, and {request['processes']} were asked for. "
            "See what launch.config_file starts."
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    config, about = load_config(request["config"]), (request["asked"], request["measured"])
    told = Told(place / f"progress-{rank:05}.json")
    with quiet_libraries(), lent(Path(request["root"])):
        WORKS[request["work"]](Worker(place, rank, processes, config, *about, kept, told))
        told.flush()


def _tell_error(place: Path, rank: int, error: BaseException) -> None:
    kind = next((name for name, each in RAISED.items() if isinstance(error, each)), "")
    said = str(error) if kind else "".join(traceback.format_exception(error))
    write_text(place / f"error-{rank:05}.json", json.dumps({"type": kind, "message": said}))


def _same(prompts: list[Prompt], ids: list[str]) -> list[Prompt]:
    if [prompt.id for prompt in prompts] != ids:
        raise InputError(
            "world: it gave other prompts in a process of its own, and the same split, number and "
            "seed. Mend the world's code."
        )
    return prompts


def watch() -> None:
    """End at once when the job does, or says so."""

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    if os.environ.get(WATCHED):
        watch()
    serve(Path(sys.argv[1]))
