"""Presets x seeds on a tiny job: shared stages, resuming, settings, and what is refused."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from riskalign.errors import InputError
from riskalign.models import save_model
from riskalign.pipeline import compare, load_plan, run_plan, sources
from riskalign.pipeline.cells import _beside
from riskalign.pipeline.evaluate import evaluate
from riskalign.pipeline.parse import Settings
from tests import tiny
from tests.pipeline.test_run import Recorder

Make = Callable[..., dict[str, Any]]


def small(job: Make, **group: Any) -> dict[str, Any]:
    return job() | {"compare": {"presets": ["sacpo", "rsa-tail"], "seeds": [3], **group}}


def test_cells_share_what_they_have_in_common(job: Make, tmp_path: Path) -> None:
    recorder = Recorder()
    given = small(job, settings={"rsa-tail": {"safe.learning_rate": 5e-3}})
    elsewhere = tmp_path / "run" / "work" / "seed3" / "tdpo" / "half-done"
    elsewhere.mkdir(parents=True)
    result = run_plan(load_plan(given), progress=recorder)
    told = dict(zip(recorder.stages, recorder.notes, strict=True))
    second = "rsa-tail · seed 3 · "
    assert told[f"{second}train-helpful"] == told[f"{second}evaluate-start"] == "done before"
    assert told[f"{second}pairs-safe"] == "done before"
    assert told[f"{second}train-safe"] == ""
    results = json.loads(result.results.read_text())
    points = [(row["method"], row["point"]) for row in results["points"]]
    assert points == [
        ("start", "start"),
        ("sacpo", "final"), ("sacpo", "dial-0.5"),
        ("rsa-tail", "final"), ("rsa-tail", "dial-0.5"),
    ]  # fmt: skip
    for budget in results["budgets"].values():
        assert budget["updates"] == 6
        assert budget["examples"] == 12
        assert budget["sampled_tokens"] > 0
        assert budget["peak_megabytes"] > 100
    assert {m["rival"] for m in results["matched"]} == {"sacpo"}
    assert results["settings"]["rsa-tail"]["safe"]["learning_rate"] == 5e-3
    # Weights are gone, cells stay, and so does what another run has under way.
    assert [path.name for path in (tmp_path / "run" / "work" / "seed3").iterdir()] == ["tdpo"]
    assert elsewhere.is_dir()
    assert sorted(p.name for p in (tmp_path / "run" / "cells").iterdir()) == [
        "rsa-tail-seed3.json", "sacpo-seed3.json",
    ]  # fmt: skip


def test_goes_on_where_it_was_stopped(
    job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load_plan(small(job))
    real = evaluate

    def stopped(job: Any, models: Any) -> Any:
        if job.title.startswith("rsa-tail"):
            raise KeyboardInterrupt
        return real(job, models)

    monkeypatch.setattr("riskalign.pipeline.compare.evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan)
    monkeypatch.setattr("riskalign.pipeline.compare.evaluate", real)
    recorder = Recorder()
    first = run_plan(plan, progress=recorder)
    told = dict(zip(recorder.stages, recorder.notes, strict=True))
    assert told["sacpo · seed 3 · cell"] == "done before"
    assert told["rsa-tail · seed 3 · train-safe"] == "done before"
    straight = run_plan(load_plan(small(job) | {"output_dir": str(tmp_path / "straight")}))
    one, other = (json.loads(r.results.read_text())["points"] for r in (first, straight))
    assert one == other


def test_changed_settings_make_a_cell_anew(job: Make) -> None:
    run_plan(load_plan(small(job, presets=["dpo-safe"])))
    recorder = Recorder()
    run_plan(load_plan(small(job, presets=["dpo-safe"]), ["safe.beta=0.7"]), progress=recorder)
    assert "dpo-safe · seed 3 · train-safe" in recorder.stages


def test_settings_that_a_method_does_not_have_leave_its_cell(job: Make) -> None:
    """DPO has no weight of a risk term, and a method of one step nothing of the other's."""
    settings = {"rsa-tail": {"order": ["safe"]}}
    plan = small(job, presets=["dpo-safe", "rsa-tail"], settings=settings)
    run_plan(load_plan(plan))
    recorder = Recorder()
    changed = ["safe.alpha=0.2", "helpful.learning_rate=0.5"]
    run_plan(load_plan(plan, changed), progress=recorder)
    told = dict(zip(recorder.stages, recorder.notes, strict=True))
    assert told["dpo-safe · seed 3 · cell"] == "done before"
    assert told["rsa-tail · seed 3 · train-safe"] == ""


def test_merges_and_one_step(job: Make) -> None:
    result = run_plan(load_plan(small(job, presets=["p-sacpo", "dpo-helpful", "sacpo-kto"])))
    points = json.loads(result.results.read_text())["points"]
    names = [row["point"] for row in points if row["method"] == "p-sacpo"]
    assert names == ["final", "merge-0.25", "merge-0.5", "merge-0.75", "dial-0.5"]
    assert [row["point"] for row in points if row["method"] == "dpo-helpful"] == ["final"]
    by = {(row["method"], row["point"]): row["metrics"] for row in points}
    assert by["sacpo-kto", "final"]["kl"]["value"] > 0
    ends = [by["p-sacpo", point]["kl"]["value"] for point in ("merge-0.25", "final")]
    assert ends[0] != ends[1]


