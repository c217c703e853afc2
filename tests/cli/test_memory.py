"""The allocator's setting changes the whole process, so it is tried in one of its own."""

import subprocess
import sys

import pytest

from riskalign.cli import process

PROBE = """
import resource
from riskalign.cli.process import keep_freed_memory

def faults():
    for _ in range(2):  # the first round fetches the memory that the second may use again
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            b"1" * (64 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), keep_freed_memory(), faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    command = [sys.executable, "-c", PROBE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    given_back, taken, kept = done.stdout.split()
    if taken != "True":
        pytest.skip("the C library has no mallopt")
    assert int(kept) < int(given_back) / 4


def test_other_platforms_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert process.keep_freed_memory() is False
