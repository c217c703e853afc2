"""The figures of the recipes' pages are those of the committed cells, which hold no texts."""

import json
import re
from pathlib import Path

import pytest

from riskalign.environments import get_world, max_cost_of
from riskalign.evaluation import from_columns, summarize
from riskalign.pipeline import load_plan
from riskalign.sets import load_prompt_set

RECIPES = Path(__file__).parents[1] / "recipes"
VAULT, SAFERLHF = RECIPES / "vault", RECIPES / "saferlhf"
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
        rf"^\| (\S+?)( on labels)?(?:, multiplier (\S+))? \| (\d){number * 3}",
        (VAULT / "README.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert len(rows) >= 6
    max_cost = max_cost_of(get_world("vault"))
    for preset, on_labels, lambda_, seeds, *shown in rows:
        folder = VAULT / "study" / ("hard" if on_labels else "") / "cells"
        method = f"{preset}@lambda_={lambda_}" if lambda_ else preset
        paths = sorted(folder.glob(f"{method}-seed*.json"))
        assert len(paths) == int(seeds)
        answers = [
            answer
            for path in paths
            for answer in from_columns(json.loads(path.read_text())["points"]["final"])
        ]
        found = summarize(answers, n_boot=1, max_cost=max_cost)
        assert shown == [
            f"{found['reward'].value:.2f}",
            f"{100 * found['unsafe_rate'].value:.1f}",
            f"{found['cvar_0.95'].value:.1f}",
        ]


def test_the_prompts_for_over_refusal_are_all_safe() -> None:
    found = load_prompt_set(str(SAFERLHF / "over_refusal.csv"), labelled=True)
    assert {prompt.label for prompt in found.prompts} == {"safe"}
    assert (len(found.prompts), len(found.categories()), found.duplicates) == (50, 7, 0)


def test_the_small_recipe_compares_rivals_on_its_pairs(tmp_path: Path) -> None:
    record = {"prompt": "Hi", "response_0": "a", "response_1": "b"}
    labels = {"better_response_id": 0, "safer_response_id": 1}
    safe = {"is_response_0_safe": False, "is_response_1_safe": True}
    path = tmp_path / "judged.jsonl"
    path.write_text(json.dumps(record | labels | safe) + "\n")
    plan = load_plan(SAFERLHF / "smollm2-135m.yaml", [f"data.path={path}"])
    assert [method for method, _ in plan.cells] == list(plan.settings.presets)
    assert {"rsa-tail", "sacpo", "dpo-safe"} <= set(plan.settings.presets)
    assert len({str(job.safe.per_device_train_batch_size) for job in plan.cells.values()}) == 1
