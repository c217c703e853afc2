"""Claims about the risk measures themselves, on random distributions and losses."""

import torch
from torch import Tensor

from riskalign.risk import Risk, get_risk
from riskalign.theory.verify.claim import Claim, Errors, Setting, largest
from riskalign.tokens import Head, token_stats

MEASURES = ("mean", "cvar:0.0", "cvar:0.5", "cvar:0.95", "erm:0.5", "erm:2.0")
COHERENT = MEASURES[:4]
_ENTRIES = 12
_TRIES = 40


def _draw(setting: Setting, stream: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log probabilities, losses with ties, and other losses: [count, 12] each."""
    generator = torch.Generator().manual_seed(setting.seed * 101 + stream)
    shape = (3, setting.trees, _ENTRIES)
    logits, losses, other = torch.randn(shape, generator=generator, dtype=torch.float64)
    # Whole numbers bring ties, which split atoms.
    half = setting.trees // 2
    losses[:half] = losses[:half].mul(2).round()
    return (3 * logits).log_softmax(-1), losses, other


def _each(names: tuple[str, ...], error_of: object) -> Errors:
    assert callable(error_of)
    return {name: largest(error_of(get_risk(name))) for name in names}


def translation(setting: Setting) -> Errors:
    """|rho(L + c) - rho(L) - c|."""
    log_p, losses, _ = _draw(setting, 1)
    return _each(
        MEASURES,
        lambda risk: (risk(losses + 1.7, log_p).value - risk(losses, log_p).value - 1.7).abs(),
    )


def monotone(setting: Setting) -> Errors:
    """How far rho(L) exceeds rho(L') where L <= L'."""
    log_p, losses, other = _draw(setting, 2)
    above = losses + other.abs()
    return _each(
        MEASURES,
        lambda risk: (risk(losses, log_p).value - risk(above, log_p).value).clamp(min=0),
    )


def above_mean(setting: Setting) -> Errors:
    """How far the mean exceeds rho(L)."""
    log_p, losses, _ = _draw(setting, 3)
    expected = (log_p.exp() * losses).sum(-1)
    return _each(MEASURES, lambda risk: (expected - risk(losses, log_p).value).clamp(min=0))


def coherent(setting: Setting) -> Errors:
    """Positive homogeneity and subadditivity of the mean and CVaR."""
    log_p, losses, other = _draw(setting, 4)

    def error(risk: Risk) -> Tensor:
        first, second = risk(losses, log_p).value, risk(other, log_p).value
        scaled = (risk(3.5 * losses, log_p).value - 3.5 * first).abs()
        sub = (risk(losses + other, log_p).value - first - second).clamp(min=0)
        return torch.stack([scaled, sub])

    return _each(COHERENT, error)


def convex(setting: Setting) -> Errors:
    """How far the risk of a mixture of losses exceeds the mixture of their risks."""
    log_p, losses, other = _draw(setting, 5)

    def error(risk: Risk) -> Tensor:
        mixed = risk(0.3 * losses + 0.7 * other, log_p).value
        parts = 0.3 * risk(losses, log_p).value + 0.7 * risk(other, log_p).value
        return (mixed - parts).clamp(min=0)

    return _each(MEASURES, error)


def definition(setting: Setting) -> Errors:
    """CVaR against its minimum over every quantile, ERM against Renyi's divergence."""
    log_p, _, other = _draw(setting, 6)
    log_policy = other.log_softmax(-1)
    losses = log_p - log_policy
    p = log_p.exp()

    def cvar(level: float) -> Tensor:
        # The function to be minimised is convex and piecewise linear with its kinks at the losses.
        eta = losses.unsqueeze(-2)
        excess = (losses.unsqueeze(-1) - eta).clamp(min=0)
        at = eta.squeeze(-2) + (p.unsqueeze(-1) * excess).sum(-2) / (1 - level)
        return at.amin(-1)

    def renyi(order: float) -> Tensor:
        return (p**order * log_policy.exp() ** (1 - order)).sum(-1).log() / (order - 1)

    expected = {
        "mean": (p * losses).sum(-1),
        **{f"cvar:{a}": cvar(a) for a in (0.0, 0.5, 0.95)},
        **{f"erm:{mu}": renyi(1 + mu) for mu in (0.5, 2.0)},
    }
    return {
        name: largest((get_risk(name)(losses, log_p).value - value).abs())
        for name, value in expected.items()
    }


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

    return _each(MEASURES, error)


def gradient(setting: Setting) -> Errors:
    """The training code's gradient, policy - q, against central differences of the risk."""
    log_p, _, logits = _draw(setting, 8)
    step = 1e-5
    head = Head(torch.eye(_ENTRIES, dtype=torch.float64))
    labels = torch.zeros(len(logits), dtype=torch.long)

    def error(risk: Risk) -> Tensor:
        hidden = logits.clone().requires_grad_()
        token_stats(hidden, head, log_p, head, labels, risk).risk.sum().backward()
        assert hidden.grad is not None

        def value(shift: Tensor) -> Tensor:
            return risk(log_p - (logits + shift).log_softmax(-1), log_p).value

        unit = step * torch.eye(_ENTRIES, dtype=torch.float64)
        numeric = torch.stack([(value(e) - value(-e)) / (2 * step) for e in unit], dim=-1)
        return (hidden.grad - numeric).abs()

    return _each(MEASURES, error)


CLAIMS = (
    Claim("translation", "risk", "ρ(L + c) = ρ(L) + c", translation, 1e-10),
    Claim("monotone", "risk", "L ≤ L′ gives ρ(L) ≤ ρ(L′)", monotone, 1e-10),
    Claim("above-mean", "risk", "ρ(L) ≥ E[L]", above_mean, 1e-10),
    Claim("coherent", "risk", "CVaR is coherent: homogeneous, subadditive", coherent, 1e-10),
    Claim("convex", "risk", "mixing losses never raises risk", convex, 1e-10),
    Claim(
        "definition", "risk", "CVaR is its minimum over η; ERM of log ratios is Rényi's divergence",
        definition, 1e-10,
    ),
    Claim("dual", "risk", "q attains ρ(L) = max E_q[L] - penalty(q)", dual_density, 1e-10),
    Claim("gradient", "risk", "the gradient by the policy's logits is π - q", gradient, 1e-6),
)  # fmt: skip
