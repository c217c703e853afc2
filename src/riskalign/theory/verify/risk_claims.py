"""Claims about the risk measures themselves, on random distributions and losses."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from riskalign.risk import Risk
from riskalign.theory.verify.claim import Errors, Setting, claim, largest, measures
from riskalign.tokens import Head, token_stats

MEASURES = measures("mean", "cvar:0.0", "cvar:0.5", "cvar:0.95", "erm:0.5", "erm:2.0")
COHERENT = {name: risk for name, risk in MEASURES.items() if risk.name != "erm"}
_ENTRIES = 12
_TRIES = 40
OnDraw = Callable[[Risk, Tensor, Tensor, Tensor], Tensor]


def _draw(setting: Setting, stream: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log probabilities, losses with ties, and other losses: [count, 12] each."""
    generator = torch.Generator().manual_seed(setting.seed * 101 + stream)
    shape = (3, setting.trees, _ENTRIES)
    logits, losses, other = torch.randn(shape, generator=generator, dtype=torch.float64)
    # Whole numbers bring ties, which split atoms.
    half = setting.trees // 2
    losses[:half] = losses[:half].mul(2).round()
    return (3 * logits).log_softmax(-1), losses, other


def _on_draw(stream: int, error: OnDraw, measures: Mapping[str, Risk], setting: Setting) -> Errors:
    drawn = _draw(setting, stream)
    return {name: largest(error(risk, *drawn)) for name, risk in measures.items()}


def _claim(
    stream: int,
    key: str,
    statement: str,
    tolerance: float = 1e-10,
    measures: Mapping[str, Risk] = MEASURES,
) -> Callable[[OnDraw], OnDraw]:
    """A claim on errors of a measure with the draws of a stream of its own."""

    def add(error: OnDraw) -> OnDraw:
        claim("risk", key, statement, tolerance)(partial(_on_draw, stream, error, measures))
        return error

    return add


@_claim(1, "translation", "ρ(L + c) = ρ(L) + c")
def translation(risk: Risk, log_p: Tensor, losses: Tensor, _: Tensor) -> Tensor:
    """|rho(L + c) - rho(L) - c|."""
    return (risk(losses + 1.7, log_p).value - risk(losses, log_p).value - 1.7).abs()


@_claim(2, "monotone", "L ≤ L′ gives ρ(L) ≤ ρ(L′)")
def monotone(risk: Risk, log_p: Tensor, losses: Tensor, other: Tensor) -> Tensor:
    """How far rho(L) exceeds rho(L') where L <= L'."""
    above = losses + other.abs()
    return (risk(losses, log_p).value - risk(above, log_p).value).clamp(min=0)


@_claim(3, "above-mean", "ρ(L) ≥ E[L]")
def above_mean(risk: Risk, log_p: Tensor, losses: Tensor, _: Tensor) -> Tensor:
    """How far the mean exceeds rho(L)."""
    return ((log_p.exp() * losses).sum(-1) - risk(losses, log_p).value).clamp(min=0)


@_claim(4, "coherent", "CVaR is coherent: homogeneous, subadditive", measures=COHERENT)
def coherent(risk: Risk, log_p: Tensor, losses: Tensor, other: Tensor) -> Tensor:
    """Positive homogeneity and subadditivity of the mean and CVaR."""
    first, second = risk(losses, log_p).value, risk(other, log_p).value
    scaled = (risk(3.5 * losses, log_p).value - 3.5 * first).abs()
    sub = (risk(losses + other, log_p).value - first - second).clamp(min=0)
    return torch.stack([scaled, sub])


@_claim(5, "convex", "mixing losses never raises risk")
def convex(risk: Risk, log_p: Tensor, losses: Tensor, other: Tensor) -> Tensor:
    """How far the risk of a mixture of losses exceeds the mixture of their risks."""
    mixed = risk(0.3 * losses + 0.7 * other, log_p).value
    parts = 0.3 * risk(losses, log_p).value + 0.7 * risk(other, log_p).value
    return (mixed - parts).clamp(min=0)


@_claim(6, "definition", "CVaR is its minimum over η; ERM of log ratios is Rényi's divergence")
def definition(risk: Risk, log_p: Tensor, _: Tensor, other: Tensor) -> Tensor:
    """CVaR against its minimum over every quantile, ERM against Renyi's divergence."""
    log_policy = other.log_softmax(-1)
    losses, p = log_p - log_policy, log_p.exp()
    if risk.name == "mean":
        expected = (p * losses).sum(-1)
    elif risk.name == "cvar":
        # The function to be minimised is convex and piecewise linear with its kinks at the losses.
        excess = (losses.unsqueeze(-1) - losses.unsqueeze(-2)).clamp(min=0)
        level = risk.parameter or 0.0
        expected = (losses + (p.unsqueeze(-1) * excess).sum(-2) / (1 - level)).amin(-1)
    else:
        order = 1 + (risk.parameter or 0.0)
        expected = (p**order * log_policy.exp() ** (1 - order)).sum(-1).log() / (order - 1)
    return (risk(losses, log_p).value - expected).abs()


@claim("risk", "dual", "q attains ρ(L) = max E_q[L] - penalty(q)", 1e-10)
def dual_density(setting: Setting) -> Errors:
    """q is a density that attains the risk and stays inside its measure's set; none beats it."""
    log_p, losses, _ = _draw(setting, 7)
    p = log_p.exp()
    generator = torch.Generator().manual_seed(setting.seed)

    def penalty(risk: Risk, q: Tensor) -> Tensor:
        """0 inside CVaR's set, infinite outside; KL(q || p) / mu for the entropic measure."""
        if risk.name == "erm":
            assert risk.parameter is not None
            return (torch.xlogy(q, q) - q * log_p).sum(-1) / risk.parameter
        cap = p / (1 - (risk.parameter or 0.0))
        return torch.where((q <= cap * (1 + 1e-9) + 1e-15).all(-1), 0.0, torch.inf)

    def error(risk: Risk) -> Tensor:
        value, q = risk(losses, log_p)
        parts = [
            (-q).clamp(min=0).amax(-1),
            (q.sum(-1) - 1).abs(),
            ((q * losses).sum(-1) - penalty(risk, q) - value).abs(),
        ]
        for _ in range(_TRIES):
            drawn = torch.rand(p.shape, generator=generator, dtype=p.dtype)
            rival = (log_p + 2 * drawn).softmax(-1)
            parts.append(((rival * losses).sum(-1) - penalty(risk, rival) - value).clamp(min=0))
        return torch.stack(parts)

    return {name: largest(error(risk)) for name, risk in MEASURES.items()}


@_claim(8, "gradient", "the gradient by the policy's logits is π - q", 1e-6)
def gradient(risk: Risk, log_p: Tensor, _: Tensor, logits: Tensor) -> Tensor:
    """The training code's gradient, policy - q, against central differences of the risk."""
    step = 1e-5
    identity = torch.eye(_ENTRIES, dtype=torch.float64)
    head, labels = Head(identity), torch.zeros(len(logits), dtype=torch.long)
    hidden = logits.clone().requires_grad_()
    token_stats(hidden, head, log_p, head, labels, risk).risk.sum().backward()
    assert hidden.grad is not None

    def value(shift: Tensor) -> Tensor:
        return risk(log_p - (logits + shift).log_softmax(-1), log_p).value

    unit = step * identity
    numeric = torch.stack([(value(e) - value(-e)) / (2 * step) for e in unit], dim=-1)
    return (hidden.grad - numeric).abs()
