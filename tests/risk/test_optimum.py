"""The best tilt for a tail: by hand, against every threshold, against other policies."""

import math

import pytest
import torch
from torch import Tensor

from riskalign.errors import InputError
from riskalign.risk import get_risk, strength_for, tail_cost, tail_optimum
from riskalign.risk.tilts import Base
from tests.risk.rivals import register, specs


def sample(seed: int, prompts: int, answers: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-normal costs (every third seed in halves, with ties), log weights, prompts: [N]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, prompts * answers)
    normal, log_base = torch.randn(shape, generator=generator, dtype=torch.float64)
    costs = normal.exp() if seed % 3 else (2 * normal.exp()).round() / 2
    return costs, log_base, torch.arange(prompts).repeat_interleave(answers)


def by_scan(
    costs: Tensor, level: float, strength: float, log_base: Tensor, prompt: Tensor
) -> tuple[float, float]:
    """Least `strength eta - mean over prompts of log E exp(-strength (C - eta)_+/(1 - a))`."""
    eta = costs.unique()
    own, weights = (each.view(int(prompt.max()) + 1, 1, -1) for each in (costs, log_base))
    charged = (own - eta.unsqueeze(1)).clamp(min=0) / (1 - level)  # [prompts, thresholds, answers]
    inner = ((-strength * charged).exp() * weights.softmax(-1)).sum(-1).log()
    value = strength * eta - inner.mean(0)
    return float(value.min()), float(eta[value.argmin()])


def test_by_hand() -> None:
    costs = torch.tensor([0.0, 1.0])
    found = tail_optimum(costs, "cvar:0", math.log(3))
    assert found.weights.tolist() == pytest.approx([0.75, 0.25])
    assert found.risk == pytest.approx(0.25)
    assert found.cost == pytest.approx(0.25)
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert found.kl == pytest.approx(kl)
    assert found.objective == pytest.approx(math.log(3) * 0.25 + kl)
    # 1 / (9/16 + 1/16) answers carry the weights, and as many the mean.
    assert found.effective == pytest.approx(1.6)
    assert found.effective_tail == pytest.approx(1.6)
    # Half the mass is the tail: eta = 0 charges 2 for the cost 1, so that w_1 = 1/(1 + 9).
    half = tail_optimum(costs, "cvar:0.5", math.log(3))
    assert half.weights.tolist() == pytest.approx([0.9, 0.1])
    assert half.risk == pytest.approx(0.2)
    assert half.phi.threshold == 0.0


def test_prompts_count_alike_and_do_not_mix() -> None:
    """Two answers of one prompt are tilted, a prompt of one answer cannot be."""
    costs = torch.tensor([0.0, 1.0, 5.0])
    found = tail_optimum(costs, "mean", math.log(3), prompt=torch.tensor([7, 7, 9]))
    assert found.weights.tolist() == pytest.approx([3 / 8, 1 / 8, 1 / 2])
    assert found.effective == pytest.approx((1.6 + 1) / 2)
    swapped = tail_optimum(
        costs[[2, 0, 1]], "mean", math.log(3), prompt=torch.tensor([1, 0, 0])
    )  # fmt: skip
    assert swapped.weights.tolist() == pytest.approx([1 / 2, 3 / 8, 1 / 8])
    assert swapped.objective == pytest.approx(found.objective)