def test_a_file_with_the_group_serves_align_too(job: Make, tmp_path: Path) -> None:
    from riskalign.pipeline import load_config

    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(small(job)))
    assert load_config(path).seed == 0
    plan = load_plan(path, presets=["rsa"], seeds=[1, 2])
    assert sorted(plan.cells) == [("rsa", 1), ("rsa", 2)]
    assert {config.seed for config in plan.cells.values()} == {1, 2}


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"presets": ["rpo"]}, r"compare.presets: 'rpo' is not one of"),
        ({"preset": ["rsa"]}, r"compare.preset: no such field"),
        ({"seeds": [0.5]}, r"compare.seeds: 0.5 should be a valid integer"),
        ({"seeds": []}, r"compare.seeds: .*at least 1 item"),
        ({"settings": {"sacpo": {"safe.alpa": 1}}}, r"safe.alpa: no such field"),
        ({"settings": {"rpo": {}}}, r"'rpo' is not one of"),
        ({"grid": {"lambda_": 2}}, r"compare.grid: expected a list"),
        ({"grid": {"rsa": [1]}}, r"compare.grid: expected a list"),
        ({"grid": {"rsa": {"lambda_": 1}}}, r"compare.grid: expected a list"),
        ({"grid": {"lambda_": []}}, r"compare.grid: expected a list"),
        ({"own": ["rsa-tial"]}, r"compare.own: 'rsa-tial' is not one of"),
        ({"keep_models": "no"}, r"compare.keep_models: expected true or false"),
        ({"settings": {"rsa": {"seed": date(2026, 1, 2)}}}, r"compare.seeds: seed is set"),
        ({"settings": []}, r"compare.settings: .. should be a valid dictionary"),
    ],
)
def test_bad_groups(job: Make, group: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_plan(small(job, **group))


def test_a_grid_makes_methods(job: Make) -> None:
    grid = {"lambda_": [0.5, 2], "safe.alpha": [0.1]}
    own = {"rsa-tail": {"safe.beta": 0.4}}
    plan = load_plan(small(job, presets=["sacpo", "rsa-tail"], grid=grid, settings=own))
    assert [name for name, _ in plan.cells] == [
        "sacpo@lambda_=0.5,alpha=0.1", "sacpo@lambda_=2,alpha=0.1",
        "rsa-tail@lambda_=0.5,alpha=0.1", "rsa-tail@lambda_=2,alpha=0.1",
    ]  # fmt: skip
    config = plan.cells["rsa-tail@lambda_=2,alpha=0.1", 3]
    assert (config.lambda_, config.safe.alpha, config.safe.beta) == (2.0, 0.1, 0.4)


def test_a_preset_has_a_grid_of_its_own(job: Make) -> None:
    grid = {"lambda_": [1], "rsa-tail": {"lambda_": [0.5, 2], "safe.alpha": [0.1]}}
    plan = load_plan(small(job, presets=["sacpo", "rsa-tail"], grid=grid))
    assert [name for name, _ in plan.cells] == [
        "sacpo@lambda_=1", "rsa-tail@lambda_=0.5,alpha=0.1", "rsa-tail@lambda_=2,alpha=0.1",
    ]  # fmt: skip


@pytest.mark.parametrize("group", ["text", 5, ["a"], True])
def test_a_group_is_a_group(job: Make, group: Any) -> None:
    with pytest.raises(InputError, match="compare: expected fields, found"):
        load_plan(job() | {"compare": group})


def test_a_world_is_needed(job: Make) -> None:
    with pytest.raises(InputError, match="needs a world, or data, and an evaluation"):
        load_plan(small(job) | {"evaluation": None})
    with pytest.raises(InputError, match="compare certifies nothing"):
        load_plan(small(job) | {"budget": {"limit": 1.0}})


def test_defaults_are_presets() -> None:
    plan = load_plan({"world": "vault"})
    assert {name for name, _ in plan.cells} == set(Settings().presets)


def test_nested_settings_keep_the_preset(job: Make) -> None:
    plan = load_plan(small(job, settings={"sacpo": {"safe": {"learning_rate": 1e-4}}}))
    step = plan.cells["sacpo", 3].safe
    assert (step.loss_type, step.risk) == ("dpo", "mean")
    assert (step.learning_rate, step.max_steps) == (1e-4, 3)


@pytest.mark.parametrize("folder", ["a #1", "a: b", "[x]", "@x"])
def test_folders_of_any_name(job: Make, tmp_path: Path, folder: str) -> None:
    plan = load_plan(small(job) | {"output_dir": str(tmp_path / folder)})
    places = {Path(config.output_dir) for config in plan.cells.values()}
    assert places == {tmp_path / folder / "work" / "seed3" / name for name in ("sacpo", "rsa-tail")}


def test_other_weights_make_a_cell_anew(job: Make, model_folder: Path) -> None:
    given = small(job, presets=["dpo-helpful"])
    run_plan(load_plan(given))
    save_model(tiny.make_model(seed=5), tiny.make_tokenizer(), model_folder)
    recorder = Recorder()
    run_plan(load_plan(given), progress=recorder)
    assert "dpo-helpful · seed 3 · train-helpful" in recorder.stages


def test_what_is_made_of_the_cells_makes_none_anew(job: Make, tmp_path: Path) -> None:
    given = small(job, presets=["dpo-helpful"], keep_models=True)
    run_plan(load_plan(given))
    manifest = tmp_path / "run" / "work" / "seed3" / "dpo-helpful" / "manifest.json"
    before = manifest.read_text()
    recorder = Recorder()
    run_plan(load_plan(given, ["evaluation.n_boot=60"]), progress=recorder)
    assert recorder.stages == ["dpo-helpful · seed 3 · cell"]
    assert manifest.read_text() == before


def test_flags_do_not_make_names_lie(job: Make) -> None:
    given = small(job, grid={"lambda_": [1, 2]})
    with pytest.raises(InputError, match="lambda_ is given as a flag as well"):
        load_plan(given, ["lambda_=3"])
    with pytest.raises(InputError, match="seed is set by the comparison"):
        load_plan(given, ["seed=3"])
    with pytest.raises(InputError, match="dpo-safe needs a world, or data, and an evaluation"):
        load_plan(small(job, presets=["dpo-safe"], settings={"dpo-safe": {"evaluation": None}}))


def test_defaults_leave_a_cells_key_alone() -> None:
    settings = {"beta": 0.1, "safe": {"alpha": 0.5, "risk": "mean"}, "peft": {"r": 4}, "new": None}
    defaults = {"beta": 0.1, "safe": {"alpha": 0.5, "risk": "cvar:0.95"}, "peft": None, "new": None}
    assert _beside(settings, defaults) == {"safe": {"risk": "mean"}, "peft": {"r": 4}}


def test_cells_of_other_code_stay_and_are_marked(
    job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither made anew nor passed over in silence, unless that is asked for."""
    given = small(job, presets=["dpo-helpful", "dpo-safe"])
    first = json.loads(run_plan(load_plan(given)).results.read_text())
    assert first["other_code"] == {}
    path = tmp_path / "run" / "cells" / "dpo-safe-seed3.json"
    old = json.loads(path.read_text())
    assert {"losses", "models", "world"} <= set(old["code"])
    del old["code"]  # as cells of before
    old["key"] = "of another time"
    path.write_text(json.dumps(old))
    now = sources._all()
    monkeypatch.setattr(sources, "_all", lambda: now | {"losses": "other"})
    recorder = Recorder()
    plan = load_plan(given)
    second = json.loads(run_plan(plan, progress=recorder).results.read_text())
    assert dict(zip(recorder.stages, recorder.notes, strict=True)) == {
        "dpo-helpful · seed 3 · cell": "done before, made by other code (losses)",
        "dpo-safe · seed 3 · cell": "done before, made by unknown code",
    }
    assert second["points"] == first["points"]
    assert second["other_code"] == {
        "dpo-helpful": {"cells": 1, "other": 1, "unknown": 0, "rooms": ["losses"]},
        "dpo-safe": {"cells": 1, "other": 0, "unknown": 1, "rooms": []},
    }
    # Of a cell of before its settings can be told: with others it is made anew.
    recorder = Recorder()
    run_plan(load_plan(given, ["safe.beta=0.7"]), progress=recorder)
    assert "dpo-safe · seed 3 · train-safe" in recorder.stages
    recorder = Recorder()
    third = json.loads(run_plan(plan, progress=recorder, redo_stale=True).results.read_text())
    assert recorder.notes[recorder.stages.index("dpo-helpful · seed 3 · train-helpful")] == ""
    assert third["other_code"] == {}
    assert third["points"] == first["points"]


def test_a_world_of_ones_own_is_code_too(
    job: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edited_world.py").write_text(
        "from tests.pipeline.conftest import Letters\n\n\nclass Mine(Letters):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    given = small(job, presets=["dpo-helpful"]) | {"world": "edited_world:Mine"}
    run_plan(load_plan(given))
    with (tmp_path / "edited_world.py").open("a") as file:
        file.write("\n\nOTHER = 1\n")
    found = json.loads(run_plan(load_plan(given)).results.read_text())["other_code"]
    assert found["dpo-helpful"]["rooms"] == ["world"]


def test_a_methods_data_are_read_once_for_all_seeds(job: Make, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in tiny.make_pairs(4)))
    config = job() | {"compare": {"presets": ["dpo-safe", "sacpo"], "seeds": [0, 1]}}
    config["safe"] |= {"data": str(path)}
    one, other, again, _ = compare._read(load_plan(config))
    assert (one.name, one.seed, again.name, again.seed) == ("dpo-safe", 0, "dpo-safe", 1)
    assert one.data is again.data is not other.data
    assert one.key != again.key
