"""Several processes give the losses and weights of one at the same global batch."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing.spawn import start_processes

from tests.processes import START_METHOD
from tests.training import launched


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return launched.runs(tmp_path_factory.mktemp("one"), 1)


FEW = ("pairs, accumulated, LoRA", "KTO, accumulated")


@pytest.mark.parametrize(("processes", "cases"), [(2, FEW), (3, tuple(launched.CASES))])
def test_processes_equal_one(
    processes: int, cases: tuple[str, ...], one: dict[str, Any], tmp_path: Path
) -> None:
    target = tmp_path / "found.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        arguments = (processes, target, cases)
        start_processes(launched.main, arguments, nprocs=processes, start_method=START_METHOD)
    for case, found in json.loads(target.read_text(encoding="utf-8")).items():
        expected = one[case]
        assert (expected["processes"], found["processes"]) == (1, processes)
        weights = load_file(target.with_name(f"{case}.{processes}.safetensors"))
        torch.testing.assert_close(weights, expected["weights"], rtol=0, atol=2e-5)
        for log, of_one in zip(found["log"], expected["log"], strict=True):
            for name, value in of_one.items():
                if "runtime" not in name and "per_second" not in name and name != "total_flos":
                    assert log[name] == pytest.approx(value, rel=1e-4, abs=1e-5), (case, name)
        if launched.CASES.get(case, ([], 0, {}))[2].get("cache_reference"):
            # Once for each of an epoch's 3 batches, and of evaluation's 3 and 1; never again.
            assert found["computed"] == [7] * processes
            assert expected["computed"] == 7
