"""Grouped losses against the same losses of the plain statistics: values, gradients, products."""

import pytest
import torch
from torch import Tensor

from riskalign.risk import get_risk
from riskalign.tokens import Group, Head, TokenStats, fits, grouped_losses, token_stats_naive
from riskalign.tokens import stats as grouped_module
from tests.tokens.test_chunked import Case, Products, leaves, make_case

RISKS = ("mean", "cvar:0.0", "cvar:0.9", "erm:0.7", "paper_code:0.9")
# Eleven tokens of four pairs, in an order of their own.
PAIR_OF = torch.tensor([0, 0, 1, 2, 3, 3, 0, 1, 2, 2, 3])


def groups(*ends: int) -> list[Group]:
    starts = (0, *ends[:-1])
    return [
        Group(slice(a, b), ((a <= PAIR_OF) & (b > PAIR_OF)).nonzero().squeeze(-1))
        for a, b in zip(starts, ends, strict=True)
    ]


def pair_losses(stats: TokenStats, pair: Tensor, n: int) -> Tensor:
    """A nonlinear loss of each pair's sums."""
    zeros = stats.risk.new_zeros(n)
    logp = zeros.index_add(0, pair, stats.logp_policy - stats.logp_ref)
    return torch.nn.functional.softplus(0.3 * logp - 0.2 * zeros.index_add(0, pair, stats.risk))


def grouped(case: Case, spec: str, ends: tuple[int, ...]) -> Tensor:
    def loss(group: Group, stats: TokenStats) -> Tensor:
        n = group.rows.stop - group.rows.start
        return pair_losses(stats, PAIR_OF[group.tokens] - group.rows.start, n)

    return grouped_losses(*case, get_risk(spec), groups=groups(*ends), loss=loss)


@pytest.mark.parametrize("spec", RISKS)
@pytest.mark.parametrize("ends", [(4,), (1, 4), (1, 2, 3, 4)])
@pytest.mark.parametrize("weigh", ["equally", "unequally"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_grouped_equals_naive(
    spec: str, ends: tuple[int, ...], weigh: str, dtype: torch.dtype, tolerance: float
) -> None:
    case = make_case(dtype=dtype, scale=0.7, softcap=3.0)
    inputs = leaves(case)
    weights = torch.tensor([0.25] * 4 if weigh == "equally" else [0.5, -1.0, 0.0, 2.0]).to(dtype)
    actual = grouped(case, spec, ends)
    expected = pair_losses(token_stats_naive(*case, get_risk(spec)), PAIR_OF, 4)
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    for one, other in zip(
        torch.autograd.grad((weights * actual).sum(), inputs),
        torch.autograd.grad((weights * expected).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_a_retained_graph_may_be_differentiated_again() -> None:
    case = make_case()
    inputs = leaves(case)
    losses = grouped(case, "cvar:0.9", (2, 4))
    first = torch.autograd.grad(losses.sum(), inputs, retain_graph=True)
    first = tuple(grad.clone() for grad in first)
    for one, other in zip(first, torch.autograd.grad(losses.sum(), inputs), strict=True):
        torch.testing.assert_close(one, other)


def test_gradcheck() -> None:
    case = make_case(vocabulary=9, width=3, width_ref=3)

    def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        own = case._replace(hidden=hidden, head=Head(weight, bias))
        return grouped(own, "cvar:0.6", (2, 4))

    assert torch.autograd.gradcheck(function, leaves(case))


@pytest.mark.parametrize(("frozen_head", "products"), [(False, 4), (True, 3)])
def test_no_product_is_computed_twice(frozen_head: bool, products: int) -> None:
    case = make_case()
    inputs = leaves(case, frozen_head=frozen_head)
    with Products() as watch:
        torch.autograd.grad(grouped(case, "cvar:0.9", (4,)).sum(), inputs)
    assert len(watch.dtypes) == products


def test_autocast_holds_in_the_backward_pass() -> None:
    case = make_case(dtype=torch.float32)
    inputs = leaves(case)
    weights = torch.tensor([0.5, -1.0, 0.0, 2.0])
    with torch.autocast("cpu", torch.bfloat16):
        losses = grouped(case, "cvar:0.9", (2, 4))
    with Products() as watch:
        grads = torch.autograd.grad((weights * losses).sum(), inputs)
    assert set(watch.dtypes) == {torch.bfloat16}
    assert {grad.dtype for grad in grads} == {torch.float32}


def test_what_fits_depends_on_tokens_times_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_module, "_WORKSPACE_ELEMENTS", {"cpu": 120, "other": 120})
    head = make_case(vocabulary=40).head
    assert fits(3, head)
    assert not fits(4, head)
