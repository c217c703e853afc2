"""A job in two processes is the job in one; what fails in them is heard, and nobody is left."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from benchmarks.launcher import forked
from riskalign import align
from riskalign.errors import InputError, TrainingDiverged, WorkerFailed
from riskalign.pipeline import (
    certify_models,
    evaluate_models,
    evaluate_rare,
    load_config,
    write_answers,
)
from riskalign.pipeline.conduct import Workers
from riskalign.pipeline.launch import LaunchConfig
from riskalign.worlds import Prompt
from tests import tiny
from tests.pipeline.conftest import Letters
from tests.pipeline.test_run import Recorder
from tests.processes import START_METHOD

Make = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.skipif(START_METHOD != "fork", reason="processes are forked")
STEP = {"max_steps": 3, "learning_rate": 1e-3, "optim": "sgd"}
TWO = {"launch": {"processes": 2}}


@pytest.fixture
def _forked() -> Iterator[None]:
    with forked():
        yield


class Broken(Letters):
    """Scores no answer to the third prompt."""

    def reward(self, prompt: Prompt, answer: str) -> float:
        """Fail in whichever process has the prompt."""
        if prompt.id.endswith("-2"):
            raise RuntimeError("the score is lost")
        return super().reward(prompt, answer)


def given(folder: Path, n: int = 8) -> str:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny.make_pairs(n)))
    return str(path)


def steps_of(job: Make, folder: Path, batch: int, **more: Any) -> dict[str, Any]:
    """A job of two steps on a file's pairs, without evaluation."""
    data = given(folder, 6)  # the last batch of an epoch is half full
    step = STEP | {"data": data, "per_device_train_batch_size": batch, "target": "hard"}
    out = str(folder / f"run-{batch}")
    return job(helpful=step, safe=step, evaluation=None, world=None, output_dir=out) | more


def furthest(one: Path, two: Path, name: str = "model.safetensors") -> float:
    """The largest difference of two models' weights."""
    a, b = load_file(one / name), load_file(two / name)
    assert a.keys() == b.keys()
    return max((a[key] - b[key]).abs().max().item() for key in a)


@pytest.mark.usefixtures("_forked")
@pytest.mark.parametrize("peft", [None, {"r": 2, "lora_alpha": 4}])
def test_two_processes_train_what_one_does(
    job: Make, tmp_path: Path, peft: dict[str, Any] | None
) -> None:
    one = align(steps_of(job, tmp_path, 4, peft=peft))
    recorder = Recorder()
    two = align(steps_of(job, tmp_path, 2, peft=peft, **TWO), progress=recorder)
    for step in ("helpful", "safe"):
        assert furthest(one.steps[step], two.steps[step]) < 2e-5
        assert furthest(tmp_path / "start", two.steps[step]) > 1e-4
    assert recorder.positions["train-safe"][-1] == (3, 3)
    stages = json.loads(two.manifest.read_text())["stages"]
    assert stages["train-safe"]["examples"] == 12
    assert stages["train-safe"]["worker_peak_megabytes"] > 10
    said = json.loads(two.manifest.read_text())["notes"]
    assert said == [
        "An optimizer step takes 2 x 2 processes x 1 = 4 rows (helpful), 2 x 2 processes x 1 = 4 "
        "rows (safe)."
    ]
    assert not list((tmp_path / "run-2").rglob("*checkpoint*"))
    again = Recorder()
    align(steps_of(job, tmp_path, 2, peft=peft, **TWO), progress=again)
    assert again.notes[1:] == ["done before"] * 3


@pytest.mark.usefixtures("_forked")
def test_the_start_step_is_that_of_one_process(job: Make, tmp_path: Path) -> None:
    def tuned(batch: int, **more: Any) -> Path:
        sft = {"demonstrations": 8, "learning_rate": 1e-2, "optim": "sgd"}
        out = str(tmp_path / f"run-{batch}")
        sft |= {"per_device_train_batch_size": batch}
        config = job(world="tests.pipeline.test_sft:Showing", sft=sft, order=[], output_dir=out)
        return align(config | {"evaluation": None, **more}).steps["sft"]

    one, two = tuned(4), tuned(2, **TWO)
    said = json.loads((tmp_path / "run-2" / "manifest.json").read_text())["notes"]
    assert "An optimizer step takes 2 x 2 processes x 1 = 4 rows (sft)." in said
    assert furthest(one, two) < 2e-5
    assert furthest(tmp_path / "start", two) > 1e-4


