"""Names and parameters of risk measures, and what holds for every one of them."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from riskalign.errors import InputError
from riskalign.risk import RISKS, Measure, Risk, get_risk


def specs_of(name: str, measure: Measure) -> list[str]:
    """The measure at parameters near both ends of its range and inside it."""
    if measure.low is None:
        return [name]
    width = min(measure.high - measure.low, 2.0)
    at = [measure.low + share * width for share in (0.0, 0.125, 0.5, 0.9375)]
    return [f"{name}:{parameter!r}" for parameter in at if measure.accepts(parameter)]


ALL = [spec for name, measure in RISKS.items() for spec in specs_of(name, measure)]
CONVEX = [spec for spec in ALL if get_risk(spec).measure.law_invariant]
COHERENT = [spec for spec in CONVEX if get_risk(spec).measure.rescaled is None]

sizes = st.integers(1, 30)
seeds = st.integers(0, 10_000)


def draw(size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two losses and one log probability, each [3, size], in float64."""
    generator = torch.Generator().manual_seed(seed)
    first, second, logits = torch.randn(3, 3, size, generator=generator, dtype=torch.float64)
    return first, second, (3.0 * logits).log_softmax(-1)


@pytest.mark.parametrize("spec", ALL)
def test_a_spec_reads_back(spec: str) -> None:
    risk = get_risk(spec)
    assert risk.spec == spec
    assert get_risk(risk) is risk
    assert get_risk(risk.spec) == risk


