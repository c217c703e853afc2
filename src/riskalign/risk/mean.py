"""The risk-neutral measure: the expectation."""

from torch import Tensor

from riskalign.risk.value import RiskValue


def mean(losses: Tensor, log_probs: Tensor) -> RiskValue:
    """Expectation `E_p[L]`; its worst-case density is `p` itself.

    With `L = log p - log policy` this is the forward Kullback-Leibler divergence, the
    sequential KL of TDPO (arXiv 2404.11999).

    Shapes: `losses` and `log_probs` are [..., V]; `log_probs` normalised, natural log.

    By hand: `p = (1/4, 3/4)`, `L = (4, 0)` gives `1`.
    """
    probs = log_probs.exp()
    return RiskValue((probs * losses).sum(-1), probs)