@pytest.mark.usefixtures("_forked")
def test_answers_and_scores_are_the_same_to_the_byte(job: Make, tmp_path: Path) -> None:
    step = {"max_steps": 1, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    sampling = {"prompts": 5, "answers_per_prompt": 4, "max_new_tokens": 6, "batch_size": 8}
    limit = {"risk": "mean", "limit": 100.0, "max_cost": 9.0, "prompts": 5, "settings": [0.5]}
    made = job(helpful=step, safe=step, sampling=sampling, budget=limit, sft=None)
    made["evaluation"] |= {"batch_size": 4, "distance_prompts": 3}
    one = align(made)
    again = {"output_dir": str(tmp_path / "two"), "launch.processes": 2}
    align(made, again, progress=(recorder := Recorder()))
    assert recorder.positions["pairs-helpful"][-1] == (20, 20)
    assert recorder.positions["evaluate-final"][-1] == (14, 14)
    for name in ("pairs/helpful.jsonl", "evaluation/start.jsonl"):
        assert (tmp_path / "two" / name).read_bytes() == (one.output_dir / name).read_bytes()
    # The same weights, at a point of the dial and of the averages too.
    config = {**made, "budget": None, "merges": [0.5]}
    final, step1 = str(one.steps["safe"]), str(one.steps["helpful"])
    for out, launch in (("a", None), ("b", {"processes": 2}), ("c", {"processes": 3})):
        own = {"output_dir": str(tmp_path / out), "launch": launch}
        evaluate_models(load_config(config | own), final=final, step1=step1)
    files = sorted(path.name for path in (tmp_path / "a" / "evaluation").iterdir())
    assert {"dial-0.5.jsonl", "merge-0.5.jsonl", "final.jsonl"} <= set(files)
    for name in files:
        rows = [(tmp_path / out / "evaluation" / name).read_bytes() for out in "abc"]
        assert rows[0] == rows[1] == rows[2], name


@pytest.mark.usefixtures("_forked")
def test_errors_of_workers_are_those_of_the_job(job: Make, tmp_path: Path) -> None:
    wild = {"learning_rate": 1e30, "max_grad_norm": 1e30, "max_steps": 20}
    config = steps_of(job, tmp_path, 2, **TWO)
    config["helpful"] = config["helpful"] | wild
    with pytest.raises(TrainingDiverged, match="became NaN or infinite at step"):
        align(config)
    assert json.loads((tmp_path / "run-2" / "manifest.json").read_text())["status"] == "failed"
    broken = job(world=f"{__name__}:Broken", launch={"processes": 2})
    with pytest.raises((WorkerFailed, InputError), match="the score is lost"):
        align(broken)


@pytest.mark.usefixtures("_forked")
def test_an_engine_that_accelerate_leaves_out_in_silence_is_refused(
    job: Make, tmp_path: Path
) -> None:
    file = tmp_path / "accelerate.yaml"
    file.write_text("distributed_type: FSDP\nnum_processes: 2\nfsdp_config: {fsdp_version: 2}\n")
    config = steps_of(job, tmp_path, 2, launch={"config_file": str(file)})
    with pytest.raises(InputError, match="FSDP is asked for, and accelerate runs MULTI_CPU"):
        align(config)


def test_commands_that_sample_in_one_process_say_so(job: Make, tmp_path: Path) -> None:
    config = load_config(job(), {"launch.processes": 2, "budget.limit": 1.0})
    with pytest.raises(InputError, match="sampling to a file runs in one process"):
        write_answers(config, tmp_path / "answers.jsonl")
    with pytest.raises(InputError, match="certify runs in one process"):
        certify_models(config, [])
    with pytest.raises(InputError, match="evaluate --rare runs in one process"):
        evaluate_rare(config, final="x")


@pytest.mark.usefixtures("_forked")
def test_a_killed_worker_is_reported_and_the_next_run_goes_on(job: Make, tmp_path: Path) -> None:
    often = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2}
    config = steps_of(job, tmp_path, 2, **TWO)
    for kind in ("helpful", "safe"):
        config[kind] = config[kind] | often
    whole = align(config | {"output_dir": str(tmp_path / "whole")})
    struck: list[int] = []

    class Kills(Recorder):
        def update(self, n: int, note: str = "", total: int | None = None) -> None:
            super().update(n, note, total)
            if n >= 4 and not struck:  # a checkpoint is there
                [pids] = (tmp_path / "run-2" / ".riskalign" / "tmp").glob("*/pids")
                struck.append(int(pids.read_text().split()[1]))
                os.kill(struck[0], signal.SIGKILL)

    with pytest.raises(WorkerFailed, match=r"process (0, )?1 ended without a word"):
        align(config, progress=Kills())
    assert list((tmp_path / "run-2" / "helpful" / "checkpoints").glob("checkpoint-*"))
    after = Recorder()
    resumed = align(config, progress=after)
    assert after.positions["train-helpful"][0][0] >= 2, "from the checkpoint"
    for step in ("helpful", "safe"):
        assert furthest(whole.steps[step], resumed.steps[step]) == 0
        logs = [each.steps[step].parent / "log.json" for each in (whole, resumed)]
        assert logs[0].read_text() == logs[1].read_text()


@pytest.mark.usefixtures("_forked")
def test_an_interrupted_job_leaves_no_process(tmp_path: Path) -> None:
    workers = Workers(LaunchConfig(processes=2).resolved(), tmp_path)
    with workers.place() as place:
        until = time.monotonic() + 60
        while not (pids := place.parent / "pids").exists() and time.monotonic() < until:
            time.sleep(0.01)
        started = [int(pid) for pid in pids.read_text().split()]
    workers.stop()  # as when the job is interrupted
    assert len(started) == 2
    for pid in started:  # whoever they are left to may not have noticed yet
        status = Path(f"/proc/{pid}/status")
        assert not status.exists() or "State:\tZ" in status.read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_accelerate_starts_the_workers(job: Make, tmp_path: Path) -> None:
    """The real launcher, once; all else here forks what it would start."""
    only = {"order": ["helpful"], "safe": {}}
    one = align(steps_of(job, tmp_path, 4, **only))
    two = align(steps_of(job, tmp_path, 2, **only, **TWO))
    assert furthest(one.steps["helpful"], two.steps["helpful"]) < 2e-5