def test_a_spec_may_carry_spaces() -> None:
    assert get_risk(" cvar : 0.95 ") == Risk("cvar", 0.95)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("median", "mean.*cvar.*erm.*paper_code"),
        ("cvar", "needs a parameter"),
        ("cvar:1", r"\[0, 1\)"),
        ("cvar:-0.1", r"\[0, 1\)"),
        ("cvar:nan", r"\[0, 1\)"),
        ("cvar:high", "not a number"),
        ("erm:0", r"\(0, inf\)"),
        ("erm:inf", r"\(0, inf\)"),
        ("mean:0.5", "takes no parameter"),
        ("", "not known"),
        ("cvar:", "not a number"),
    ],
)
def test_a_wrong_spec_is_refused_with_the_remedy(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        get_risk(spec)


@pytest.mark.parametrize("spec", CONVEX)
@settings(max_examples=40, deadline=None)
@given(size=sizes, seed=seeds, shift=st.floats(-50, 50))
def test_translation_monotonicity_and_aversion(
    spec: str, size: int, seed: int, shift: float
) -> None:
    risk = get_risk(spec)
    losses, other, log_probs = draw(size, seed)
    value = risk(losses, log_probs).value
    torch.testing.assert_close(risk(losses + shift, log_probs).value, value + shift)
    larger = torch.maximum(losses, other)
    assert bool((risk(larger, log_probs).value >= value - 1e-10).all())
    assert bool((value >= (log_probs.exp() * losses).sum(-1) - 1e-10).all())


@pytest.mark.parametrize("spec", CONVEX)
@settings(max_examples=40, deadline=None)
@given(size=sizes, seed=seeds, weight=st.floats(0, 1))
def test_convexity(spec: str, size: int, seed: int, weight: float) -> None:
    risk = get_risk(spec)
    losses, other, log_probs = draw(size, seed)
    mixed = risk(weight * losses + (1 - weight) * other, log_probs).value
    bound = weight * risk(losses, log_probs).value + (1 - weight) * risk(other, log_probs).value
    assert bool((mixed <= bound + 1e-10).all())


@pytest.mark.parametrize("spec", COHERENT)
@settings(max_examples=40, deadline=None)
@given(size=sizes, seed=seeds, factor=st.floats(0.01, 100))
def test_coherence(spec: str, size: int, seed: int, factor: float) -> None:
    risk = get_risk(spec)
    losses, other, log_probs = draw(size, seed)
    value = risk(losses, log_probs).value
    torch.testing.assert_close(risk(factor * losses, log_probs).value, factor * value)
    both = risk(losses + other, log_probs).value
    assert bool((both <= value + risk(other, log_probs).value + 1e-10).all())


@pytest.mark.parametrize("spec", CONVEX)
@settings(max_examples=40, deadline=None)
@given(size=sizes, seed=seeds)
def test_the_density_is_the_worst_case(spec: str, size: int, seed: int) -> None:
    """q sums to 1, and no other density does better, each less its penalty `E_q[L] - value`.

    The penalty is 0 for the coherent measures and KL(q || p)/mu for the entropic one.
    """
    risk = get_risk(spec)
    losses, other, log_probs = draw(size, seed)
    value, density = risk(losses, log_probs)
    assert bool((density >= 0).all())
    torch.testing.assert_close(density.sum(-1), torch.ones(3, dtype=torch.float64))
    penalty = (density * losses).sum(-1) - value
    assert bool((penalty >= -1e-10).all())
    if spec in COHERENT:
        torch.testing.assert_close(penalty, torch.zeros_like(penalty), rtol=0, atol=1e-10)
    if risk.name == "erm":
        assert risk.parameter is not None
        kl = torch.xlogy(density, density).sum(-1) - (density * log_probs).sum(-1)
        torch.testing.assert_close(penalty, kl / risk.parameter)
    of_other, rival = risk(other, log_probs)
    attained = (rival * losses).sum(-1) - ((rival * other).sum(-1) - of_other)
    assert bool((attained <= value + 1e-10).all())


@pytest.mark.parametrize("spec", ALL)
def test_the_gradient_is_policy_minus_density(spec: str) -> None:
    """Central differences of the value over the policy's logits give mass(q) * policy - q."""
    risk = get_risk(spec)
    logits, _, log_ref = draw(7, seed=5)

    def value(at: torch.Tensor) -> torch.Tensor:
        return risk(log_ref - at.log_softmax(-1), log_ref).value

    density = risk(log_ref - logits.log_softmax(-1), log_ref).density
    expected = density.sum(-1, keepdim=True) * logits.softmax(-1) - density
    step = 1e-6
    for index in range(7):
        nudge = torch.zeros(7, dtype=torch.float64)
        nudge[index] = step
        slope = (value(logits + nudge) - value(logits - nudge)) / (2 * step)
        torch.testing.assert_close(slope, expected[:, index], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("spec", ["mean", "erm:0.7"])
def test_the_gradient_agrees_with_automatic_differentiation(spec: str) -> None:
    logits, _, log_ref = draw(6, seed=9)
    logits.requires_grad_()
    losses = log_ref - logits.log_softmax(-1)
    if spec == "mean":
        value = (log_ref.exp() * losses).sum(-1)
    else:
        value = (log_ref + 0.7 * losses).logsumexp(-1) / 0.7
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    density = get_risk(spec)(losses.detach(), log_ref).density
    torch.testing.assert_close(gradient, logits.detach().softmax(-1) - density)


@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize("loss", [torch.nan, torch.inf, -torch.inf, 7.0])
def test_an_entry_of_probability_zero_counts_for_nothing(spec: str, loss: float) -> None:
    losses = torch.tensor([1.0, loss, 3.0, 0.5], dtype=torch.float64)
    log_probs = torch.tensor([0.5, 0.0, 0.25, 0.25], dtype=torch.float64).log()
    value, density = get_risk(spec)(losses, log_probs)
    assert density[1] == 0.0
    assert bool(density.isfinite().all())
    if not spec.startswith("paper"):
        kept = [0, 2, 3]
        torch.testing.assert_close(value, get_risk(spec)(losses[kept], log_probs[kept]).value)


@pytest.mark.parametrize("spec", CONVEX)
def test_a_one_hot_reference_gives_its_only_loss(spec: str) -> None:
    log_probs = torch.tensor([-torch.inf, 0.0, -torch.inf])
    value, density = get_risk(spec)(torch.tensor([9.0, 2.0, -torch.inf]), log_probs)
    torch.testing.assert_close(value, torch.tensor(2.0))
    torch.testing.assert_close(density, torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("spec", CONVEX)
@pytest.mark.parametrize("level", [0.0, -3.0, 1e-8, 2e4])
@pytest.mark.parametrize("size", [1, 2, 50])
def test_equal_losses_give_that_loss_and_the_reference(spec: str, level: float, size: int) -> None:
    log_probs = torch.linspace(-4, 0, size).log_softmax(-1)
    value, density = get_risk(spec)(torch.full((size,), level), log_probs)
    torch.testing.assert_close(value, torch.tensor(level), rtol=2e-6, atol=2e-6)
    torch.testing.assert_close(density, log_probs.exp(), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("spec", ALL)
def test_memory_layout_does_not_matter(spec: str) -> None:
    losses, _, log_probs = draw(8, seed=2)
    expected = get_risk(spec)(losses, log_probs)
    turned = get_risk(spec)(losses.T.contiguous().T, log_probs.T.contiguous().T)
    torch.testing.assert_close(turned, expected)


@pytest.mark.parametrize("spec", ALL)
def test_arguments_are_left_as_they_were(spec: str) -> None:
    losses, _, log_probs = draw(11, seed=1)
    before = losses.clone(), log_probs.clone()
    get_risk(spec)(losses, log_probs)
    torch.testing.assert_close((losses, log_probs), before, rtol=0, atol=0)


def test_a_level_of_zero_is_the_mean_and_levels_are_ordered() -> None:
    losses, _, log_probs = draw(25, seed=3)
    values = [
        get_risk(spec)(losses, log_probs).value
        for spec in ("mean", "cvar:0.0", "cvar:0.5", "cvar:0.9", "cvar:0.99")
    ]
    torch.testing.assert_close(values[0], values[1])
    for smaller, larger in itertools.pairwise(values[1:]):
        assert bool((smaller <= larger + 1e-12).all())
