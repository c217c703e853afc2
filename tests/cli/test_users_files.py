"""A user's own files in an output folder survive every command, byte for byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from riskalign.files.folder import Outputs, files_below
from riskalign.pipeline import load_config, load_plan
from riskalign.pipeline.job import outputs_of
from tests.cli.test_app import run
from tests.evaluation.judges.stub import write_answers
from tests.pipeline.conftest import SPEC

SHIPPED = Path("docs/quickstart.json").resolve()
_STEP = {"max_steps": 1, "per_device_train_batch_size": 2}
_SMALL = {"max_new_tokens": 4, "batch_size": 16}
RECIPE: dict[str, Any] = {
    "model": "start",
    "output_dir": "run",
    "world": SPEC,
    "helpful": _STEP,
    "safe": _STEP,
    "merges": [0.5],
    "sampling": {"prompts": 4, "answers_per_prompt": 4, **_SMALL},
    "evaluation": {"prompts": 3, "answers_per_prompt": 1, "n_boot": 20, **_SMALL},
    "compare": {"presets": ["rsa"], "seeds": [3]},
}
SETS = ["--model", "a=start", "--prompts", "prompts.json", "--output_dir", "run"]
JUDGE = ["--answers", "new.jsonl", "--against", "old.jsonl", "--output_dir", "run"]
COMMANDS = {
    "align": ["align", "-c", "recipe.yaml"],
    "quickstart": ["quickstart", "--short", "--output_dir", "run"],
    "train": ["train", "-c", "recipe.yaml", "--step", "safe"],
    "evaluate": ["evaluate", "-c", "recipe.yaml", "--final", "start", "--merges", "[]"],
    "compare": ["compare", "-c", "recipe.yaml"],
    "sets": ["evaluate", *SETS, "--max_new_tokens", "4"],
    "judge": ["judge", *JUDGE, "--base_url", "http://127.0.0.1:9/v1", "--judge_model", "m"],
}
WORK = "work/seed3/rsa/"
PLACES = {
    "align": [
        "manifest.json", "config.yaml", "finished.json", "results.json", "report.html", "pairs",
        "pairs/helpful.jsonl", "pairs/safe.jsonl", "helpful", "helpful/log.json", "helpful/model",
        "helpful/model/notes", "helpful/adapter/x", "helpful/checkpoints/checkpoint-9/x",
        "safe/model/config.json", "safe/checkpoints/x", "model", "model/model.safetensors",
        "evaluation/start.jsonl", "evaluation/final.jsonl", "evaluation/merge-0.5.jsonl",
        "evaluation/dial-0.5.jsonl",
    ],
    "quickstart": ["model/model.safetensors", "config.yaml"],
    "train": ["manifest.json", "model/x", "safe/log.json"],
    "evaluate": ["manifest.json", "results.json", "report.html", "evaluation/final.jsonl"],
    "compare": [
        "compare.json", "compare.html", "cells", "cells/rsa-seed3.json", "work",
        f"{WORK}model/x", f"{WORK}manifest.json", f"{WORK}helpful/checkpoints/x",
    ],
    "sets": ["finished.json", "evaluate.json", "evaluate.html", "answers/a.jsonl", "work",
        "work/prompts/a.jsonl"],
    "judge": ["replies.jsonl", "verdicts.jsonl", "judge.json"],
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, start_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    (tmp_path / "prompts.json").write_text(json.dumps([{"prompt": "Order 1?"}]))
    for name in ("new", "old"):
        write_answers(tmp_path / f"{name}.jsonl", {"q": [name]})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in files_below(root)}


@pytest.mark.parametrize(
    ("command", "place"), [(name, place) for name, own in PLACES.items() for place in own]
)
def test_a_file_where_an_output_goes_is_refused_before_any_work(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    place: str,
) -> None:
    planted = here / "run" / place
    planted.parent.mkdir(parents=True)
    planted.write_text("mine")
    before = tree(here)
    assert run(monkeypatch, *COMMANDS[command]) == 2
    said = capsys.readouterr().err
    assert place.removeprefix(WORK) in said  # a cell's folder is named before it
    assert "Traceback" not in said
    assert tree(here) == before


def below(place: str, outputs: Outputs) -> bool:
    return place in outputs.files or any(place.startswith(f"{t}/") for t in outputs.trees)


def test_all_that_a_job_writes_was_foreseen_and_other_files_stay(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others = ["notes", "helpful/notes", "pairs/mine.jsonl", "evaluation/plot.png", "models/x"]
    for place in others:
        (here / "run" / place).parent.mkdir(parents=True, exist_ok=True)
        (here / "run" / place).write_text("mine")
    assert run(monkeypatch, *COMMANDS["align"]) == 0
    outputs = outputs_of(load_config("recipe.yaml"))
    made = {place for place in tree(here / "run") if not place.startswith(".riskalign/")}
    assert {place for place in made if not below(place, outputs)} == set(others)
    # What is added to our own folders, or a start model in them, is in the way of what changes it.
    added = here / "run" / "helpful" / "model" / "added"
    added.write_text("mine")
    before = tree(here)
    changed = ["--helpful.beta", "0.3"]
    assert run(monkeypatch, *COMMANDS["align"], *changed) == 2
    assert "helpful/model/added" in capsys.readouterr().err
    added.unlink()
    for model in ("run/model", "run/safe/model"):
        assert run(monkeypatch, *COMMANDS["train"], "--model", model) == 2
        assert f"model '{model}': lies where" in capsys.readouterr().err
    assert tree(here).items() == before.items() - {("run/helpful/model/added", b"mine")}
    assert run(monkeypatch, *COMMANDS["align"], *changed) == 0
    assert {(here / "run" / place).read_text() for place in others} == {"mine"}


def test_the_folder_of_the_start_model(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "start").rename(here / "model")
    before = tree(here)
    flags = ["--model", "model", "--output_dir", "."]
    assert run(monkeypatch, *COMMANDS["align"], *flags) == 2
    assert "model/config.json" in capsys.readouterr().err
    assert tree(here) == before


OUT = {
    "sample": ["sample", "-c", "recipe.yaml", "--kind", "safe"],
    "answers": ["sample", "-c", "recipe.yaml", "--kind", "answers"],
    "report": ["report", "run"],
    "merge": ["merge", "start", "start", "--w", "0.5"],
    "data": ["data", "new.jsonl"],
    "score train": ["score", "train", "--kind", "cost", "--data", "new.jsonl"],
    "score apply": ["score", "apply", "--scorer", "scorer", "--data", "new.jsonl"],
}


@pytest.mark.parametrize("command", OUT)
def test_what_out_names_is_replaced_only_when_asked(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (here / "run").mkdir()
    (here / "run" / "results.json").write_bytes(SHIPPED.read_bytes())
    (here / "mine.jsonl").write_text("mine")
    before = tree(here)
    command_line = [*OUT[command], "--out", "mine.jsonl"]
    assert run(monkeypatch, *command_line) == 2
    said = capsys.readouterr().err
    assert "'mine.jsonl' exists" in said
    assert tree(here) == before
    if command in ("merge", "data"):
        assert "Give a new folder" in said
        return
    assert "or --overwrite to replace it" in said
    if command in ("sample", "answers", "report"):
        for _ in range(2):
            assert run(monkeypatch, *command_line, "--overwrite") == 0
        after = tree(here)
        assert after.pop("mine.jsonl") != before.pop("mine.jsonl")
        assert after == before


@pytest.mark.parametrize(
    ("command", "out", "words"),
    [
        ("sample", "start", "lies where 'start' is to be written"),
        ("report", "run/results.json", "lies where 'run/results.json' is to be written"),
        ("report", "empty", "out: 'empty' is a folder. Give a file."),
    ],
)
def test_out_is_no_input_and_no_folder_even_when_asked(
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    out: str,
    words: str,
) -> None:
    (here / "empty").mkdir()
    (here / "run").mkdir()
    (here / "run" / "results.json").write_bytes(SHIPPED.read_bytes())
    before = tree(here)
    assert run(monkeypatch, *OUT[command], "--out", out, "--overwrite") == 2
    assert words in capsys.readouterr().err
    assert tree(here) == before


def test_no_name_leaves_the_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model that is called like a way out is a value like any other, in one file's name."""
    for place in ("run/work/m/x", "run/cells/m-seed3.json", "m/x"):
        (here / place).parent.mkdir(parents=True, exist_ok=True)
        (here / place).write_text("mine")
    (here / "x").mkdir()
    (here / "m").rename(here / "mine")
    (here / "start").rename(here / "m")
    before = tree(here)
    content = RECIPE | {"compare": {**RECIPE["compare"], "grid": {"model": ["x/../m"]}}}
    (here / "grid.yaml").write_text(yaml.safe_dump(content))
    plan = load_plan("grid.yaml")
    (cell,) = plan.cells.values()
    assert Path(cell.output_dir) == Path("run/work/seed3/rsa@model=x%2F..%2Fm")
    assert run(monkeypatch, "compare", "-c", "grid.yaml") == 0
    after = tree(here)
    assert {name: after[name] for name in before} == before
    assert (here / "run" / "cells" / "rsa@model=x%2F..%2Fm-seed3.json").is_file()


@pytest.mark.parametrize("place", ["cells/rsa-seed3.json", "work/seed3/rsa/notes"])
def test_a_comparison_goes_on_beside_a_users_files(
    here: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """A cell that was brought along counts as finished; what lies beside one's work stays."""
    assert run(monkeypatch, *COMMANDS["compare"]) == 0
    cells = {path: path.read_bytes() for path in (here / "run" / "cells").iterdir()}
    (here / "run").rename(here / "old-run")
    (here / "run" / place).parent.mkdir(parents=True)
    mine = next(iter(cells.values())) if place.startswith("cells") else b"mine"
    (here / "run" / place).write_bytes(mine)
    assert run(monkeypatch, *COMMANDS["compare"]) == 0
    assert (here / "run" / place).read_bytes() == mine


@pytest.fixture(autouse=True)
def _outside_nothing_changes(tmp_path: Path) -> Iterator[None]:
    (tmp_path.parent / f"{tmp_path.name}-beside").write_text("mine")
    yield
    assert (tmp_path.parent / f"{tmp_path.name}-beside").read_text() == "mine"
