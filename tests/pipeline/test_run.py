"""The whole job on a tiny model: step 2 refers to step 1's result, stages are done once."""

import copy
import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import TrainerCallback

from riskalign import align
from riskalign.errors import InputError, TrainingDiverged
from riskalign.models import fingerprint, load_model, save_model
from riskalign.pipeline import fit, load_config, run, step_data
from riskalign.pipeline.presets import method_name
from riskalign.training import RSATrainer
from riskalign.worlds import Prompt
from tests import tiny
from tests.pipeline import conftest

Make = Callable[..., dict[str, Any]]
IDS = torch.tensor([[5, 6, 7, 8, 9]])


class Recorder:
    """A `Progress` that writes down what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.positions: dict[str, list[tuple[int, int | None]]] = {}

    def stage(self, name: str, total: int | None = None) -> None:
        self.stages.append(name)

    def update(self, n: int, note: str = "", total: int | None = None) -> None:
        self.positions.setdefault(self.stages[-1], []).append((n, total))

    def done(self, note: str = "") -> None:
        self.notes.append(note)


STAGES = [
    "load", "pairs-helpful", "train-helpful", "pairs-safe", "train-safe", "model",
    "evaluate-start", "evaluate-step1", "evaluate-final", "evaluate-dial-0.5", "report",
]  # fmt: skip


def _logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=IDS).logits
    return logits


def _manifest(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


def test_whole_job_and_nothing_twice(job: Make, tmp_path: Path) -> None:
    recorder = Recorder()
    result = align(job(), progress=recorder, title="A test")
    assert recorder.stages == STAGES
    assert recorder.notes == [""] * len(STAGES)
    assert recorder.positions["train-safe"][-1] == (3, 3)
    assert recorder.positions["pairs-safe"][-1] == (24, 24)
    assert recorder.positions["evaluate-final"][-1] == (16, 16)

    assert result.results is not None
    assert result.report is not None
    results = json.loads(result.results.read_text())
    assert list(results["models"]) == ["start", "step1", "final"]
    assert (results["title"], results["method"]) == ("A test", method_name(load_config(job())))
    assert {"final_minus_start", "final_minus_step1"} <= set(results["differences"])
    assert [point["w"] for point in results["dial"]] == [0.0, 0.5, 1.0]
    assert {point["n_prompts"] for point in results["dial"]} == {3}
    assert [entry["step"] for entry in results["training"]["safe"]] == [1, 2, 3]
    assert results["models"]["start"]["kl"]["value"] == 0
    assert results["models"]["final"]["kl"]["value"] > 0
    assert "A test" in result.report.read_text(encoding="utf-8")

    manifest = _manifest(result.output_dir)
    assert manifest["status"] == "finished"
    assert manifest["config"]["safe"]["beta"] == 0.1
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["data"]["safe"]["pairs"] >= 1
    assert set(manifest["seeds"]) >= {"job", "pairs-safe", "train-safe", "evaluate"}
    assert (
        len({manifest["models"][name]["fingerprint"] for name in ("start", "helpful", "safe")}) == 3
    )
    loaded = load_model(result.model)
    assert fingerprint(loaded.model) == manifest["models"]["safe"]["fingerprint"]
    assert not list(result.output_dir.rglob("checkpoint*"))
    assert not list(result.output_dir.rglob("*.bin"))

    again = Recorder()
    before = {path: path.stat().st_mtime_ns for path in (result.results, result.report)}
    assert align(job(), progress=again, title="A test") == result
    assert again.notes == ["", *["done before"] * (len(STAGES) - 1)]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # The resolved configuration gives the same job, and so finds everything done.
    resolved = Recorder()
    align(tmp_path / "run" / "config.yaml", progress=resolved, title="A test")
    assert resolved.notes == again.notes

    # Another setting of step 2 leaves step 1 as it is; a damaged file is made again.
    changed = Recorder()
    align(job(), {"safe.beta": 0.5}, progress=changed, title="A test")
    done = [name for name, note in zip(changed.stages, changed.notes, strict=True) if note]
    assert done == [
        "pairs-helpful", "train-helpful", "pairs-safe", "evaluate-start", "evaluate-step1",
    ]  # fmt: skip
    (tmp_path / "run" / "pairs" / "safe.jsonl").write_text("")
    damaged = Recorder()
    align(job(), {"safe.beta": 0.5}, progress=damaged, title="A test")
    redone = [n for n, note in zip(damaged.stages, damaged.notes, strict=True) if not note]
    assert redone == ["load", "pairs-safe"], "the same pairs again, so nothing after them"


@pytest.mark.parametrize("peft", [None, {"r": 2, "lora_alpha": 4}])
def test_reference_of_step_2_is_the_result_of_step_1(
    job: Make, monkeypatch: pytest.MonkeyPatch, peft: dict[str, Any] | None
) -> None:
    references: list[Any] = []
    policies: list[Any] = []

    class Spy(RSATrainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            policy: Any = self.model
            policies.append(copy.deepcopy(policy))
            with self.reference.active(policy) as reference:
                references.append(copy.deepcopy(reference))
                references[-1].seen = _logits(reference)
            output = super().train(*args, **kwargs)
            # At the end of training the reference must still be what it was at the start.
            with self.reference.active(policy) as reference:
                references[-1].late = _logits(reference)
            return output

    monkeypatch.setattr(fit, "RSATrainer", Spy)
    # In float32 on every machine: what is compared is compared to the bit.
    result = align(job(peft=peft, evaluation=None, bf16=False))
    start = load_model(str(job()["model"])).model
    step1 = load_model(result.steps["helpful"]).model
    step2 = load_model(result.steps["safe"]).model
    assert len({fingerprint(model) for model in (start, step1, step2)}) == 3

    for reference, policy, before in zip(references, policies, (start, step1), strict=True):
        expected = _logits(before)
        if peft is None:
            assert fingerprint(reference) == fingerprint(before)
            assert fingerprint(policy) == fingerprint(before)
        torch.testing.assert_close(reference.seen, expected, rtol=0, atol=0)
        torch.testing.assert_close(reference.late, expected, rtol=0, atol=0)
        torch.testing.assert_close(_logits(policy), expected, rtol=1e-6, atol=1e-6)
    manifest = _manifest(result.output_dir)
    assert manifest["models"]["safe"]["reference"] == fingerprint(step1)
    assert manifest["models"]["helpful"]["reference"] == fingerprint(start)


def test_the_start_model_is_looked_at_once_and_not_kept(
    job: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []
    alive: list[bool] = []
    config = job(evaluation=None, order=["helpful"])
    module: Any = run
    real_load, real_step = module.load_model, module.train_step

    def load(name: Any, **options: Any) -> Any:
        loaded = real_load(name, **options)
        if str(name) == str(config["model"]):
            found.append(weakref.ref(loaded.model))
        return loaded

    def step(*arguments: Any, **options: Any) -> Any:
        gc.collect()
        alive.extend(reference() is not None for reference in found)
        return real_step(*arguments, **options)

    monkeypatch.setattr(run, "load_model", load)
    monkeypatch.setattr(run, "train_step", step)
    align(config)
    assert alive == [False]


def test_lora_leaves_its_adapter_beside_the_merged_model(job: Make) -> None:
    result = align(job(peft={"r": 2}, evaluation=None, order=["helpful"]))
    merged = load_model(result.steps["helpful"]).model
    adapted = load_model(result.steps["helpful"].parent / "adapter").model
    torch.testing.assert_close(_logits(adapted), _logits(merged), rtol=1e-5, atol=1e-5)


def test_reversed_order_and_rounds(job: Make) -> None:
    recorder = Recorder()
    result = align(job(order=["safe", "helpful", "helpful"]), progress=recorder)
    trained = [name for name in recorder.stages if name.startswith(("pairs", "train"))]
    assert trained == [
        "pairs-safe", "train-safe", "pairs-helpful", "train-helpful",
        "pairs-helpful-2", "train-helpful-2",
    ]  # fmt: skip
    models = _manifest(result.output_dir)["models"]
    assert models["helpful"]["reference"] == models["safe"]["fingerprint"]
    assert models["helpful-2"]["reference"] == models["helpful"]["fingerprint"]
    assert models["helpful"]["beta"] == pytest.approx(0.2), "two rounds share one tilt"
    assert fingerprint(load_model(result.model).model) == models["helpful-2"]["fingerprint"]


def test_one_step_with_its_own_data_needs_no_world(job: Make, tmp_path: Path) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in tiny.make_pairs(6)))
    config = job(world=None, helpful={"skip": True})
    config["safe"] |= {"data": str(data), "risk": "erm:0.5", "loss_type": "rsa2", "beta": 1.0}
    result = align(config)
    assert (result.results, result.report) == (None, None)
    manifest = _manifest(result.output_dir)
    assert list(manifest["stages"]) == ["train-safe", "model"]
    assert manifest["data"]["safe"]["pairs"] == 6
    assert manifest["models"]["safe"]["beta"] == 1.0
    assert manifest["models"]["safe"]["reference"] == manifest["models"]["start"]["fingerprint"]


@pytest.mark.parametrize(("logging_steps", "logged"), [(1, [1, 2, 3, 4, 5, 6]), (3, [2, 3, 4, 6])])
def test_interrupted_training_resumes_with_the_same_result(
    job: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logging_steps: int,
    logged: list[int],
) -> None:
    config = job(evaluation=None, order=["helpful"])
    config["helpful"] |= {
        "max_steps": 6, "save_strategy": "steps", "save_steps": 2, "logging_steps": logging_steps,
    }  # fmt: skip
    whole = align(config, {"output_dir": str(tmp_path / "whole")})

    class Interrupt(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 5:
                raise KeyboardInterrupt

    class Interrupted(RSATrainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            self.add_callback(Interrupt())
            return super().train(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "RSATrainer", Interrupted)
        with pytest.raises(KeyboardInterrupt):
            align(config)
    folder = tmp_path / "run"
    assert _manifest(folder)["status"] == "interrupted"
    assert [p.name for p in folder.rglob("checkpoint-*")] == ["checkpoint-4"]
    assert not (folder / "helpful" / "model").exists()
    # An empty folder is no checkpoint.
    (folder / "helpful" / "checkpoints" / "checkpoint-5").mkdir()

    recorder = Recorder()
    resumed = align(config, progress=recorder)
    assert recorder.positions["train-helpful"][0] == (4, 6)
    assert fingerprint(load_model(resumed.model).model) == fingerprint(
        load_model(whole.model).model
    )
    logs = [(path / "helpful" / "log.json").read_bytes() for path in (folder, tmp_path / "whole")]
    assert [entry["step"] for entry in json.loads(logs[1])] == logged
    assert logs[0] == logs[1]


def test_checkpoints_of_other_settings_are_not_resumed(tmp_path: Path) -> None:
    folder = fit.own_checkpoints(tmp_path / "checkpoints", "one")
    (folder / "checkpoint-2").mkdir()
    (folder / "checkpoint-2" / "trainer_state.json").write_text("{}")
    assert fit.own_checkpoints(folder, "one") == folder
    assert fit.newest(folder) == str(folder / "checkpoint-2")
    fit.own_checkpoints(folder, "two")
    assert fit.newest(folder) is None


def test_diverged_training_leaves_no_model(job: Make, tmp_path: Path) -> None:
    config = job(evaluation=None, order=["helpful"])
    config["helpful"] |= {"learning_rate": 1e30, "max_grad_norm": 1e30, "max_steps": 20}
    with pytest.raises(TrainingDiverged, match="became NaN or infinite"):
        align(config)
    manifest = _manifest(tmp_path / "run")
    assert manifest["status"] == "failed"
    assert manifest["error"].startswith("TrainingDiverged")
    assert not (tmp_path / "run" / "helpful" / "model").exists()


def test_faults_are_found_before_work(
    job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(message: str, **overrides: Any) -> None:
        recorder = Recorder()
        with pytest.raises(InputError, match=message):
            align(job(**overrides), progress=recorder)
        assert set(recorder.stages) <= {"load"}
        assert not (tmp_path / "run").exists()

    plain = tmp_path / "plain.jsonl"
    row = {"prompt": "Where is it?", "chosen": "On its way.", "rejected": "Who knows."}
    plain.write_text(json.dumps(row))
    refused("no such file", safe={"data": str(tmp_path / "none.jsonl")})
    refused("safe.data: .*target 'gap' needs 'score_chosen'", safe={"data": str(plain)})
    alike = tmp_path / "alike.jsonl"
    alike.write_text(json.dumps(row | {"rejected": row["chosen"]}))
    refused("safe.data: No preference pair is left", safe={"data": str(alike), "target": "hard"})
    narrow = tmp_path / "narrow"
    save_model(tiny.make_model(max_position_embeddings=32), tiny.make_tokenizer(), narrow)
    refused("than the 32 positions of the model", model=str(narrow))
    refused("world: no world is named", world="volt")
    refused("prompts gave 4 with 1 ids for 4", world=f"{__name__}:Same")
    refused("reward of an answer to .* is None", world=f"{__name__}:Mute")
    (tmp_path / "file").touch()
    refused("cannot be written", output_dir=str(tmp_path / "file" / "run"))

    bare = tmp_path / "bare"
    save_model(tiny.make_model(), tiny.make_tokenizer(chat_template=None), bare)
    refused("has no chat template", model=str(bare))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: _Usage(free=1000))
    refused(r"needs about 0.0 GB of disk", output_dir=str(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


class _Usage:
    def __init__(self, free: int) -> None:
        self.free = free


def test_what_is_finished_needs_no_disk(job: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = job(evaluation=None, order=["helpful"])
    align(config)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: _Usage(free=0))
    align(config)
    with pytest.raises(InputError, match="of disk"):
        align(config, {"order": ["helpful", "safe"]})


def test_full_disk_is_said(job: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step_data, "write_json_lines", full)
    with pytest.raises(InputError, match=r"the disk is full.*finished stages are kept"):
        align(job(evaluation=None))
    assert not (tmp_path / "run" / "pairs").exists()


def test_no_pairs_is_an_error_with_a_remedy(job: Make) -> None:
    with pytest.raises(InputError, match=r"no helpful pairs from 24 answers.*Raise sampling"):
        align(job(world=f"{__name__}:Flat", evaluation=None))


class Same(conftest.Letters):
    """Gives all prompts one id."""

    def prompts(self, split: Any, n: int, seed: int) -> list[Prompt]:
        return [Prompt("same", prompt.messages) for prompt in super().prompts(split, n, seed)]


class Mute(conftest.Letters):
    """Has no reward to give."""

    def reward(self, prompt: Prompt, answer: str) -> Any:
        return None


class Flat(conftest.Letters):
    """Finds all answers alike."""

    def reward(self, prompt: Prompt, answer: str) -> float:
        return 0.5
