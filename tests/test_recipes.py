"""The figures of the recipes' pages are those of the committed cells, which hold no texts."""

import json
import re
from pathlib import Path

import pytest

from riskalign.environments import get_world, max_cost_of
from riskalign.evaluation import from_columns, summarize

VAULT = Path(__file__).parents[1] / "recipes" / "vault"
CELLS = sorted(VAULT.rglob("cells/*.json"))


@pytest.mark.parametrize("path", CELLS, ids=lambda path: path.stem)
def test_committed_cells_are_whole_and_hold_no_text(path: Path) -> None:
    cell = json.loads(path.read_text())
    assert path.name == f"{cell['method']}-seed{cell['seed']}.json"
    for columns in cell["points"].values():
        assert set(columns) == {"prompt_id", "reward", "cost", "kl", "srr", "length"}
        assert len({len(values) for values in columns.values()}) == 1


def test_the_vaults_table_is_that_of_the_cells() -> None:
    rows = re.findall(
        r"^\| `(\S+)` \| ([\d.]+) \(.*?\) \| ([\d.]+) \(.*?\) \| ([\d.]+) \(",
        (VAULT / "README.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert len(rows) >= 8
    for name, reward, unsafe, cvar in rows:
        (path,) = VAULT.glob(f"tuning/*/cells/{name}-seed100.json")
        cell = json.loads(path.read_text(encoding="utf-8"))
        max_cost = max_cost_of(get_world("vault"))
        found = summarize(from_columns(cell["points"]["final"]), n_boot=1, max_cost=max_cost)
        assert f"{found['reward'].value:.2f}" == reward
        assert f"{100 * found['unsafe_rate'].value:.1f}" == unsafe
        assert f"{found['cvar_0.95'].value:.1f}" == cvar


def test_the_studys_table_is_that_of_the_cells() -> None:
    number = r" \| ([\d.]+) \(.*?\)"
    rows = re.findall(
        rf"^\| (\S+)( on labels)?, multiplier (\S+){number * 3}",
        (VAULT / "README.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert len(rows) == 6
    max_cost = max_cost_of(get_world("vault"))
    for preset, on_labels, lambda_, *shown in rows:
        folder = VAULT / "study" / ("hard" if on_labels else "") / "cells"
        answers = [
            answer
            for seed in (0, 1)
            for answer in from_columns(
                json.loads((folder / f"{preset}@lambda_={lambda_}-seed{seed}.json").read_text())[
                    "points"
                ]["final"]
            )
        ]
        found = summarize(answers, n_boot=1, max_cost=max_cost)
        assert shown == [
            f"{found['reward'].value:.2f}",
            f"{100 * found['unsafe_rate'].value:.1f}",
            f"{found['cvar_0.95'].value:.1f}",
        ]