@pytest.mark.parametrize("level", [0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("shape", [(1, 60), (12, 8), (40, 4)])
def test_cvar_is_the_best_of_all_thresholds(level: float, shape: tuple[int, int]) -> None:
    for seed in range(6):
        costs, log_base, prompt = sample(seed, *shape)
        for strength in (0.1, 2.0):
            best, eta = by_scan(costs, level, strength, log_base, prompt)
            found = tail_optimum(
                costs, f"cvar:{level}", strength, log_base=log_base, prompt=prompt
            )  # fmt: skip
            assert found.objective == pytest.approx(best, rel=1e-10, abs=1e-12), (seed, strength)
            if level and eta > float(costs.min()):
                assert found.phi.threshold == pytest.approx(eta), (seed, strength)


@pytest.mark.parametrize("starts", [16, 64])
def test_few_starts_find_it_too(starts: int) -> None:
    """With fewer starts than costs, those around the best starts are tried until neighbours."""
    for seed in (1, 2):
        costs, log_base, prompt = sample(seed, 60, 8)
        for strength in (0.3, 2.0):
            best, _ = by_scan(costs, 0.95, strength, log_base, prompt)
            found = tail_optimum(
                costs, "cvar:0.95", strength, log_base=log_base, prompt=prompt, starts=starts
            )
            assert found.objective == pytest.approx(best, rel=1e-10)


def test_no_other_policy_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every measure: random policies, near and far, and other tilts."""
    register(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    for seed in range(3):
        costs, log_base, prompt = sample(seed, 6, 10)
        base = Base.of(costs, log_base, prompt)
        for spec in specs():
            risk, strength = get_risk(spec), 0.8
            best = tail_optimum(costs, risk, strength, log_base=log_base, prompt=prompt)
            width = torch.logspace(-4, 1, 300, dtype=torch.float64).unsqueeze(1)
            noise = torch.randn((300, len(costs)), generator=generator, dtype=torch.float64)
            around = best.weights.log() - base.log_weights + width * noise
            uniform = torch.rand((300, len(costs)), generator=generator, dtype=torch.float64)
            charged = tail_cost(costs, "cvar:0.7")(costs + uniform[:, :1] - 0.5)
            for logits in (around, 5 * uniform, -3 * uniform[:, 1:2] * charged):
                log_w = base.tilted(logits)
                value = risk(costs.expand(len(log_w), -1), log_w).value
                other = strength * value + base.kl(log_w)
                # The semideviation is not concave in the distribution: near is all it gets.
                slack = 1e-4 if risk.name == "semideviation" else 1e-9
                assert float(other.min()) >= best.objective - slack, spec


def test_the_parts_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    costs, log_base, prompt = sample(4, 10, 12)
    base = Base.of(costs, log_base, prompt)
    for spec in specs():
        found = tail_optimum(costs, spec, 0.6, log_base=log_base, prompt=prompt)
        assert found.objective == pytest.approx(0.6 * found.risk + found.kl)
        totals = torch.zeros(10, dtype=torch.float64).index_add(0, prompt, found.weights)
        torch.testing.assert_close(totals, torch.full((10,), 0.1, dtype=torch.float64))
        # The fixed point: the weights are the tilt by the tail cost of their own distribution.
        again = base.tilted(-0.6 * found.phi(costs).unsqueeze(0))[0].exp()
        assert float((again - found.weights).abs().sum()) < 1e-5, spec
        assert 1 <= found.effective <= 12
        assert 1 <= found.effective_tail <= 120


@pytest.mark.parametrize("spec", ["mean", "cvar:0.9", "erm:0.5"])
@pytest.mark.parametrize("starts", [8, 64])
def test_a_limit_is_reached_at_the_least_distance(spec: str, starts: int) -> None:
    """No tilt of a multiplier that keeps the limit is nearer, and no random one either."""
    costs, log_base, prompt = sample(5, 20, 16)
    base = Base.of(costs, log_base, prompt)
    risk = get_risk(spec)
    limit = 0.6 * float(risk(costs, base.log_weights).value)
    found = strength_for(costs, spec, limit, log_base=log_base, prompt=prompt, starts=starts)
    assert found.risk <= limit
    assert found.risk == pytest.approx(limit, rel=1e-6)
    again = base.tilted(-found.strength * found.phi(costs).unsqueeze(0))[0].exp()
    torch.testing.assert_close(again, found.weights, rtol=1e-6, atol=1e-9)
    for strength in torch.logspace(-2, 2, 9).tolist():
        other = tail_optimum(costs, spec, strength, log_base=log_base, prompt=prompt)
        assert other.risk > limit or other.kl >= found.kl - 1e-9
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((2000, len(costs)), generator=generator, dtype=torch.float64)
    log_w = base.tilted(logits - torch.rand((2000, 1), generator=generator).double() * costs)
    kept = risk(costs.expand(2000, -1), log_w).value <= limit
    assert bool(kept.any())
    assert bool((base.kl(log_w)[kept] >= found.kl - 1e-9).all())


def test_a_limit_on_cvar_is_a_scan_of_thresholds() -> None:
    """Of all hinges with the least strength that keeps the limit, the one of least KL.

    Its threshold is its policy's quantile.
    """
    costs, log_base, prompt = sample(6, 8, 6)
    base = Base.of(costs, log_base, prompt)
    risk = get_risk("cvar:0.8")
    limit = 0.5 * float(risk(costs, base.log_weights).value)
    charge = (costs - costs.unsqueeze(1)).clamp(min=0)  # a threshold a row
    every = costs.expand_as(charge)
    low, high = torch.zeros(len(costs), 1).double(), torch.full((len(costs), 1), 1e4).double()
    for _ in range(45):
        middle = (low + high) / 2
        keeps = (risk(every, base.tilted(-middle * charge)).value <= limit).unsqueeze(-1)
        low, high = torch.where(keeps, low, middle), torch.where(keeps, middle, high)
    log_w = base.tilted(-high * charge)
    least = float(base.kl(log_w)[risk(every, log_w).value <= limit + 1e-9].min())
    found = strength_for(costs, risk, limit, log_base=log_base, prompt=prompt, starts=512)
    assert found.kl == pytest.approx(least, rel=1e-5)
    eta = found.phi.threshold
    above = float(found.weights[costs > eta + 1e-12].sum())
    at_least = float(found.weights[costs >= eta - 1e-12].sum())
    assert above <= 0.2 + 1e-9
    assert at_least >= 0.2 - 1e-9


def test_a_limit_leads_where_no_multiplier_does() -> None:
    """Thresholds jump from 5 to 1 as the strength rises, and the risk from 5.7 to 1.07."""
    costs = torch.tensor([1.0, 5.0, 6.0, 10.0])
    log_base = torch.tensor([0.2, 0.5, 0.25, 0.05]).log()
    risks = [
        tail_optimum(costs, "cvar:0.8", strength, log_base=log_base).risk
        for strength in (0.1, 0.2, 0.3, 0.33, 0.34, 0.4)
    ]
    assert not any(1.1 < risk < 5.3 for risk in risks)
    for limit in (2.0, 3.0, 4.0, 5.0):
        found = strength_for(costs, "cvar:0.8", limit, log_base=log_base)
        assert found.risk == pytest.approx(limit)


def test_a_limit_by_hand() -> None:
    found = strength_for(torch.tensor([0.0, 1.0]), "mean", 0.25)
    assert found.strength == pytest.approx(math.log(3))
    torch.testing.assert_close(found.weights, torch.tensor([0.75, 0.25], dtype=torch.float64))


def test_refusals() -> None:
    costs = torch.tensor([0.0, 1.0, 3.0])
    for strength in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="strength"):
            tail_optimum(costs, "cvar:0.5", strength)
    with pytest.raises(InputError, match="no risk of a distribution"):
        tail_optimum(costs, "paper_code:0.5", 1.0)
    with pytest.raises(InputError, match="one entry for each"):
        tail_optimum(costs, "mean", 1.0, prompt=torch.tensor([0, 1]))
    with pytest.raises(InputError, match="log_base"):
        tail_optimum(costs, "mean", 1.0, log_base=torch.tensor([0.0, -math.inf, 0.0]))
    with pytest.raises(InputError, match="at least one"):
        tail_optimum(torch.tensor([]), "mean", 1.0)
    with pytest.raises(InputError, match="starts"):
        tail_optimum(costs, "mean", 1.0, starts=0)
    with pytest.raises(InputError, match="already"):
        strength_for(costs, "cvar:0.5", 3.0)
    # Prompts of one answer each leave nothing to choose from.
    with pytest.raises(InputError, match=r"least risk.*more answers"):
        strength_for(costs, "cvar:0.5", 1.0, prompt=torch.arange(3))
    with pytest.raises(InputError, match="least risk"):
        strength_for(torch.ones(4), "cvar:0.5", 0.5)
