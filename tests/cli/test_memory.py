"""The allocator's setting changes the whole process, so it is tried in one of its own."""

import subprocess
import sys

import pytest

from riskalign.cli import process

PROBE = """
import resource
from riskalign.cli.process import keep_freed_memory
taken = {set} and keep_freed_memory()
import torch
for _ in range(2):  # the first round fetches the memory that the second may use again
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(64 * 2**20, dtype=torch.uint8).fill_(1)
print(taken, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(set_it: bool) -> tuple[str, int]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(set=set_it)], capture_output=True, text=True, check=True
    )
    taken, count = done.stdout.split()
    return taken, int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    taken, kept = faults(True)
    if taken != "True":
        pytest.skip("the C library has no mallopt")
    _, given_back = faults(False)
    assert kept < given_back / 4


def test_other_platforms_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert process.keep_freed_memory() is False
