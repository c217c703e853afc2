"""Two processes give the losses and weights of one at the same global batch."""

import json
import warnings
from pathlib import Path

import pytest
from torch.multiprocessing.spawn import start_processes

from tests.processes import START_METHOD
from tests.training import launched


def test_two_processes_equal_one(tmp_path: Path) -> None:
    target = tmp_path / "two.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        start_processes(launched.main, (2, target, 2), nprocs=2, start_method=START_METHOD)
    for kind, two in json.loads(target.read_text(encoding="utf-8")).items():
        one = launched.run(tmp_path / "one", 4, lora=kind == "lora")
        assert (one["processes"], two["processes"]) == (1, 2)
        assert two["weights"] == pytest.approx(one["weights"], rel=1e-5, abs=1e-5)
        for log, expected in zip(two["log"], one["log"], strict=True):
            for name, value in expected.items():
                if "runtime" not in name and "per_second" not in name and name != "total_flos":
                    assert log[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
