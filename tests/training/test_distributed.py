"""Two processes give the losses and weights of one at the same global batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training import launched

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    # --multi_gpu is what makes accelerate start several processes on one machine; on a
    # processor (use_cpu) they talk through gloo. --cpu alone starts one process only.
    options = "--multi_gpu --num_processes 2 --num_machines 1 --main_process_port 0"
    options += " --mixed_precision no --dynamo_backend no"
    target = tmp_path / "two.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", *options.split()),
            *(launched.__file__, str(target), "2"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for kind, two in json.loads(target.read_text(encoding="utf-8")).items():
        one = launched.run(tmp_path / "one", 4, lora=kind == "lora")
        assert (one["processes"], two["processes"]) == (1, 2)
        assert two["weights"] == pytest.approx(one["weights"], rel=1e-5, abs=1e-5)
        for log, expected in zip(two["log"], one["log"], strict=True):
            for name, value in expected.items():
                if "runtime" not in name and "per_second" not in name and name != "total_flos":
                    assert log[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
