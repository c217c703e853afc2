"""Evaluation against enumeration of all responses, and against hand-made numbers."""

import itertools

import pytest
import torch

from riskalign.risk import get_risk
from riskalign.theory import accumulate, evaluate, random_mdp, tilt
from riskalign.theory.evaluate import by_sorting
from tests.theory.test_tree import LOG_REF, MDP


def test_by_hand() -> None:
    """Total costs (1, 5, 2, 2) with probabilities (3/8, 1/8, 1/4, 1/4)."""
    found = evaluate(MDP, LOG_REF, levels=(0.5, 0.9), risk="cvar:0.5")
    assert float(found.cost) == pytest.approx(2.0)
    assert float(found.var[0.5]) == 2.0
    # The worst half: 1/8 of 5 and 3/8 of 2.
    assert float(found.cvar[0.5]) == pytest.approx((5 / 8 + 6 / 8) / 0.5)
    assert float(found.cvar[0.9]) == pytest.approx(5.0)
    assert float(found.nested_cost) == pytest.approx(3.0)
    assert float(found.reward) == float(found.kl) == float(found.srr) == 0.0


@pytest.mark.parametrize("family", ["diffuse", "correlated"])
def test_against_enumeration(family: str) -> None:
    mdp = random_mdp(family, 3, vocabulary=3, depth=3)
    policy = tilt(mdp.log_ref, mdp.cost, 0.7)
    risk = get_risk("cvar:0.6")
    found = evaluate(mdp, policy, risk=risk)
    reward = cost = kl = srr = 0.0
    for response in itertools.product(range(3), repeat=3):
        node, log_p, log_ref, paid, charged, ratio = 0, 0.0, 0.0, 0.0, 0.0, 0.0
        for t, token in enumerate(response):
            row, ref = policy[t][0, node], mdp.log_ref[t][0, node]
            log_p += float(row[token])
            log_ref += float(ref[token])
            paid += float(mdp.reward[t][0, node, token])
            charged += float(mdp.cost[t][0, node, token])
            ratio += float(risk(ref - row, ref).value)
            node = 3 * node + token
        p = torch.tensor(log_p).exp().item()
        reward += p * paid
        cost += p * charged
        kl += p * (log_p - log_ref)
        srr += p * ratio
    assert float(found.reward) == pytest.approx(reward)
    assert float(found.cost) == pytest.approx(cost)
    assert float(found.kl) == pytest.approx(kl)
    assert float(found.srr) == pytest.approx(srr)


def test_tail_of_a_batch_is_the_librarys_cvar() -> None:
    mdp = random_mdp("scattered", 5, vocabulary=4, depth=3, count=7)
    found = evaluate(mdp, mdp.log_ref)
    for level, value in found.cvar.items():
        expected = get_risk(f"cvar:{level}")(accumulate(mdp.cost), accumulate(mdp.log_ref)).value
        torch.testing.assert_close(value, expected)
        assert bool((found.var[level] <= value + 1e-12).all())


@pytest.mark.parametrize("level", [0.0, 0.3, 0.95])
def test_sorting_is_the_search_value_and_density(level: float) -> None:
    generator = torch.Generator().manual_seed(0)
    losses, logits = torch.randn((2, 30, 6), generator=generator, dtype=torch.float64)
    losses[:10] = losses[:10].round()
    log_p = logits.log_softmax(-1)
    risk = get_risk(f"cvar:{level}")
    quick, found = by_sorting(risk)(losses, log_p), risk(losses, log_p)
    torch.testing.assert_close(quick.value, found.value)
    # Within an atom the two may split a tie differently; its losses are the same.
    torch.testing.assert_close((quick.density * losses).sum(-1), found.value)
    torch.testing.assert_close(quick.density[10:], found.density[10:])
    assert by_sorting(get_risk("mean")) == get_risk("mean")


def test_a_million_leaves() -> None:
    """V^T up to 10^6 is evaluated whole."""
    mdp = random_mdp("diffuse", 0, vocabulary=10, depth=6)
    found = evaluate(mdp, mdp.log_ref, levels=(0.95,))
    assert float(found.cvar[0.95]) == pytest.approx(1.0)
    assert float(found.kl) == 0.0
