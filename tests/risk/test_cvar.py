"""CVaR by search against sorting, the variational form and values derived by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from riskalign.risk.measures import cvar

from .oracles import cvar_by_minimising, cvar_by_sorting

LEVELS = (0.0, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999)


def draw(
    rows: int, size: int, seed: int, *, dtype: torch.dtype = torch.float64, peak: float = 3.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random losses and log probabilities [rows, size]; a larger `peak` concentrates them."""
    generator = torch.Generator().manual_seed(seed)
    losses = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    logits = peak * torch.randn(rows, size, generator=generator, dtype=torch.float64)
    return losses.to(dtype), logits.log_softmax(-1).to(dtype)


@pytest.mark.parametrize(
    ("level", "value", "density"),
    [
        (0.0, 1.25, (0.5, 0.25, 0.25)),
        (0.5, 2.5, (0.0, 0.5, 0.5)),
        (0.6, 2.875, (0.0, 0.375, 0.625)),
        (0.75, 4.0, (0.0, 0.0, 1.0)),
        (0.9, 4.0, (0.0, 0.0, 1.0)),
        (0.2, 1.5625, (0.375, 0.3125, 0.3125)),
    ],
)
def test_cvar_matches_values_derived_by_hand(
    level: float, value: float, density: tuple[float, ...]
) -> None:
    """With p = (1/2, 1/4, 1/4) and L = (0, 1, 4) the worst mass of 1 - a is filled from 4 down.

    a = 0.6: the tail 0.4 takes all 0.25 at 4 and 0.15 of the atom at 1, so the value is
    (0.25 * 4 + 0.15 * 1)/0.4 = 2.875 and q = (0, 0.15, 0.25)/0.4. a = 0.2: the tail 0.8 takes
    0.3 of the atom at 0: 1.25/0.8 = 1.5625 and q = (0.3, 0.25, 0.25)/0.8.
    """
    losses = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64)
    result = cvar(losses, torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log(), level)
    torch.testing.assert_close(result.value, torch.tensor(value, dtype=torch.float64))
    torch.testing.assert_close(result.density, torch.tensor(density, dtype=torch.float64))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("peak", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("size", [1, 2, 3, 17, 400])
def test_cvar_equals_sorting(level: float, peak: float, size: int) -> None:
    losses, log_probs = draw(6, size, seed=size, peak=peak)
    value, density = cvar_by_sorting(losses, log_probs.exp(), level)
    result = cvar(losses, log_probs, level)
    torch.testing.assert_close(result.value, value, rtol=0.0, atol=1e-11)
    torch.testing.assert_close(result.density, density, rtol=0.0, atol=1e-11)


@pytest.mark.parametrize("level", LEVELS)
def test_cvar_equals_sorting_in_float32_at_full_vocabulary(level: float) -> None:
    losses, log_probs = draw(3, 49_152, seed=1, dtype=torch.float32)
    value, _ = cvar_by_sorting(losses.double(), log_probs.double().exp(), level)
    result = cvar(losses, log_probs, level)
    torch.testing.assert_close(result.value.double(), value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e3])
def test_cvar_keeps_its_precision_at_any_scale_of_loss(scale: float) -> None:
    losses, log_probs = draw(4, 300, seed=2, dtype=torch.float32)
    value, _ = cvar_by_sorting(losses.double(), log_probs.double().exp(), 0.95)
    result = cvar(losses * scale, log_probs, 0.95)
    torch.testing.assert_close(result.value.double() / scale, value, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("level", LEVELS)
def test_cvar_equals_the_variational_minimum(level: float) -> None:
    losses, log_probs = draw(5, 20, seed=3)
    expected = cvar_by_minimising(losses, log_probs.exp(), level)
    torch.testing.assert_close(cvar(losses, log_probs, level).value, expected)


def test_ties_share_the_split_atom() -> None:
    """p = 1/4 each, L = (1, 1, 1, 0), a = 1/2: value 1, and q is p/(1-a) at most."""
    losses = torch.tensor([1.0, 1.0, 1.0, 0.0])
    result = cvar(losses, torch.full((4,), 0.25).log(), 0.5)
    torch.testing.assert_close(result.value, torch.tensor(1.0))
    torch.testing.assert_close(result.density, torch.tensor([1.0, 1.0, 1.0, 0.0]) / 3)


def test_a_level_close_to_one_gives_the_maximum_over_the_support() -> None:
    losses = torch.tensor([5.0, 1.0, 3.0], dtype=torch.float64)
    log_probs = torch.tensor([0.0, 0.999, 0.001], dtype=torch.float64).log()
    result = cvar(losses, log_probs, 1.0 - 1e-9)
    torch.testing.assert_close(result.value, torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(
        result.density, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), atol=1e-6, rtol=0.0
    )


@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
def test_leading_shapes_are_kept(shape: tuple[int, ...]) -> None:
    losses, log_probs = draw(6, 5, seed=4)
    if not shape:
        losses, log_probs = losses[:1], log_probs[:1]
    flat = cvar(losses, log_probs, 0.8)
    shaped = cvar(losses.view(*shape, 5), log_probs.view(*shape, 5), 0.8)
    torch.testing.assert_close(shaped.value, flat.value.view(shape))
    torch.testing.assert_close(shaped.density, flat.density.view(*shape, 5))


def test_rows_searched_in_blocks_do_not_affect_each_other() -> None:
    """2^20 elements are searched at once, so rows of 300 000 entries are taken three at a time."""
    losses, log_probs = draw(5, 300_000, seed=5, dtype=torch.float32)
    together = cvar(losses, log_probs, 0.9).value
    alone = torch.stack([cvar(losses[i], log_probs[i], 0.9).value for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("level", [1e-320, 1e-17, 1e-9])
def test_a_level_that_rounds_to_zero_is_the_mean(level: float) -> None:
    losses, log_probs = draw(3, 8, seed=6, dtype=torch.float32)
    value = (log_probs.exp() * losses).sum(-1)
    torch.testing.assert_close(cvar(losses, log_probs, level).value, value, rtol=0, atol=2e-6)


def test_no_rows_give_no_values() -> None:
    result = cvar(torch.empty(0, 7), torch.empty(0, 7), 0.9)
    assert result.value.shape == (0,)
    assert result.density.shape == (0, 7)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([-2.0, 0.0, 0.5, 0.5000001, 3.0, 40.0]), st.integers(0, 5)),
        min_size=1,
        max_size=12,
    ).filter(lambda rows: any(weight for _, weight in rows)),
    st.floats(0.0, 0.999),
)
def test_cvar_equals_sorting_with_ties_and_empty_atoms(
    rows: list[tuple[float, int]], level: float
) -> None:
    losses = torch.tensor([loss for loss, _ in rows], dtype=torch.float64)
    weights = torch.tensor([weight for _, weight in rows], dtype=torch.float64)
    probs = weights / weights.sum()
    result = cvar(losses, probs.log(), level)
    value, _ = cvar_by_sorting(losses, probs, level)
    torch.testing.assert_close(result.value, value, rtol=1e-9, atol=1e-9)
    assert bool((result.density <= probs / (1.0 - level) + 1e-12).all())
    torch.testing.assert_close(result.density.sum(), torch.tensor(1.0, dtype=torch.float64))
