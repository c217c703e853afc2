"""Closed forms against their defining problems; the broad checks are `riskalign verify`'s."""

import pytest
import torch

from riskalign.errors import InputError
from riskalign.risk import get_risk
from riskalign.theory import (
    accumulate,
    at_each_state,
    cautious,
    evaluate,
    iterated,
    on_average,
    one_step,
    over_responses,
    random_mdp,
    self_consistent,
    sequence_optimum,
    tilted_consistent,
)
from riskalign.theory.solve import optimum, value_scale
from riskalign.theory.tree import combine, negate
from riskalign.theory.verify.claim import total_variation

MDP = random_mdp("scattered", 4, vocabulary=4, depth=3, count=6)


def test_sequence_optimum_is_the_tilt_of_whole_responses() -> None:
    policy = sequence_optimum(MDP.cost, MDP.log_ref, 0.3)
    expected = (accumulate(MDP.log_ref) - accumulate(MDP.cost) / 0.3).log_softmax(-1)
    torch.testing.assert_close(accumulate(policy), expected)


def test_one_round_of_iteration_is_one_step_and_many_approach_soft_control() -> None:
    mean = get_risk("mean")
    once = one_step(MDP.cost, MDP.log_ref, mean, 0.5)
    assert float(total_variation(iterated(MDP.cost, MDP.log_ref, mean, 0.5, 1), once).max()) == 0
    optimal = sequence_optimum(MDP.cost, MDP.log_ref, 0.5)
    distance = [
        float(total_variation(iterated(MDP.cost, MDP.log_ref, mean, 0.5, n), optimal).mean())
        for n in (1, 4, 16)
    ]
    assert distance[2] < distance[1] < distance[0]


def test_risk_on_the_cost_alone_is_soft_control_under_the_mean() -> None:
    gains = negate(MDP.reward)
    policy = tilted_consistent(gains, MDP.cost, MDP.log_ref, get_risk("mean"), 0.5, 2.0)
    expected = sequence_optimum(combine(gains, MDP.cost, 1.0, 2.0), MDP.log_ref, 0.5)
    assert float(total_variation(policy, expected).max()) < 1e-12


def test_caution_for_the_cost_alone() -> None:
    """Soft control under the mean; with no reward and weight 1, the self-consistent optimum."""
    gains, zero = negate(MDP.reward), tuple(torch.zeros_like(level) for level in MDP.cost)
    soft = cautious(gains, MDP.cost, MDP.log_ref, get_risk("mean"), 0.5, 2.0)
    expected = sequence_optimum(combine(gains, MDP.cost, 1.0, 2.0), MDP.log_ref, 0.5)
    assert float(total_variation(soft, expected).max()) < 1e-12
    risk = get_risk("cvar:0.7")
    tree = random_mdp("diffuse", 2, vocabulary=3, depth=2, count=4)
    nothing = tuple(torch.zeros_like(level) for level in tree.cost)
    alone = cautious(nothing, tree.cost, tree.log_ref, risk, 0.5, 1.0)
    both = self_consistent(tree.cost, tree.log_ref, risk, 0.5)
    # Before the last token the two differ: one puts the KL of what follows under the risk too.
    torch.testing.assert_close(alone[-1], both[-1])
    with pytest.raises(InputError, match="mean or cvar"):
        cautious(zero, MDP.cost, MDP.log_ref, get_risk("erm:1"), 0.5, 1.0)


def test_temperatures_may_be_a_batch() -> None:
    tree = random_mdp("diffuse", 1, vocabulary=3, depth=3)
    betas = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)[:, None, None]
    for name in ("mean", "cvar:0.7", "erm:1.0"):
        risk = get_risk(name)
        batch = self_consistent(tree.cost, tree.log_ref, risk, betas)
        for i, beta in enumerate(betas.flatten().tolist()):
            alone = self_consistent(tree.cost, tree.log_ref, risk, beta)
            for many, one in zip(batch, alone, strict=True):
                torch.testing.assert_close(many[i : i + 1], one)


def test_more_caution_lowers_cost() -> None:
    found = [
        evaluate(MDP, cautious(
            negate(MDP.reward), MDP.cost, MDP.log_ref, get_risk("cvar:0.5"), 0.5, weight
        ))
        for weight in (0.0, 10.0)
    ]  # fmt: skip
    assert float((found[0].cost - found[1].cost).min()) > 0


@pytest.mark.parametrize(
    "name", ["mean", "cvar:0.0", "cvar:0.6", "cvar:0.97", "erm:0.3", "erm:3.0"]
)
def test_local_optimum_against_a_fine_search(name: str) -> None:
    """Two tokens, so that a policy is one number and a grid of them is all policies."""
    generator = torch.Generator().manual_seed(0)
    q = 2 * torch.randn((40, 2), generator=generator, dtype=torch.float64)
    log_ref = torch.randn((40, 2), generator=generator, dtype=torch.float64).log_softmax(-1)
    risk, beta = get_risk(name), 0.4
    found = optimum(q, log_ref, risk, beta)
    # Dense where neither token is rare, and out to probabilities that only logarithms hold.
    far = torch.logspace(1, 5.3, 400, dtype=torch.float64)
    odds = torch.cat([-far, torch.linspace(-12, 12, 6001, dtype=torch.float64), far])
    policies = torch.stack([odds, -odds], dim=-1).log_softmax(-1)
    many, losses = torch.broadcast_tensors(policies.unsqueeze(1), q)
    value = risk(losses.contiguous(), many.contiguous()).value
    value = value + beta * (many.exp() * (many - log_ref)).sum(-1)
    best = value.amin(0)
    assert float((found.value - best).max()) < 1e-9
    assert float((best - found.value).max()) < 1e-4
    with pytest.raises(InputError, match="no exact optimum"):
        optimum(q, log_ref, get_risk("paper_code:0.5"), beta)


def test_entropic_parameter_changes_units() -> None:
    assert value_scale(get_risk("erm:0.5"), 0.1).spec == "erm:5.0"
    assert value_scale(get_risk("cvar:0.5"), 0.1).spec == "cvar:0.5"


def test_multipliers_where_the_limit_binds_is_slack_or_impossible() -> None:
    ref = torch.full((3, 2), 0.5, dtype=torch.float64).log()
    cost = torch.tensor([[0.0, 1.0]] * 3, dtype=torch.float64)
    limit = torch.tensor([0.25, 0.9, -0.1], dtype=torch.float64)
    solved = at_each_state(ref, torch.zeros_like(cost), cost, 1.0, limit)
    # Probability 1/4 of the costly action: exp(-lambda) / (1 + exp(-lambda)), so log 3.
    assert float(solved.multiplier[0]) == pytest.approx(torch.tensor(3.0).log().item())
    assert solved.multiplier[1:].tolist() == [0.0, float("inf")]
    assert solved.feasible.tolist() == [True, True, False]
    assert float(solved.slackness[0]) < 1e-12
    [one] = on_average((ref[:1],), (cost[:1] * 0,), (cost[:1],), 1.0, limit[:1]).log_policy
    torch.testing.assert_close(one, solved.log_policy[0][None, :1])  # one state: no difference
    half = evaluate(MDP, MDP.log_ref).cost / 2
    best = over_responses(MDP, 0.5, half)
    assert bool((best.value <= half + 1e-12).all())
    assert float(best.slackness.max()) < 1e-10
    assert 0 < int((best.multiplier > 0).sum()) < 6
