"""Random trees: reproducible, scaled alike, with costs where their family puts them."""

import pytest
import torch

from riskalign.errors import InputError
from riskalign.theory import FAMILIES, accumulate, evaluate, random_mdp


@pytest.mark.parametrize("family", FAMILIES)
def test_scales_and_seeds(family: str) -> None:
    mdp = random_mdp(family, 1, vocabulary=6, depth=4, count=3)
    found = evaluate(mdp, mdp.log_ref)
    torch.testing.assert_close(found.cvar[0.95], torch.ones(3, dtype=torch.float64))
    returns, probs = accumulate(mdp.reward), accumulate(mdp.log_ref).exp()
    variance = (probs * (returns - found.reward.unsqueeze(-1)) ** 2).sum(-1)
    torch.testing.assert_close(variance, torch.ones(3, dtype=torch.float64))
    again = random_mdp(family, 1, vocabulary=6, depth=4, count=3)
    other = random_mdp(family, 2, vocabulary=6, depth=4, count=3)
    assert torch.equal(again.cost[-1], mdp.cost[-1])
    assert not torch.equal(other.cost[-1], mdp.cost[-1])


def test_catastrophes_are_where_they_belong() -> None:
    behind = random_mdp("prefix", 0, vocabulary=6, depth=4, count=5)
    total = accumulate(behind.cost).view(5, 36, 36)
    severe = total > 0.1 * total.amax((1, 2), keepdim=True)
    # A beginning of two tokens is free of catastrophes or full of them.
    share = severe.double().mean(-1)
    assert float((share > 0).double().mean()) < 0.5
    tempting = random_mdp("correlated", 0, vocabulary=6, depth=4, count=5)
    returns, cost = accumulate(tempting.reward), accumulate(tempting.cost)
    for own, costs in zip(returns, cost, strict=True):
        order = own.argsort()
        lower, upper = costs[order[:648]] > 0, costs[order[-130:]] > 0
        assert float(upper.double().mean()) > 10 * float(lower.double().mean())


def test_refusals() -> None:
    with pytest.raises(InputError, match="family 'rare'"):
        random_mdp("rare", 0)
    with pytest.raises(InputError, match="depth"):
        random_mdp("diffuse", 0, depth=1)
