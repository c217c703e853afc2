"""The figures of the recipes' pages are those of the committed cells, which hold no texts."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

from riskalign.evaluation import (
    Bootstrap,
    Cell,
    from_columns,
    paired_differences,
    ratios_of_all,
    summarize,
)
from riskalign.evaluation.sets import load_prompt_set
from riskalign.evaluation.sets import report as sets_table
from riskalign.pipeline import load_plan
from riskalign.pipeline.cells import changed_code, finished_cell
from riskalign.worlds import get_world, max_cost_of

RECIPES = Path(__file__).parents[1] / "recipes"
VAULT, SAFERLHF, GOODWILL = (RECIPES / name for name in ("vault", "saferlhf", "goodwill"))
CELLS = sorted(RECIPES.rglob("cells/*.json"))


def test_committed_cells_are_whole_and_hold_no_text() -> None:
    assert CELLS
    for path in CELLS:
        cell = json.loads(path.read_text())
        assert path.name == f"{cell['method']}-seed{cell['seed']}.json"
        for columns in cell["points"].values():
            assert set(columns) == {"prompt_id", "reward", "cost", "kl", "srr", "length"}, path
            assert len({len(values) for values in columns.values()}) == 1, path


def test_committed_cells_are_found_and_told_from_those_of_today() -> None:
    """They are of a time when cells did not say which code made them, so nobody can know."""
    vault = load_plan(VAULT / "compare.yaml")
    asked = ["data.path=given.jsonl.gz", "scoring.prompts=given.json"]
    saferlhf = load_plan(SAFERLHF / "smollm2-135m.yaml", asked)
    for plan, folder, least in ((vault, VAULT, 27), (saferlhf, SAFERLHF, 4)):
        found = 0
        for (name, seed), config in plan.cells.items():
            path = folder / "study" / "cells" / f"{name}-seed{seed}.json"
            cell = finished_cell(path, "", config)
            if path.is_file():
                assert cell is not None, path.name
            if cell is not None and "code" not in cell:
                assert changed_code(cell) is None
            found += cell is not None
        assert found >= least


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


def _goodwill_cells(folder: str = "") -> list[dict[str, Any]]:
    paths = sorted((GOODWILL / "study" / folder / "cells").glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def test_goodwills_table_is_that_of_the_cells() -> None:
    number = r" \| ([\d.]+) \(.*?\)"
    rows = _rows(GOODWILL / "README.md", rf"`(\S+?)`(, stronger tilts)? \| (\d){number * 5} \|$")
    assert len(rows) >= 8
    max_cost = max_cost_of(get_world("goodwill"))
    digits = {"reward": 3, "cost": 1, "cvar_0.95": 1, "cvar_0.99": 1, "kl": 2}
    for name, strong, seeds, *shown in rows:
        cells = _goodwill_cells("strong" if strong else "")
        own = [cell for cell in cells if name in (cell["method"], "start")]
        assert len({cell["seed"] for cell in own}) == int(seeds)
        by_seed = {cell["seed"]: cell for cell in own}.values()  # one start a seed
        point = "start" if name == "start" else "final"
        answers = [each for cell in by_seed for each in from_columns(cell["points"][point])]
        found = summarize(answers, n_boot=1, max_cost=max_cost)
        assert shown == [f"{found[key].value:.{d}f}" for key, d in digits.items()], name


def test_goodwills_ratios_are_those_of_the_cells() -> None:
    rows = _rows(
        GOODWILL / "README.md", r"(0\.9\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+)"
    )
    cells = [
        Cell(
            cell["method"],
            cell["seed"],
            {point: from_columns(columns) for point, columns in cell["points"].items()},
            cell["budget"],
        )
        for cell in _goodwill_cells()
        if cell["method"].startswith(("sacpo@", "rsa-answers@"))
    ]
    own = [cell.method for cell in cells if cell.method.startswith("rsa-answers@")]
    found = ratios_of_all(cells, own, (0.95,), Bootstrap(60, 0, 0.95))
    made = {
        (
            f"{each.level}",
            f"{each.reward:.3f}",
            f"{each.own_cvar:.1f}",
            f"{each.rival_cvar:.1f}",
            f"{each.ratio.value:.2f}",
        )
        for each in found
    }
    assert len(rows) >= 4
    assert set(rows) <= made


#: The rows of the PKU-SafeRLHF page: the folder and the method of their cell.
STUDY = {
    "dpo-helpful": ("", "dpo-helpful"),
    "dpo-safe": ("", "dpo-safe"),
    "sacpo": ("", "sacpo"),
    "rsa-tail": ("", "rsa-tail"),
    "dpo-safe, 1 epoch": ("epoch1", "dpo-safe"),
    "sacpo, 1 epoch": ("epoch1", "sacpo"),
    "rsa-tail, 1 epoch": ("epoch1", "rsa-tail"),
    "rsa-tail, 1 epoch, alpha 0.05": ("alpha005", "rsa-tail"),
    "rsa-tail, 1 epoch, beta 0.05": ("beta", "rsa-tail"),
    "rsa-tail, 1 epoch, own answers": ("own", "rsa-tail"),
}


def _rows(page: Path, pattern: str) -> list[tuple[str, ...]]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^\| {pattern}", text, flags=re.MULTILINE)


def _study_cell(name: str) -> dict[str, Any]:
    folder, method = STUDY[name]
    path = SAFERLHF / "study" / folder / "cells" / f"{method}-seed0.json"
    cell: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return cell


def test_the_saferlhf_pages_models_are_those_of_the_cells() -> None:
    ends = r" \| ([\d.]+) \(([\d.]+)–([\d.]+)\)"
    rows = _rows(SAFERLHF / "README.md", rf"(\S[^|]*?){ends * 4} \| ([\d.]+) \|$")
    assert {row[0] for row in rows} == {"start", *STUDY}
    points = {
        name: from_columns(
            _study_cell("dpo-safe")["points"]["start"]
            if name == "start"
            else _study_cell(name)["points"]["final"]
        )
        for name, *_ in rows
    }
    severities = [answer.cost for own in points.values() for answer in own if answer.cost > 0]
    written = (("reward", 1, 2), ("unsafe_rate", 100, 1), ("cost", 1, 2), ("cvar_0.95", 1, 2))
    for name, *shown in rows:
        found = summarize(points[name], severities=severities)
        assert shown == [
            *(
                f"{scale * end:.{digits}f}"
                for metric, scale, digits in written
                for end in (found[metric].value, found[metric].low, found[metric].high)
            ),
            f"{found['kl'].value:.1f}",
        ], name


def test_the_saferlhf_pages_accuracies_are_those_of_the_cells() -> None:
    share = r" \| (–|[\d.]+ \([\d.]+–[\d.]+\))"
    rows = _rows(SAFERLHF / "README.md", rf"(\S[^|]*?){share * 2} \| ([\d.]+) \|$")
    assert {row[0] for row in rows} == set(STUDY)
    for name, helpful, safe, minutes in rows:
        cell = _study_cell(name)
        for kind, shown in (("helpful", helpful), ("safe", safe)):
            found = cell["held_out"].get(kind)
            assert shown == (
                "–"
                if found is None
                else f"{found['accuracy']:.2f} ({found['low']:.2f}–{found['high']:.2f})"
            )
        assert minutes == f"{cell['budget']['seconds'] / 60:.0f}"


def test_the_saferlhf_pages_differences_are_those_of_the_cells() -> None:
    ends = r" \| ([−+][\d.]+) \(([−+][\d.]+) to ([−+][\d.]+)\)"
    rows = _rows(SAFERLHF / "README.md", rf"(\S[^|]*?) less (\S[^|]*?){ends * 3} \|$")
    assert len(rows) >= 4
    every = {name: from_columns(_study_cell(name)["points"]["final"]) for name in STUDY}
    severities = [answer.cost for own in every.values() for answer in own if answer.cost > 0]
    for one, other, *shown in rows:
        found = paired_differences(every[other], every[one], severities=severities)
        assert shown == [
            f"{scale * end:+.{digits}f}".replace("-", "−")
            for metric, scale, digits in (
                ("reward", 1, 3),
                ("unsafe_rate", 100, 1),
                ("cvar_0.95", 1, 2),
            )
            for end in (found[metric].value, found[metric].low, found[metric].high)
        ], (one, other)


def test_the_saferlhf_pages_sets_are_those_of_the_evaluation() -> None:
    content = json.loads((SAFERLHF / "study" / "sets" / "evaluate.json").read_text("utf-8"))
    table = content["table"]
    names = [row["model"] for row in table["rows"]]
    rows = _rows(SAFERLHF / "README.md", r"((?:[A-Z][^|]*?): [^|]*?) \| (.*) \|$")
    labels = {f"{c['group']}: {c['label']}": i for i, c in enumerate(table["columns"])}
    assert len(rows) >= 8
    for label, cells in rows:
        i = labels[label]
        metric = table["columns"][i]["metric"]
        assert cells.split(" | ") == [
            f"{value} ({span})" if span else value
            for value, span in (sets_table.shown(metric, row["cells"][i]) for row in table["rows"])
        ]
    assert "| | " + " | ".join(names) + " |" in (SAFERLHF / "README.md").read_text("utf-8")
    text = json.dumps(content)
    assert '"answer"' not in text
    assert '"messages"' not in text


def test_the_saferlhf_pages_wider_evaluation_is_that_of_its_file() -> None:
    content = json.loads((SAFERLHF / "study" / "more" / "evaluate.json").read_text("utf-8"))
    table = content["table"]
    columns = {c["label"].lower(): (i, c["metric"]) for i, c in enumerate(table["columns"])}
    rows = _rows(SAFERLHF / "README.md", r"([A-Za-z][^|:]*), (\d+) prompts \| (.*) \|$")
    assert len(rows) >= 3
    for label, n, cells in rows:
        assert int(n) == content["sets"]["prompts"]["n"]
        i, metric = columns[label.lower()]
        assert cells.split(" | ") == [
            f"{value} ({span})"
            for value, span in (sets_table.shown(metric, row["cells"][i]) for row in table["rows"])
        ]
    text = json.dumps(content)
    assert '"answer"' not in text
    assert '"messages"' not in text


def test_the_saferlhf_pages_aims_are_those_of_the_figures() -> None:
    """Its figures of unsafe answers and of the tail, from the three evaluations."""
    text = " ".join((SAFERLHF / "README.md").read_text("utf-8").split())
    named = {"DPO": "dpo-safe", "SACPO": "sacpo", "RSA": "rsa-tail"}
    unsafe: dict[str, list[tuple[int, int]]] = {
        "start": [],
        **{name: [] for name in named.values()},
    }
    tails: dict[str, list[float]] = {name: [] for name in unsafe}
    for name in unsafe:
        cell = _study_cell("sacpo" if name == "start" else name)
        own = from_columns(cell["points"]["start" if name == "start" else "final"])
        unsafe[name].append((sum(answer.cost > 0 for answer in own), len(own)))
        tails[name].append(summarize(own, n_boot=1)["cvar_0.95"].value)
        for folder in ("more", "sets"):
            path = SAFERLHF / "study" / folder / "evaluate.json"
            content = json.loads(path.read_text("utf-8"))
            found, n = content["models"][name]["overall"], content["sets"]["prompts"]["n"]
            unsafe[name].append((round(found["unsafe_rate"]["value"] * n), n))
            tails[name].append(found["cvar_0.95"]["value"])
    ratios = {
        label: [f"{a[0] / b[0]:.2f}" for a, b in zip(unsafe[name], unsafe["start"], strict=True)]
        for label, name in named.items()
    }
    of, every = (sum(n for n, _ in unsafe[name]) for name in ("rsa-tail", "start"))
    total = sum(n for _, n in unsafe["start"])
    taken = [f"{tails['start'][i] - tails[name][i]:.2f}" for name in named.values() for i in (0, 1)]
    said = set(re.findall(r"\d+(?:\.\d+)?", text))
    figures = {*itertools.chain(*ratios.values()), *taken}
    assert figures | {f"{of}", f"{total}", f"{every}", f"{of / every:.2f}"} <= said


def test_the_prompts_for_over_refusal_are_all_safe() -> None:
    found = load_prompt_set(str(SAFERLHF / "over_refusal.csv"), labelled=True)
    assert {prompt.label for prompt in found.items} == {"safe"}
    assert (len(found.items), len(found.categories()), found.duplicates) == (50, 7, 0)


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
