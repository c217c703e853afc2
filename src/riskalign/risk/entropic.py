"""The entropic risk measure (ERM)."""

import torch
from torch import Tensor

from riskalign.risk.value import RiskValue


def entropic(losses: Tensor, log_probs: Tensor, parameter: float) -> RiskValue:
    """Entropic risk `(1/mu) log E_p[exp(mu L)]`, `mu = parameter > 0`.

    The worst-case density is the exponentially tilted `q ∝ p exp(mu L)`. With
    `L = log p - log policy` the value is the Rényi divergence of order `1 + mu` from the
    policy to `p`. It tends to the expectation as `mu -> 0`, and is computed from log
    probabilities, so that an entry whose probability underflows still counts for what it weighs.
    In float32 its rounding error is about `1e-7 / mu`: choose `mean` over a tiny `mu`.

    Shapes: `losses` and `log_probs` are [..., V]; `log_probs` normalised, natural log.

    By hand: `p = (1/2, 1/2)`, `L = (log 3, 0)`, `mu = 1` gives `log((3 + 1)/2) = log 2` and
    `q = (3/4, 1/4)`.
    """
    tilted = torch.add(log_probs, losses, alpha=parameter)
    log_mgf = tilted.logsumexp(dim=-1, keepdim=True)
    density = tilted.sub_(log_mgf).exp_()
    return RiskValue(log_mgf.squeeze(-1) / parameter, density)
