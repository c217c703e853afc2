"""docs/scale.md: its recipes are read as jobs, its tables are what the commands say."""

import json
import re
from pathlib import Path

import pytest
import yaml

from benchmarks import memory, plans
from riskalign.pipeline import load_config

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
JOBS = [block for block in BLOCKS if "model:" in block]


def part(name: str) -> str:
    return PAGE.split(f"<!-- {name} -->\n")[1].split(f"\n<!-- /{name} -->")[0]


@pytest.mark.parametrize("block", JOBS)
def test_recipes_are_jobs(block: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(block, encoding="utf-8")
    config = load_config(tmp_path / "job.yaml")
    assert config.helpful.gradient_checkpointing
    assert config.helpful == config.safe or config.helpful.max_length == config.safe.max_length


def test_the_launchers_file_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = [block for block in BLOCKS if "model:" not in block]
    assert yaml.safe_load(block)["distributed_type"] == "FSDP"
    monkeypatch.chdir(tmp_path)
    Path("fsdp2.yaml").write_text(block, encoding="utf-8")
    Path("job.yaml").write_text("launch: {config_file: fsdp2.yaml}\n")
    launch = load_config(Path("job.yaml")).launch
    assert launch is not None
    assert launch.resolved().processes == 8


def test_the_table_is_what_the_command_says() -> None:
    """Of one model: the others' take as long, and come from the same code."""
    assert "\n".join(plans.table("Qwen2.5-7B")) in part("plans")
    assert all(f"**{name}**" in part("plans") for name in plans.MODELS)


def test_measurements_are_those_of_the_file() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text())
    assert part("measured") == "\n".join(memory.lines(results))
    assert all(ratio["holds"] for ratio in results["ratios"])
    gaps = results["rows"][0]
    assert f"the first row has {gaps['with_gaps']:,}" in PAGE
