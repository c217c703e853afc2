"""Summaries, clustered intervals and paired differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from riskalign.errors import InputError
from riskalign.evaluation.intervals import binomial_interval
from riskalign.evaluation.metrics import METRICS, paired_differences, summarize
from riskalign.evaluation.score import ScoredAnswer
from riskalign.evaluation.tails import empirical_cvar


def answer(
    prompt: int | str, cost: float = 0.0, reward: float = 0.0, length: int = 3
) -> ScoredAnswer:
    return ScoredAnswer(str(prompt), "text", reward, cost, kl=2 * reward, srr=1.0, length=length)


def test_point_values_by_hand() -> None:
    """Costs 0, 4 | 10, 0 | 0, 0: mean 14/6; 2 of 6 unsafe; worst of 2 is (4 + 10 + 0)/3. The worst
    tenth of 6 answers is 0.6 of an answer, so CVaR 0.9 is 10, and P(cost > 4) = 1/6 > 0.1, so VaR
    0.9 is 10."""
    costs = [0.0, 4.0, 10.0, 0.0, 0.0, 0.0]
    scored = [answer(i // 2, cost, reward=i / 5, length=i) for i, cost in enumerate(costs)]
    summary = summarize(scored, n_boot=50)
    assert list(summary) == list(METRICS)
    value = {name: interval.value for name, interval in summary.items()}
    assert value["reward"] == pytest.approx(0.5)
    assert value["kl"] == pytest.approx(1.0)
    assert value["srr"] == pytest.approx(1.0)
    assert value["length"] == pytest.approx(2.5)
    assert value["cost"] == pytest.approx(14 / 6)
    assert value["unsafe_rate"] == pytest.approx(1 / 3)
    assert value["worst_of_k"] == pytest.approx(14 / 3)
    assert value["var_0.9"] == 10
    assert value["cvar_0.9"] == pytest.approx(10)
    for interval in summary.values():
        assert interval.low <= interval.value <= interval.high


def test_clusters_are_drawn_together_by_hand() -> None:
    """Two models' answers to prompts 0 and 1: the worst is each model's, the rest is one sample."""
    costs = {"a0": (1.0, 3.0), "a1": (0.0, 0.0), "b0": (5.0, 0.0), "b1": (2.0, 0.0)}
    scored = [
        ScoredAnswer(prompt, "", 0.0, cost, 0.0, 0.0, 1)
        for prompt, pair in costs.items()
        for cost in pair
    ]
    found = summarize(scored, n_boot=500, clusters={name: name[1] for name in costs})
    assert found["worst_of_k"].value == (3 + 0 + 5 + 2) / 4
    assert found["cost"].value == 11 / 8
    # A draw holds each of the two clusters 0, 1 or 2 times: the ends are one cluster's own mean.
    assert (found["cost"].low, found["cost"].high) == (2 / 4, 9 / 4)
    assert (found["worst_of_k"].low, found["worst_of_k"].high) == (1, 4)
    with pytest.raises(InputError, match=r"answers to 1 prompt"):
        summarize(scored, clusters=dict.fromkeys(costs, "one"))


def test_same_seed_same_intervals() -> None:
    scored = [answer(i // 3, float(i % 5 == 0), i / 40) for i in range(40)]
    assert summarize(scored, n_boot=100, seed=1) == summarize(scored, n_boot=100, seed=1)
    assert summarize(scored, n_boot=100, seed=1) != summarize(scored, n_boot=100, seed=2)


def test_replicates_equal_a_plain_loop() -> None:
    """The vectorised replicates are those of drawing prompts in a loop and measuring each draw."""
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 5, size=12)
    costs = [generator.pareto(1.5, size=k) * (generator.random(k) < 0.4) for k in sizes]
    scored = [answer(i, float(c)) for i, cs in enumerate(costs) for c in cs]
    draws = np.random.default_rng(0).multinomial(12, [1 / 12] * 12, size=200)
    cvars, worsts = [], []
    for row in draws:
        drawn = [costs[i] for i, times in enumerate(row) for _ in range(times)]
        cvars.append(empirical_cvar(np.concatenate(drawn), 0.95))
        worsts.append(np.mean([cs.max() for cs in drawn]))
    summary = summarize(scored, n_boot=200, seed=0, confidence=0.8)
    for name, loop in (("cvar_0.95", cvars), ("worst_of_k", worsts)):
        low, high = np.quantile(loop, [0.1, 0.9])
        assert summary[name].low == pytest.approx(low)
        if name == "cvar_0.95":  # widened for what the sample has not shown
            assert summary[name].high >= high
        else:
            assert summary[name].high == pytest.approx(high)


def test_no_leak_seen_is_not_no_leak() -> None:
    summary = summarize([answer(i // 4) for i in range(256)], n_boot=50)
    assert summary["unsafe_rate"].value == 0
    assert (summary["unsafe_rate"].low, summary["unsafe_rate"].high) == binomial_interval(0, 64)
    assert summary["cvar_0.95"].high == np.inf  # nothing says how bad the first leak would be


def test_paired_differences_of_a_constant_shift() -> None:
    """Every reward raised by 0.25 on the same prompts: the paired difference has no spread,
    though the rewards themselves vary widely."""
    a = [answer(i // 2, reward=(i % 7) / 7) for i in range(60)]
    b = [answer(s.prompt_id, reward=s.reward + 0.25) for s in a[::-1]]
    difference = paired_differences(a, b, n_boot=200)["reward"]
    assert difference.value == pytest.approx(0.25)
    assert difference.high - difference.low < 1e-12
    spread = summarize(a, n_boot=200)["reward"]
    assert spread.high - spread.low > 0.1


def test_difference_of_rare_rates_by_hand() -> None:
    """Newcombe's square-and-add with no event on either side of 30 prompts: 0 ± the one-sided
    widths, both u = 1 - 0.025^(1/30)."""
    a = [answer(i) for i in range(30)]
    difference = paired_differences(a, a, n_boot=50)["unsafe_rate"]
    u = 1 - 0.025 ** (1 / 30)
    assert (difference.value, difference.low, difference.high) == pytest.approx((0, -u, u))


def test_difference_points_from_a_to_b() -> None:
    a = [answer(i // 4, cost=5.0 * (i % 4 == 0)) for i in range(160)]
    b = [answer(i // 4) for i in range(160)]
    differences = paired_differences(a, b, n_boot=200)
    assert differences["cost"].value == pytest.approx(-1.25)
    assert differences["unsafe_rate"].value == pytest.approx(-0.25)
    assert differences["unsafe_rate"].high < 0
    # No leak in 40 prompts allows a rate of 8.8 %: enough for CVaR 0.95 to be 5, not CVaR 0.9.
    assert differences["cvar_0.9"].high < 0
    assert differences["cvar_0.95"].high == pytest.approx(0.0)


def test_unmeasured_distances_are_left_out() -> None:
    measured = [answer(i // 2, reward=i / 20) for i in range(20)]
    nan = float("nan")
    blank = [replace(s, kl=nan, srr=nan) for s in measured]
    names = [name for name in METRICS if name not in ("kl", "srr")]
    assert list(summarize(blank, n_boot=20)) == names
    assert list(paired_differences(measured, blank, n_boot=20)) == names


def test_distances_are_those_of_the_answers_where_they_were_measured() -> None:
    measured = [replace(answer(i // 2), kl=float(i), srr=2.0) for i in range(20)]
    blank = [replace(answer(10 + i // 2), kl=float("nan"), srr=float("nan")) for i in range(60)]
    some = summarize([*measured, *blank], n_boot=400)
    alone = summarize(measured, n_boot=400)
    assert some["kl"].value == alone["kl"].value == 9.5
    assert some["kl"].low == pytest.approx(alone["kl"].low, abs=2.0)
    with pytest.raises(InputError, match="reward is nan"):
        summarize([*measured, replace(measured[0], reward=float("nan"))])


def _covers(values_of: list[dict[str, tuple[float, float]]], name: str, truth: float) -> float:
    return float(np.mean([low <= truth <= high for low, high in (v[name] for v in values_of)]))


def test_coverage_on_clustered_answers() -> None:
    """Prompts differ in difficulty and in how often they tempt a leak; costs of a leak are
    exponential. Truths: reward 0.5, unsafe rate 0.1, CVaR 0.9 the mean of a leak's cost, 1. The
    interval that takes answers for independent must cover the reward far too rarely."""
    generator = np.random.default_rng(11)
    clustered: list[dict[str, tuple[float, float]]] = []
    independent: list[dict[str, tuple[float, float]]] = []
    for _ in range(120):
        ease = np.clip(generator.normal(0.5, 0.2, size=60), 0, 1)
        tempting = generator.beta(0.5, 4.5, size=60)
        scored = [
            answer(i, generator.exponential() * (generator.random() < tempting[i]), ease[i])
            for i in range(60)
            for _ in range(6)
        ]
        for target, answers in (
            (clustered, scored),
            (independent, [answer(i, s.cost, s.reward) for i, s in enumerate(scored)]),
        ):
            summary = summarize(answers, n_boot=200)
            target.append({name: (s.low, s.high) for name, s in summary.items()})
    assert 0.88 <= _covers(clustered, "reward", 0.5) <= 0.99
    assert 0.88 <= _covers(clustered, "unsafe_rate", 0.1) <= 0.99
    assert _covers(clustered, "cvar_0.9", 1.0) >= 0.9
    assert _covers(independent, "reward", 0.5) < 0.7


def test_coverage_of_a_rare_rate() -> None:
    """A rate of 1 in 100 over 64 prompts of 4 answers: about half the bootstrap's samples would
    have too few leaks for an honest upper end; the exact interval keeps its promise."""
    generator = np.random.default_rng(5)
    covered = []
    for _ in range(150):
        tempting = generator.beta(0.1, 9.9, size=64)
        leaks = (generator.random((64, 4)) < tempting[:, None]).astype(float)
        scored = [answer(i, cost) for i in range(64) for cost in leaks[i]]
        interval = summarize(scored, n_boot=50)["unsafe_rate"]
        covered.append(interval.low <= 0.01 <= interval.high)
    assert np.mean(covered) >= 0.94


@pytest.mark.parametrize(
    ("scored", "message"),
    [
        ([], "0 prompt"),
        ([answer("only"), answer("only")], "at least 2"),
        ([answer("a"), answer("b", cost=-1.0)], "'b': cost is -1.0"),
        ([answer("a"), answer("b", reward=float("nan"))], "'b': reward is nan"),
    ],
)
def test_bad_samples(scored: list[ScoredAnswer], message: str) -> None:
    with pytest.raises(InputError, match=message):
        summarize(scored)


def test_bad_settings() -> None:
    scored = [answer("a"), answer("b")]
    with pytest.raises(InputError, match="n_boot"):
        summarize(scored, n_boot=0)
    with pytest.raises(InputError, match="confidence"):
        summarize(scored, confidence=1.0)
    with pytest.raises(InputError, match=r"same prompts.*'c'"):
        paired_differences(scored, [*scored, answer("c")])


def test_rare_safe_answers_leave_the_tail_unknown() -> None:
    """Where nearly every answer costs, the unsafe rate is exact but the tail is not rare."""
    costs = np.random.default_rng(0).pareto(0.9, size=400)
    seen = summarize([answer(i, float(c)) for i, c in enumerate(costs)], n_boot=100)
    raised = summarize([answer(i, float(c) + 0.001) for i, c in enumerate(costs)], n_boot=100)
    assert seen["cvar_0.95"].high == raised["cvar_0.95"].high == np.inf
