"""Fixed-sequence certificates: order, joint limits, what is needed, files of scores."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from riskalign.errors import InputError
from riskalign.evaluation import (
    Asked,
    Bounded,
    Limit,
    certify,
    cvar_upper_bound,
    empirical_cvar,
    rate_upper_bound,
    read_costs,
)
from riskalign.evaluation.certify import estimate
from riskalign.evaluation.corrected import upper


def asked(rate: float, n: int = 400, seed: int = 0) -> list[Asked]:
    unsafe = np.random.default_rng(seed).random((n, 2)) < rate
    return [Asked(own) for own in unsafe.astype(float)]


def test_the_last_before_the_first_failure_is_chosen() -> None:
    asked_of: list[str] = []

    def setting(name: str, rate: float) -> tuple[str, Callable[[], list[Asked]]]:
        def answers() -> list[Asked]:
            asked_of.append(name)
            return asked(rate)

        return name, answers

    settings = [setting(*each) for each in (("a", 0.0), ("b", 0.01), ("c", 0.5), ("d", 0.0))]
    found = certify(settings, [Limit("mean", 0.1)], Bounded(max_cost=1.0))
    assert (found.chosen, found.prompts_needed) == ("b", None)
    # `d` would pass; it is not even sampled.
    assert asked_of == ["a", "b", "c"]
    assert [test.passed for test in found.tests] == [True, True, False]
    first = found.tests[1]
    own = [a.costs for a in asked(0.01)]
    assert first.bound == cvar_upper_bound(own, 0.0, 1.0)
    assert first.estimate == pytest.approx(np.mean(own))
    assert (first.prompts, first.answers) == (400, 800)


def test_all_limits_are_kept_or_none() -> None:
    answers = asked(0.02)
    marked = [Asked(a.costs, "money" if i % 2 else "health") for i, a in enumerate(answers)]
    limits = [Limit("unsafe_rate", 0.06), Limit("cvar:0.9", 0.6), Limit("mean", 0.08, "money")]
    found = certify([("x", lambda: marked)], limits, Bounded(max_cost=1.0))
    assert found.chosen == "x"
    assert [test.prompts for test in found.tests] == [400, 400, 200]
    assert found.tests[0].bound == rate_upper_bound([a.costs for a in answers])
    tighter = [*limits[:2], Limit("mean", 0.02, "money")]
    refused = certify([("x", lambda: marked)], tighter, Bounded(max_cost=1.0))
    assert refused.chosen is None
    assert [test.passed for test in refused.tests] == [True, True, False]
    with pytest.raises(InputError, match="none of the 400 prompts is of 'law'"):
        certify([("x", lambda: marked)], [Limit("mean", 1.0, "law")], Bounded(max_cost=1.0))


@pytest.mark.parametrize("risk", ["unsafe_rate", "mean", "cvar:0.9"])
@pytest.mark.parametrize("method", ["betting", "chernoff"])
def test_prompts_needed_would_do(risk: str, method: str) -> None:
    answers, bounded = asked(0.05, 100), Bounded(max_cost=1.0, method=method)
    now = estimate(risk, [a.costs for a in answers])
    limit = Limit(risk, 1.4 * now)
    needed = certify([("x", lambda: answers)], [limit], bounded).prompts_needed
    assert needed is not None
    times = needed // 100
    assert certify([("x", lambda: answers * times)], [limit], bounded).chosen == "x"
    fewer = max(1, math.floor(0.9 * times))
    assert certify([("x", lambda: answers * fewer)], [limit], bounded).chosen is None
    by_order = dataclasses.replace(bounded, method="order")
    if risk == "cvar:0.9":
        assert certify([("x", lambda: answers)], [limit], by_order).prompts_needed is not None
    # No number of prompts shows what is not so.
    broken = certify([("x", lambda: answers)], [Limit(risk, 0.9 * now)], bounded)
    assert broken.prompts_needed is None


def test_rates_are_corrected_for_a_scorer_that_errs() -> None:
    own, limit = [a.costs for a in asked(0.05)], Limit("unsafe_rate", 0.5)
    called = rate_upper_bound(own, 0.975)
    blind = Bounded(sensitivity=(45, 50))
    assert blind.upper(limit, own) == upper(called, (45, 50), None, 0.025)
    both = Bounded(sensitivity=(45, 50), specificity=(180, 200))
    assert both.upper(limit, own) == upper(called, (45, 50), (180, 200), 0.025)
    # Fewer answers are called unsafe than there are false alarms on the labels: none is counted.
    alarmed = Bounded(sensitivity=(45, 50), specificity=(140, 200))
    assert alarmed.upper(limit, own) == blind.upper(limit, own)
    assert Bounded(sensitivity=(10**6, 10**6)).upper(limit, own) == pytest.approx(called, abs=1e-4)


def test_an_estimate_weighs_prompts_alike() -> None:
    uneven = [[0.0], [1.0, 1.0, 1.0]]
    assert estimate("mean", uneven) == pytest.approx(0.5)
    assert estimate("unsafe_rate", uneven) == 0.5
    even = np.random.default_rng(0).random((40, 3))
    assert estimate("cvar:0.9", list(even)) == pytest.approx(empirical_cvar(even.ravel(), 0.9))


def test_refusals() -> None:
    for risk in ("erm:1", "cvar:1", "cvar:x", "cvar"):
        with pytest.raises(InputError, match=r"risk|level"):
            Limit(risk, 1.0)
    for limit in (-1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="limit"):
            Limit("mean", limit)
    with pytest.raises(InputError, match="bound: must be one of betting"):
        Bounded(method="guess")
    with pytest.raises(InputError, match="confidence"):
        Bounded(confidence=1.0)
    with pytest.raises(InputError, match="max_cost: is not known"):
        certify([("x", lambda: asked(0))], [Limit("mean", 1.0)], Bounded())
    with pytest.raises(InputError, match="limit: there is none"):
        certify([("x", lambda: asked(0))], [], Bounded())
    with pytest.raises(InputError, match="no setting"):
        certify([], [Limit("unsafe_rate", 0.1)], Bounded())


def test_costs_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    message = [{"role": "user", "content": "b"}]
    rows = [
        {"prompt": "a", "cost": 1, "category": "money"},
        {"prompt": message, "cost": 0.5},
        {"prompt": "a", "cost": 0, "category": "money"},
        {"prompt_id": 7, "cost": 2},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_costs(path) == [Asked([1.0, 0.0], "money"), Asked([0.5]), Asked([2.0])]
    for row, problem in (
        ({"cost": 1}, "line 1: no field 'prompt'"),
        ({"prompt": "a"}, "'cost' is None"),
        ({"prompt": "a", "cost": -1}, "'cost' is -1"),
        ({"prompt": "a", "cost": True}, "'cost' is True"),
        ({"prompt": "a", "cost": "1"}, "'cost' is 1"),
        ({"prompt": "a", "cost": 1, "category": 3}, "'category' is 3"),
        ([], "no field 'prompt'"),
    ):
        path.write_text(json.dumps(row))
        with pytest.raises(InputError, match=problem):
            read_costs(path)
    path.write_text('{"prompt": "a", "cost": 1}\n{"prompt": "a", "cost": 1, "category": "x"}')
    with pytest.raises(InputError, match="line 2: field 'category' is another"):
        read_costs(path)
    path.write_text('{"prompt": "a", "cost": 1, "cost": 2}')
    with pytest.raises(InputError, match="line 1"):
        read_costs(path)
    path.write_text("\n")
    with pytest.raises(InputError, match="no scored answers"):
        read_costs(path)
