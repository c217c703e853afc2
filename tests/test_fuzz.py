"""The fuzzer reads through every door, and sees a traceback where there is one."""

from pathlib import Path

import pytest

from benchmarks.fuzz import Door, doors, fuzz


def test_no_read_ends_in_a_traceback(tmp_path: Path) -> None:
    every = doors(tmp_path / "kit")
    tally = fuzz(every, reads=15 * len(every), seed=1, work=tmp_path)
    assert tally.tracebacks == []
    for name in every:
        assert tally.counts[name, "refused"] > 0, name
    assert sum(n for (_, end), n in tally.counts.items() if end == "read") > 0


def test_a_traceback_is_seen(tmp_path: Path) -> None:
    def write(folder: Path, content: object, rng: object) -> Path:
        return folder

    def read(path: Path) -> None:
        raise KeyError("planted")

    tally = fuzz({"planted": Door([1], write, read)}, reads=2, seed=0, work=tmp_path)
    assert tally.counts["planted", "traceback"] == 2
    assert "planted" in tally.tracebacks[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_makes_the_same_reads(seed: int, tmp_path: Path) -> None:
    every = {"pairs": doors(tmp_path / "kit")["pairs"]}
    first, second = (fuzz(every, reads=30, seed=seed, work=tmp_path) for _ in range(2))
    assert first.counts == second.counts
