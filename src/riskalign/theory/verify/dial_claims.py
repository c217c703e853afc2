"""Claims about the dial between two steps' models, and what averaging weights does instead."""

import torch
from torch import Tensor

from riskalign.risk import get_risk
from riskalign.theory import Levels, joint, mix, two_step
from riskalign.theory.verify.claim import Claim, Errors, Setting, largest
from riskalign.theory.verify.step_claims import LAMBDAS, values
from riskalign.theory.verify.trees import BETA, MEASURES, total_variation, trees

_WIDTH = 8  # numbers that a state is described by in the small network


def dial(setting: Setting) -> Errors:
    """The product of powers against the optimum for `w lambda`, inside and outside of [0, 1]."""
    found: Errors = {}
    for name in MEASURES:
        risk = get_risk(name)
        errors = []
        for mdp in trees(setting):
            q_loss, q_cost = values(mdp, name)
            for lambda_ in LAMBDAS:
                first, second = two_step(mdp, risk, risk, BETA, lambda_)
                for w in (0.25, 0.5, 1.5, 3.0):
                    best = joint(mdp, q_loss, q_cost, BETA, w * lambda_)
                    errors.append(total_variation(mix(first, second, w), best))
        found[name] = largest(torch.cat(errors))
    return found


class _Network:
    """Policies of many trees: each state's vector through tanh and a head that states share."""

    def __init__(self, target: Levels, start: list[Tensor] | None = None) -> None:
        """Fit the policies `target`, from weights `start`, else from the same random ones."""
        rows = torch.cat(target, dim=-2)
        if start is None:
            generator = torch.Generator().manual_seed(0)
            count, states, vocabulary = rows.shape
            shapes = [(count, states, _WIDTH), (count, _WIDTH, vocabulary)]
            start = [torch.randn(shape, generator=generator, dtype=rows.dtype) for shape in shapes]
        self.weights = [weight.clone().requires_grad_() for weight in start]
        descent = torch.optim.LBFGS(
            self.weights, max_iter=250, history_size=20, line_search_fn="strong_wolfe",
            tolerance_grad=1e-9, tolerance_change=1e-14,
        )  # fmt: skip

        def closure() -> Tensor:
            descent.zero_grad()
            loss = (rows.exp() * (rows - _policy(self.weights))).sum()
            loss.backward()
            return loss

        descent.step(closure)
        self.weights = [weight.detach() for weight in self.weights]


def _policy(weights: list[Tensor]) -> Tensor:
    states, head = weights
    return (states.tanh() @ head).log_softmax(-1)


def weight_average(setting: Setting) -> Errors:
    """Total variation, at the mean state, between averaged weights and the dial."""
    found: Errors = {}
    mean = get_risk("mean")
    for w in (0.25, 0.5, 0.75, 1.5):
        distances = []
        for mdp in trees(setting):
            first, second = two_step(mdp, mean, mean, BETA, 1.0)
            one = _Network(first)
            two = _Network(second, one.weights)
            merged = _policy([a.lerp(b, w) for a, b in zip(one.weights, two.weights, strict=True)])
            [dialled] = mix((_policy(one.weights),), (_policy(two.weights),), w)
            distances.append((merged.exp() - dialled.exp()).abs().sum(-1).flatten() / 2)
        found[f"w = {w:g}"] = float(torch.cat(distances).mean())
    return found


CLAIMS = (
    Claim("dial", "dial", "π₁^(1-w) π₂^w = the optimum at wλ", dial, 1e-10),
    Claim(
        "weights", "dial", "averaging weights misses the dial by (mean total variation)",
        weight_average, 0.0, "reported",
    ),
)  # fmt: skip
