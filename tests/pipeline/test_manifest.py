"""The manifest is on disk at every moment; the resolved configuration reads back as itself."""

import json
from pathlib import Path

import yaml

from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.ledger import Manifest, resolve, stage_seed
from riskalign.pipeline.parse import load_config
from riskalign.pipeline.settings import LoraSettings, SamplingConfig, StepConfig


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
