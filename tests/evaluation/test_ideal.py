import math
from typing import Any

import numpy as np
import pytest

from riskalign.errors import InputError
from riskalign.evaluation import empirical_cvar, ideal_ratios


def simulated(
    correlated: bool, prompts: int = 20, k: int = 12
) -> tuple[list[str], list[float], list[float]]:
    random = np.random.default_rng(0)
    cost = np.exp(random.normal(size=(prompts, k)))
    reward = cost / 12 if correlated else random.random((prompts, k))
    names = [f"p{i}" for i in range(prompts) for _ in range(k)]
    return names, np.clip(reward, 0, 1).ravel().tolist(), cost.ravel().tolist()


def test_by_hand() -> None:
    """One prompt with answers (reward, cost) of (0, 0), (1, 1) and (1, 4).

    Without a limit on the KL all weight goes to the second answer: KL log 3, CVaR 1. At a reward of
    1 and level 0.5 neither form can do better, and the mean form needs no threshold for it.
    """
    start, found = ideal_ratios(
        "aaa", [0, 1, 1], [0, 1, 4], level=0.5, shares=(1.0, 1.49), max_kls=(0.0, 2.0)
    )
    assert (start.prompts, start.answers) == (1, 3)
    assert start.reward == pytest.approx(2 / 3)
    assert start.cost == pytest.approx(5 / 3)
    assert start.var == 1
    # The worst half: all of the 4 (1/3) and 1/6 of the 1.
    assert start.cvar == pytest.approx((4 / 3 + 1 / 6) / 0.5)
    still, free, high = found  # a reward of 0.993 takes a KL above 0
    assert (still.max_kl, free.max_kl, high.max_kl) == (0.0, 2.0, 2.0)
    assert still.mean.cvar == still.tail.cvar == pytest.approx(start.cvar)
    assert still.mean.kl == pytest.approx(0)
    assert still.mean.effective == pytest.approx(3)
    assert high.mean.cvar == pytest.approx(1, abs=1e-3)
    assert high.mean.kl == pytest.approx(math.log(3), abs=1e-2)
    assert high.mean.effective == pytest.approx(1, abs=1e-2)
    assert high.ratio == pytest.approx(1, abs=1e-3)
    assert free.mean.threshold is None


def test_what_is_reached_is_what_these_weights_give() -> None:
    """Against weights made one by one from the settings that are reported."""
    names, rewards, costs = simulated(correlated=True, prompts=20, k=5)
    _, found = ideal_ratios(names, rewards, costs, shares=(1.1,), max_kls=(0.5, 1.0))
    for row in found:
        for best in (row.mean, row.tail):
            charged = [
                c if best.threshold is None else max(c - best.threshold, 0) / 0.05 for c in costs
            ]
            weights, kl = [], 0.0
            for at in range(0, len(costs), 5):
                tilts = [
                    math.exp(best.g * rewards[i] - best.strength * charged[i])
                    for i in range(at, at + 5)
                ]
                own = [tilt / sum(tilts) for tilt in tilts]
                kl += sum(w * math.log(w * 5) for w in own if w > 0) / 20
                weights += [w / 20 for w in own]
            assert best.kl == pytest.approx(kl)
            assert best.reward == pytest.approx(np.dot(weights, rewards))
            assert best.cost == pytest.approx(np.dot(weights, costs))
            # As many copies of a cost as it has weight.
            copies = np.repeat(costs, np.round(np.array(weights) * 1e6).astype(int))
            assert best.cvar == pytest.approx(empirical_cvar(copies, 0.95), rel=1e-3)
            assert best.cvar_99 == pytest.approx(empirical_cvar(copies, 0.99), rel=1e-3)
            assert best.kl <= row.max_kl + 1e-6
            assert best.reward >= row.reward - 1e-6


def test_a_safe_step_alone_only_charges() -> None:
    """What it reaches the free form reaches as well; it has no weight for the reward."""
    answers = simulated(correlated=True)
    start, found = ideal_ratios(*answers, safe_only=True)
    assert {round(row.reward / start.reward, 9) for row in found} <= {0.9, 0.8, 0.7, 0.6}
    assert all(best.g == 0 for row in found for best in (row.mean, row.tail))
    assert any(row.ratio < 0.9 for row in found)
    _, free = ideal_ratios(*answers, shares=(0.9, 0.8, 0.7, 0.6))
    least = {(row.reward, row.max_kl): row.mean.cvar for row in free}
    assert all(least[row.reward, row.max_kl] <= row.mean.cvar + 1e-9 for row in found)


def test_only_costs_that_go_with_rewards_separate_the_forms() -> None:
    apart = ideal_ratios(*simulated(correlated=True), shares=(1.1,), max_kls=(1.0,))[1][0]
    alike = ideal_ratios(*simulated(correlated=False), shares=(1.1,), max_kls=(1.0,))[1][0]
    assert apart.ratio < 0.65
    assert apart.ratio < alike.ratio - 0.1
    # The mean form is among the tail form's.
    assert alike.ratio <= 1


def test_rare_costs_cannot_separate() -> None:
    """The quantile is 0, where SACPO's form is optimal (docs/method.md, section 8)."""
    random = np.random.default_rng(1)
    costs = (random.random(800) < 0.03) * 10.0
    names = [f"p{i // 8}" for i in range(800)]
    _, found = ideal_ratios(
        names, random.random(800).tolist(), costs.tolist(), shares=(1.1,), max_kls=(0.5,)
    )
    assert found[0].ratio == pytest.approx(1, abs=0.03)


def test_prompts_may_have_different_numbers_of_answers() -> None:
    """Prompts count alike: (1 + (0 + 0 + 3) / 3) / 2."""
    start, _ = ideal_ratios("abbb", [1, 0, 0, 0], [1, 0, 0, 3])
    assert start.cost == pytest.approx(1)
    assert start.answers == 4


def test_a_short_prompt_of_dear_answers_is_measured() -> None:
    """Its missing answers would overflow: 12 times the mean cost and more."""
    costs = [1.0, 2.0, 0.5, 1.0, 30.0, 31.0, 1.0, 2.0, 0.5, 1.0]
    with np.errstate(all="raise", under="ignore", divide="ignore"):
        _, found = ideal_ratios("aaaabbcccc", [0.5] * 10, costs, shares=(1.0,), max_kls=(2.0,))
    assert found[0].mean.cvar < 31


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (("", [], []), "at least one"),
        (("ab", [1], [1, 2]), "there are 2, 1 and 2"),
        (("aa", [1, math.nan], [1, 2]), "finite"),
        (("ab", [1, 1], [1, 2]), "no prompt has two"),
        (("aa", [-1, 0], [1, 2]), "add a constant"),
    ],
)
def test_refusals(answers: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ideal_ratios(*answers)
    with pytest.raises(InputError, match="tail level"):
        ideal_ratios("aa", [0, 1], [0, 1], level=1.5)
