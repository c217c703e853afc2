"""A stage is finished for the same inputs, version and files; the manifest is always on disk."""

import json
import mmap
from pathlib import Path

import pytest
import yaml

from riskalign.pipeline import ledger as module
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.ledger import (
    Ledger,
    Manifest,
    Outcome,
    content_hash,
    resolve,
    stage_seed,
)
from riskalign.pipeline.parse import load_config
from riskalign.pipeline.settings import LoraSettings, SamplingConfig, StepConfig


def _work(folder: Path) -> Outcome:
    (folder / "out.txt").write_text("result")
    return {"n": 3, "files": ["out.txt"]}


def test_finished_for_same_inputs_and_intact_files(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    key = ledger.key("pairs", {"seed": 1})
    assert ledger.find("pairs", key) is None
    outcome = ledger.run("pairs", key, lambda: _work(tmp_path))
    assert outcome["n"] == 3
    assert outcome["seconds"] >= 0
    reopened = Ledger(tmp_path)
    assert reopened.find("pairs", key) == outcome
    assert reopened.find("pairs", reopened.key("pairs", {"seed": 2})) is None
    assert reopened.find("train", key) is None
    (tmp_path / "out.txt").write_text("edited")
    assert reopened.find("pairs", key) is None
    (tmp_path / "out.txt").unlink()
    assert reopened.find("pairs", key) is None


def test_failed_work_is_not_noted(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    with pytest.raises(FileNotFoundError):
        ledger.run("pairs", "key", lambda: {"files": ["never-written.txt"]})
    assert Ledger(tmp_path).find("pairs", "key") is None


def test_another_version_does_the_work_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(tmp_path)
    key = ledger.key("pairs", {"seed": 1})
    monkeypatch.setattr(module, "__version__", "99.0")
    assert ledger.key("pairs", {"seed": 1}) != key


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"pairs": 3})])
def test_unreadable_ledger_counts_nothing_as_finished(tmp_path: Path, content: str) -> None:
    (tmp_path / "finished.json").write_text(content)
    assert Ledger(tmp_path).find("pairs", "key") is None


def test_hash_depends_on_content_only() -> None:
    assert content_hash({"a": 1, "b": [1.5, "ü"]}) == content_hash({"b": [1.5, "ü"], "a": 1})
    assert content_hash([1]) != content_hash(["1"])
    # By hand: sha256 of the two characters {}.
    assert content_hash({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


def test_what_a_sibling_has_finished_is_taken_over(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    sibling = Ledger(there)
    key = sibling.key("pairs", {"seed": 1})
    outcome = sibling.run("pairs", key, lambda: _work(there))
    ledger = Ledger(here, [tmp_path / "nowhere", there])
    assert ledger.find("pairs", ledger.key("pairs", {"seed": 2})) is None
    assert [ledger.has(stage) for stage in ("pairs", "train")] == [True, False]
    assert ledger.find("pairs", key) == outcome
    assert (here / "out.txt").read_text() == "result"
    # From now on it is its own.
    (there / "out.txt").unlink()
    assert Ledger(here).find("pairs", key) == outcome
    assert Ledger(tmp_path / "third", [there]).find("pairs", key) is None


def test_peak_memory_is_that_of_the_work(tmp_path: Path) -> None:
    def hold(megabytes: int) -> Outcome:
        # Pages of its own: an allocator may serve a request from what it was given before.
        with mmap.mmap(-1, megabytes * 2**20) as held:
            held.write(b"1" * (megabytes * 2**20))
        return {}

    ledger = Ledger(tmp_path)
    much = ledger.run("much", "a", lambda: hold(300))["peak_megabytes"]
    little = ledger.run("little", "b", lambda: hold(1))["peak_megabytes"]
    assert much - little > 200


def test_resolved_configuration_reads_back(tmp_path: Path) -> None:
    config = AlignConfig(
        lambda_=4.0,
        peft=LoraSettings(target_modules=("q_proj",)),
        safe=StepConfig(sampling=SamplingConfig(prompts=3)),
    )
    plain = resolve(config)
    assert plain["safe"]["beta"] == 0.025
    assert plain["safe"]["sampling"]["prompts"] == 3
    assert plain["helpful"]["sampling"] == plain["sampling"]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain))
    assert resolve(load_config(path)) == plain


def test_manifest_is_written_at_every_change(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, AlignConfig(seed=3), "riskalign align")

    def on_disk() -> dict[str, object]:
        content: dict[str, object] = json.loads((tmp_path / "manifest.json").read_text())
        return content

    assert on_disk()["status"] == "running"
    manifest.note("stages", "load", {"seconds": 1.0})
    assert on_disk()["stages"] == {"load": {"seconds": 1.0}}
    manifest.end("failed", "ValueError: no")
    assert (on_disk()["status"], on_disk()["error"]) == ("failed", "ValueError: no")
    assert on_disk()["seeds"] == {"job": 3}


def test_each_stage_has_a_seed_of_its_own() -> None:
    config = AlignConfig(seed=1)
    seeds = [stage_seed(config, name) for name in ("pairs-safe", "train-safe", "evaluate")]
    assert len(set(seeds)) == 3
    assert seeds[0] == stage_seed(AlignConfig(seed=1, beta=0.5), "pairs-safe")
    assert seeds[0] != stage_seed(AlignConfig(seed=2), "pairs-safe")
    assert all(0 <= seed < 2**31 for seed in seeds)
