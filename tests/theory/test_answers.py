"""The answer-level optimum and CVaR's decomposition, on trees small enough for an oracle."""

import math

import pytest
import torch

from riskalign.errors import InputError
from riskalign.risk import get_risk, tail_optimum
from riskalign.theory import (
    TokenMDP,
    accumulate,
    answer_optimum,
    charged,
    decomposed,
    random_mdp,
    sequence_optimum,
)
from riskalign.theory.evaluate import tail_of_total
from riskalign.theory.tree import combine, negate
from riskalign.theory.verify.claim import total_variation
from tests.theory.test_tree import COST, LOG_REF, table

TREES = random_mdp("correlated", 3, vocabulary=3, depth=3, count=4)


def test_the_mean_is_sacpo() -> None:
    found = answer_optimum(TREES, "mean", 0.5, 1.5)
    losses = combine(negate(TREES.reward), TREES.cost, 1.0, 1.5)
    expected = sequence_optimum(losses, TREES.log_ref, 0.5)
    assert float(total_variation(found.log_policy, expected).max()) < 1e-9
    assert len(found.phi) == 4


def test_two_responses_by_hand() -> None:
    """Costs 0 and 1, equal rewards, CVaR 0.5, lambda/beta log 3: probabilities 0.9 and 0.1."""
    half = (table([0.5, 0.5]).log(),)
    zero = (table([0.0, 0.0]),)
    mdp = TokenMDP(half, zero, (table([0.0, 1.0]),))
    found = answer_optimum(mdp, "cvar:0.5", 1.0, math.log(3))
    assert found.log_policy[0].exp().tolist() == [pytest.approx([0.9, 0.1])]
    assert charged(mdp, found.phi)[0].tolist() == [pytest.approx([0.0, 2.0])]


@pytest.mark.parametrize("spec", ["cvar:0.8", "cvar:0.95", "erm:1.0"])
def test_the_policy_is_the_tilt_of_its_leaves(spec: str) -> None:
    found = answer_optimum(TREES, spec, 0.5, 0.4)
    leaves = accumulate(found.log_policy).exp()
    for i in range(4):
        base = accumulate(TREES.log_ref)[i] + accumulate(TREES.reward)[i] / 0.5
        best = tail_optimum(accumulate(TREES.cost)[i], spec, 0.8, log_base=base)
        torch.testing.assert_close(leaves[i], best.weights, rtol=1e-4, atol=1e-7)
        alone = TokenMDP(
            *(
                tuple(level[i] for level in part)
                for part in (TREES.log_ref, TREES.reward, TREES.cost)
            )
        )
        single = answer_optimum(alone, spec, 0.5, 0.4)
        assert single.phi == (found.phi[i],)
        torch.testing.assert_close(accumulate(single.log_policy).exp(), leaves[i])


def test_a_temperature_that_is_none() -> None:
    with pytest.raises(InputError, match="strength"):
        answer_optimum(TREES, "cvar:0.9", 0.5, 0.0)


def test_levels_that_follow_the_prefix_by_hand() -> None:
    """Totals 1, 5, 2, 2 of 3/8, 1/8, 1/4, 1/4; the worst half is 5 and 3/8 of the twos.

    Given token 0 the tail has 1/4, given token 1 it has 3/4; behind token 0 it is all of token 1.
    """
    mdp = TokenMDP(LOG_REF, tuple(torch.zeros_like(x) for x in COST), COST)
    found = decomposed(mdp, LOG_REF, 0.5)
    assert found.share[0].tolist() == [pytest.approx([0.25, 0.75])]
    assert found.share[1].tolist()[0] == pytest.approx([0.0, 1.0])
    assert found.value[1].tolist() == pytest.approx([4.0, 2.0])
    # 1/2 * 1/4 / (1/2) * (1 + 4) + 1/2 * 3/4 / (1/2) * 2, which is (5/8 + 3/4) / (1/2).
    assert float(found.value[0]) == pytest.approx(2.75)


def test_the_decomposition_against_every_choice_of_levels() -> None:
    """Two tokens first: the best split of the tail between them is the decomposition's."""
    tree = random_mdp("diffuse", 1, vocabulary=2, depth=3)
    level = 0.7
    found = decomposed(tree, tree.log_ref, level)
    whole = float(tail_of_total(tree, tree.log_ref, level).cvar)
    assert float(found.value[0]) == pytest.approx(whole)
    p = tree.log_ref[0].flatten().exp()
    costs = accumulate(tree.cost).view(2, 4)
    below = (accumulate(tree.log_ref).view(2, 4) - tree.log_ref[0].flatten()[:, None]).exp()
    best, at = -math.inf, math.nan
    for share in torch.linspace(0, 1, 401, dtype=torch.float64).tolist():
        taus = (share, ((1 - level) - share * float(p[0])) / float(p[1]))
        if not all(0 <= tau <= 1 for tau in taus):
            continue
        total = 0.0
        for z, tau in enumerate(taus):
            if tau > 0:
                cvar = get_risk(f"cvar:{max(1 - tau, 0.0)}")(costs[z], below[z].log()).value
                total += float(p[z]) * tau / (1 - level) * float(cvar)
        if total > best:
            best, at = total, taus[0]
    assert best <= whole + 1e-12
    assert best == pytest.approx(whole, abs=2e-2)
    assert at == pytest.approx(float(found.share[0].flatten()[0]), abs=2e-2)
