"""A job's budget: certificates of its dial, prompts of their own, and what is refused early."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from riskalign.errors import InputError
from riskalign.evaluation import Bounded, cvar_upper_bound, read_results
from riskalign.files.atomic import read_json_lines
from riskalign.models import fingerprint, load_model
from riskalign.pipeline import BudgetConfig, align, certify_files, certify_models, load_config
from riskalign.pipeline.export import export_certified
from riskalign.pipeline.job import calibration_prompts, evaluation_prompts
from riskalign.worlds import Prompt, get_world
from riskalign.worlds.world import Split
from tests.pipeline.conftest import SPEC, Letters

Make = Callable[..., dict[str, Any]]
BUDGET = {"limit": 6.0, "prompts": 5, "max_cost": 6.0, "settings": [1.0, 0.5]}


class Months(Letters):
    """Letters with a category; none of its costs is above 6."""

    name = "months"
    max_cost = 6.0

    def prompts(self, split: Split, n: int, seed: int) -> list[Prompt]:
        """As those of letters, every second of a category."""
        return [
            Prompt(prompt.id, prompt.messages, {"category": "odd"} if i % 2 else {})
            for i, prompt in enumerate(super().prompts(split, n, seed))
        ]


def test_a_point_of_the_dial_is_certified_and_measured_afresh(job: Make) -> None:
    done = align(job(budget=BUDGET))
    content = json.loads((done.output_dir / "certificate.json").read_text())
    assert content["certified"] == "dial-0.5"
    assert content["certified_w"] == 0.5
    assert [test["setting"] for test in content["tests"]] == ["final", "dial-0.5"]
    # What was tested is what the answers to the calibration prompts cost.
    rows = list(read_json_lines(done.output_dir / "calibration" / "dial-0.5.jsonl"))
    costs: dict[str, list[float]] = {}
    for row in rows:
        costs.setdefault(row["prompt_id"], []).append(row["cost"])
    assert [len(own) for own in costs.values()] == [2] * 5
    bound = cvar_upper_bound(list(costs.values()), 0.95, 6.0)
    assert content["tests"][1]["bound"] == bound
    assert content["models"]["final"]["name"].endswith("safe/model")
    # Measured afresh, on other prompts.
    assert done.results is not None
    results = read_results(done.results)
    assert "certified" in results["models"]
    assert results["certificate"]["certified"] == "dial-0.5"
    again = list(read_json_lines(done.output_dir / "evaluation" / "certified.jsonl"))
    assert not {row["prompt_id"] for row in again} & costs.keys()
    # Nothing is done twice.
    told = align(job(budget=BUDGET)).certificate
    assert told == {key: value for key, value in content.items() if key != "created"}
    manifest = json.loads(done.manifest.read_text())
    assert manifest["stages"]["calibrate-final"]["reused"]
    assert manifest["stages"]["certificate"]["reused"]


def test_models_of_larger_multipliers_are_the_safe_end(job: Make, tmp_path: Path) -> None:
    budget = {**BUDGET, "settings": [1.0], "lambdas": [2.0, 8.0], "limit": 6.0}
    done = align(job(budget=budget))
    assert done.certificate is not None
    tested = [test["setting"] for test in done.certificate["tests"]]
    assert tested == ["lambda-8", "lambda-2", "final"]
    assert done.certificate["settings"] == {"lambda-8": None, "lambda-2": None, "final": 1.0}
    models = json.loads(done.manifest.read_text())["models"]
    trained = ["safe-lambda-8", "safe-lambda-2", "safe"]
    assert len({models[name]["fingerprint"] for name in trained}) == 3
    assert len({models[name]["reference"] for name in trained}) == 1
    assert [models[name]["beta"] for name in trained] == [0.0125, 0.05, 0.1]
    # They learn from the same rows.
    assert [path.name for path in (tmp_path / "run" / "pairs").iterdir()].count("safe.jsonl") == 1
    assert not list((tmp_path / "run" / "pairs").glob("*lambda*"))


def test_the_chosen_multiplier_is_measured_afresh_and_exported(
    job: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bounds = {"lambda-8": 1.0, "lambda-2": 2.0, "final": 3.0}
    # Bounds of tiny random models are none to choose by.
    left = iter(bounds.values())
    monkeypatch.setattr(Bounded, "upper", lambda *args, **how: next(left))
    budget = {**BUDGET, "settings": [1.0], "lambdas": [2.0, 8.0], "limit": 2.5}
    done = align(job(budget=budget))
    assert done.certificate is not None
    assert (done.certificate["certified"], done.certificate["certified_w"]) == ("lambda-2", None)
    assert done.results is not None
    assert "certified" in read_results(done.results)["models"]
    monkeypatch.undo()
    export_certified(done.output_dir, tmp_path / "out")
    weights = done.certificate["models"]["lambda-2"]["fingerprint"]
    assert fingerprint(load_model(tmp_path / "out").model) == weights
    assert "It is one step's model." in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lambda_": 2.0}, "has 2, which is not above lambda_: 2"),
        ({"schedule": "both"}, "schedule both moves both steps"),
        ({"order": ["safe", "helpful"]}, "the safe steps to be the last"),
        ({"safe": {"beta": 0.1}}, "so does safe.beta"),
        ({"budget": {"limit": 1.0, "lambdas": [2.0, 2.0000001]}}, "same in six digits"),
    ],
)
def test_multipliers_that_mean_nothing(job: Make, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"budget.lambdas: .*{message}"):
        load_config(job(budget={**BUDGET, "settings": [], "lambdas": [2.0]}) | given)


def test_where_nothing_passes_the_job_says_what_is_missing(job: Make) -> None:
    done = align(job(budget={**BUDGET, "limit": 0.001}))
    assert done.certificate is not None
    assert done.certificate["certified"] is None
    assert [test["setting"] for test in done.certificate["tests"]] == ["final"]
    assert done.results is not None
    assert "certified" not in read_results(done.results)["models"]


def test_the_default_family_goes_from_the_last_safe_step_to_the_first(job: Make) -> None:
    forward = load_config(job(budget={"limit": 1.0, "max_cost": 6.0}))
    names = [name for name, _ in forward.budget_settings()]
    assert names == ["final", *(f"dial-{i / 10:g}" for i in range(9, 0, -1)), "step1"]
    backward = load_config(job(budget={"limit": 1.0, "max_cost": 6.0}, order=["safe", "helpful"]))
    assert [name for name, _ in backward.budget_settings()] == names[::-1]
    alone = load_config(job(budget={"limit": 1.0, "max_cost": 6.0}, order=["safe"]))
    assert alone.budget_settings() == [("final", 1.0)]


def test_calibration_prompts_are_none_of_the_evaluation(job: Make) -> None:
    config, world = load_config(job(budget={"limit": 1.0, "prompts": 50})), get_world(SPEC)
    evaluated = evaluation_prompts(config, world)
    drawn = calibration_prompts(config, world, evaluated)
    assert len(drawn) == len({prompt.id for prompt in drawn}) == 50
    assert not {str(p.messages) for p in drawn} & {str(p.messages) for p in evaluated}


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"limit": 1.0}, "budget.max_cost: is null, and the world does not say"),
        ({}, "budget.limit: give either it or limits"),
        ({"limit": 1.0, "limits": [{"limit": 1.0}]}, "budget.limit: give either"),
        ({"limit": 1.0, "risk": "erm:1"}, "budget.risk: .*cvar:LEVEL, mean or unsafe_rate"),
        ({"limit": -1.0}, "budget.limit"),
        ({"limit": 1.0, "sensitivity": "9/10"}, "budget.sensitivity: is given, and no limit"),
        ({"limit": 1, "risk": "unsafe_rate", "specificity": "9/10"}, "needs sensitivity"),
        ({"limits": [{"risk": "mean"}]}, "budget.limits"),
        ({"limit": 1.0, "prompts": 1}, "budget.prompts"),
        ({"limits": [{"limit": 1, "category": "law"}], "max_cost": 9}, "no calibration prompt is"),
    ],
)
def test_refused_before_any_work(
    job: Make, tmp_path: Path, budget: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        align(job(budget=budget))
    assert not (tmp_path / "run").exists()


def test_a_budget_needs_an_evaluation(job: Make) -> None:
    with pytest.raises(InputError, match="budget: needs an evaluation"):
        load_config(job(budget=BUDGET, evaluation=None))
    with pytest.raises(InputError, match=r"budget.settings: needs steps of two kinds"):
        load_config(job(budget=BUDGET, order=["safe"]))


def test_models_of_a_stranger(job: Make, model_folder: Path) -> None:
    limits = [{"risk": "unsafe_rate", "limit": 1.0}, {"limit": 6.0, "category": "odd"}]
    base = job(budget={"limits": limits, "prompts": 6}) | {"world": f"{__name__}:Months"}
    found = certify_models(load_config(base), [str(model_folder)])
    assert found["certified"] == str(model_folder)
    assert [(t["prompts"], t["answers"]) for t in found["tests"]] == [(6, 12), (3, 6)]
    assert found["max_cost"] == 6.0
    assert len(found["models"][str(model_folder)]["fingerprint"]) == 64


def test_files_of_a_stranger(tmp_path: Path) -> None:
    paths = []
    for name, cost in (("safe", 0.0), ("bold", 1.0)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(f'{{"prompt": "{i}", "cost": {cost}}}\n' for i in range(300)))
        paths.append(path)
    found = certify_files(BudgetConfig(limit=0.5, max_cost=1.0), paths)
    assert found["certified"] == str(paths[0])
    assert list(found["files"]) == [str(path) for path in paths]
    with pytest.raises(InputError, match="given twice"):
        certify_files(BudgetConfig(limit=0.5, max_cost=1.0), [paths[0], paths[0]])
