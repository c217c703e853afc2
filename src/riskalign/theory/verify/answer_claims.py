"""Claims about the tail of whole answers: the optimum, how it is learnt, CVaR along the tree."""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from riskalign.risk import get_risk
from riskalign.theory import solve
from riskalign.theory.evaluate import decomposed, tail, tail_of_total
from riskalign.theory.families import FAMILIES, random_mdp
from riskalign.theory.solve import charged
from riskalign.theory.tree import (
    Levels,
    TokenMDP,
    accumulate,
    combine,
    expected_sum,
    negate,
    nested,
)
from riskalign.theory.verify.claim import (
    BETA,
    Errors,
    Setting,
    claim,
    largest,
    noise,
    total_variation,
    trees,
)
from riskalign.theory.verify.loss_claims import DEPTH, VOCABULARY, train

LEVELS = {f"cvar:{level}": level for level in (0.8, 0.95)}
#: Of the cost's charge, whose slope is this much at most.
SLOPE = 1.0
_OWN = 2  # the optimum's own place among the starts of `ascent`
_DRAWS = 6  # of each kind of rival
_HALVINGS = 36
_STEPS = 150
_RATE = 0.05


def at_same_reward_and_kl(
    mdp: TokenMDP, log_policy: Levels, level: float, seed: int
) -> Iterator[Tensor]:
    """By how much rivals' CVaR is lower than a policy's own: a tensor [trees, draws] for each kind.

    A rival is `ref exp(x R - y v)` with the same reward and no more KL. Its direction v is noise
    on every response, the cost, a hinge of the cost at some threshold (the policy's own quantile
    among them), or the cost with noise; x is halved in until the reward is the policy's, y until
    the KL is.
    """
    generator = torch.Generator().manual_seed(seed)
    ref, log_p = accumulate(mdp.log_ref), accumulate(log_policy)
    returns, costs = accumulate(mdp.reward), accumulate(mdp.cost)
    p = log_p.exp()
    reward, kl = (p * returns).sum(-1), (p * (log_p - ref)).sum(-1)
    cvar = tail(costs, p, level).cvar
    shape = (len(costs), _DRAWS, costs.shape[-1])
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    places = torch.linspace(0.1, 0.95, _DRAWS - 1, dtype=torch.float64)
    var = tail(costs, p, level).var
    eta = torch.cat([costs.quantile(places, dim=-1).T, var.unsqueeze(-1)], dim=-1).unsqueeze(-1)
    cost = costs.unsqueeze(1)
    hinge = (cost - eta).clamp(min=0)
    for direction in (noise, cost.expand(shape), hinge, cost + 0.3 * noise):
        v = direction / direction.std(-1, keepdim=True).clamp(min=1e-6)
        rival = _matched(ref.unsqueeze(1), returns.unsqueeze(1), v, reward[:, None], kl[:, None])
        q = rival.exp()
        # What the halving leaves of the reward and of the KL is not to count for the rival.
        missed = (reward[:, None] - (q * returns.unsqueeze(1)).sum(-1)).abs()
        over = (q * (rival - ref.unsqueeze(1))).sum(-1) - kl[:, None]
        comparable = (missed < 1e-7) & (over < 1e-7)
        lost = cvar[:, None] - tail(cost, q, level).cvar
        # Where no rival is comparable there is no finding, and the claim fails.
        yield torch.where(comparable, lost, 0.0 if comparable.any() else torch.nan)


def _matched(ref: Tensor, returns: Tensor, v: Tensor, reward: Tensor, kl: Tensor) -> Tensor:
    """Log probabilities of `ref exp(x R - y v)` at a reward and at most a KL."""

    def at(x: Tensor, y: Tensor) -> Tensor:
        logits = ref + x.unsqueeze(-1) * returns - y.unsqueeze(-1) * v
        return logits.log_softmax(-1)

    def rewarded(y: Tensor) -> Tensor:
        low, high = torch.full_like(y, -60.0) - 20 * y, torch.full_like(y, 60.0) + 20 * y
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            less = (at(middle, y).exp() * returns).sum(-1) < reward
            low, high = torch.where(less, middle, low), torch.where(less, high, middle)
        return at((low + high) / 2, y)

    low = torch.zeros(v.shape[:-1], dtype=torch.float64)
    high = torch.full_like(low, 30.0)
    for _ in range(_HALVINGS // 3):
        middle = (low + high) / 2
        policy = rewarded(middle)
        more = (policy.exp() * (policy - ref)).sum(-1) > kl
        low, high = torch.where(more, low, middle), torch.where(more, middle, high)
    return rewarded(low)


def lagrangian(
    mdp: TokenMDP, log_policy: Levels, level: float, beta: float, lambda_: float
) -> Tensor:
    """`lambda_ CVaR(C) - E[R] + beta KL` of a policy [...], which is to be lowered.

    Differentiable: at the quantile CVaR's slope by the probabilities is `(C - eta)_+ / (1 - a)`.
    """
    with torch.no_grad():
        eta = tail_of_total(mdp, log_policy, level).var.unsqueeze(-1)
    excess = (accumulate(mdp.cost) - eta).clamp(min=0) / (1 - level)
    cvar = eta.squeeze(-1) + (accumulate(log_policy).exp() * excess).sum(-1)
    kl = expected_sum(combine(log_policy, mdp.log_ref, 1.0, -1.0), log_policy)
    return lambda_ * cvar - expected_sum(mdp.reward, log_policy) + beta * kl


def by_gradient(
    mdp: TokenMDP, level: float, beta: float, lambda_: float, starts: list[Levels], seed: int
) -> Tensor:
    """The least Lagrangian that Adam on each state's logits meets: [trees, starts + 5].

    From the given starts and from 5 random policies.
    """
    generator = torch.Generator().manual_seed(seed)
    draws = [tuple(2 * shift for shift in noise(mdp.log_ref, generator)) for _ in range(5)]
    logits = [
        torch.stack(levels, dim=1).requires_grad_() for levels in zip(*starts, *draws, strict=True)
    ]
    wide = TokenMDP(
        *(
            tuple(each.unsqueeze(1) for each in levels)
            for levels in (mdp.log_ref, mdp.reward, mdp.cost)
        )
    )
    descent = torch.optim.Adam(logits, lr=_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(descent, _STEPS)
    least = torch.tensor(torch.inf, dtype=torch.float64)
    for _ in range(_STEPS):
        descent.zero_grad()
        policy = tuple(level_.log_softmax(-1) for level_ in logits)
        value = lagrangian(wide, policy, level, beta, lambda_)
        value.sum().backward()
        descent.step()
        schedule.step()
        least = least.minimum(value.detach())
    return least


def _multiplier(name: str) -> float:
    """The multiplier that is worth comparing: the tail cost of CVaR rises by 1/(1 - a)."""
    level = get_risk(name).parameter if name.startswith("cvar") else None
    return SLOPE * (1 - (level or 0.0))


@functools.cache
def optima(setting: Setting, name: str) -> list[tuple[TokenMDP, Levels]]:
    """The trees, and the optimum on them; solved once for all claims that ask about it."""
    weight = _multiplier(name)
    return [
        (mdp, solve.answer_optimum(mdp, name, BETA, weight).log_policy) for mdp in trees(setting)
    ]


def _sacpo(mdp: TokenMDP) -> Levels:
    losses = combine(negate(mdp.reward), mdp.cost, 1.0, SLOPE)
    return solve.sequence_optimum(losses, mdp.log_ref, BETA)


@claim("answers", "tail-best", "at the same reward and KL no policy has a lower CVaR", 1e-6)
def same_reward_and_kl(setting: Setting) -> Errors:
    """How far any of 24 policies of the same reward and KL has a lower CVaR: tilts and noise."""
    return {
        name: largest(
            torch.stack(
                [
                    lost.clamp(min=0).amax()
                    for mdp, best in optima(setting, name)
                    for lost in at_same_reward_and_kl(mdp, best, level, setting.seed)
                ]
            )
        )
        for name, level in LEVELS.items()
    }


@functools.cache
def ascent(setting: Setting, name: str) -> Tensor:
    """What each of gradient ascent's starts ends at, less what the optimum has: [trees, starts]."""
    level, weight = LEVELS[name], _multiplier(name)
    rows = []
    for mdp, best in optima(setting, name):
        starts = [mdp.log_ref, _sacpo(mdp), best]
        reached = by_gradient(mdp, level, BETA, weight, starts, setting.seed)
        rows.append(reached - lagrangian(mdp, best, level, BETA, weight).unsqueeze(-1))
    return torch.cat(rows)


@claim("answers", "tail-ascent", "gradient ascent on the same Lagrangian gets no further", 1e-9)
def gradient_ascent(setting: Setting) -> Errors:
    """How far ascent on the same Lagrangian from 8 starts gets below the closed form."""
    return {name: largest((-ascent(setting, name)).clamp(min=0)) for name in LEVELS}


@claim(
    "answers",
    "tail-local",
    "it ends above by (mean; the worst start in a local optimum)",
    bound="reported",
)
def gradient_stays_above(setting: Setting) -> Errors:
    """By how much the ascent's starts end above it, at the mean tree: the best and the worst."""
    above = ascent(setting, "cvar:0.8")
    others = above[:, [i for i in range(above.shape[1]) if i != _OWN]]
    return {"best": float(others.amin(-1).mean()), "worst": float(others.amax(-1).mean())}


@claim("answers", "tail-rare", "where harm is rare (quantile 0) it is SACPO's optimum", 1e-10)
def rare_harm(setting: Setting) -> Errors:
    """SACPO's optimum at `lambda / (1 - a)` where the helpful policy's quantile is the least cost.

    Then it is the quantile of every tilt towards lower costs, too, and the claim is a theorem.
    Not a number, and so a failure, where no tree has a quantile that low.
    """
    by_case: Errors = {}
    for name, level in LEVELS.items():
        errors = []
        for mdp, best in optima(setting, name):
            helpful = solve.sequence_optimum(negate(mdp.reward), mdp.log_ref, BETA)
            rare = tail_of_total(mdp, helpful, level).var <= accumulate(mdp.cost).amin(-1)
            errors.append(total_variation(best, _sacpo(mdp))[rare])
        rows = torch.cat(errors)
        by_case[f"{name}, {len(rows)} trees"] = largest(rows) if len(rows) else float("nan")
    return by_case


def _small(setting: Setting) -> TokenMDP:
    """Half as many trees, of the size that losses are trained on, of all families."""
    each = -(-setting.trees // (2 * len(FAMILIES)))
    drawn = [
        random_mdp(family, setting.seed + i, vocabulary=VOCABULARY, depth=DEPTH, count=each)
        for i, family in enumerate(FAMILIES)
    ]
    log_ref, reward, cost = (
        tuple(torch.cat(level) for level in zip(*parts, strict=True))
        for parts in zip(*((m.log_ref, m.reward, m.cost) for m in drawn), strict=True)
    )
    return TokenMDP(log_ref, reward, cost)


@functools.cache
def safe_step(setting: Setting, name: str) -> tuple[Levels, Levels, Levels]:
    """The helpful policy, the whole optimum and the charge in reward units, at the last token."""
    mdp = _small(setting)
    weight = _multiplier(name)
    helpful = solve.sequence_optimum(negate(mdp.reward), mdp.log_ref, BETA)
    best = solve.answer_optimum(mdp, name, BETA, weight)
    charge = tuple(weight * level for level in charged(mdp, best.phi))
    return helpful, best.log_policy, charge


@claim("answers", "tail-dpo", "the safe step with dpo on gaps of -λφ(C) ends at it", 1e-6)
def dpo_recovers(setting: Setting) -> Errors:
    """The safe step with `dpo` on gaps of `-lambda phi(C)`, from the helpful policy."""
    by_measure: Errors = {}
    for name in ("cvar:0.9", "erm:0.25"):
        helpful, best, charge = safe_step(setting, name)
        trained = train(helpful, -accumulate(charge), get_risk("mean"), "gap", "dpo")
        by_measure[name] = largest(total_variation(trained, best))
    return by_measure


@claim("answers", "tail-rsa", "with rsa1 on those gaps: at rsa1's own optimum for φ(C)", 1e-6)
def rsa_recovers(setting: Setting) -> Errors:
    """The same with `rsa1` and a token-level measure: its own closed form with the cost `phi`."""
    helpful, _, charge = safe_step(setting, "cvar:0.9")
    risk = get_risk("cvar:0.4")
    trained = train(helpful, -accumulate(charge), risk, "gap")
    best = solve.one_step(charge, helpful, solve.value_scale(risk, BETA), BETA)
    return {f"cvar:0.9, tokens {risk.spec}": largest(total_variation(trained, best))}


@claim(
    "answers",
    "tail-prefix",
    "CVaR of the total = nested CVaR, levels following the prefix",
    1e-10,
    cases=LEVELS,
)
def prefix_levels(mdp: TokenMDP, level: float) -> Iterator[Tensor]:
    """CVaR by levels that follow the prefix: of the prompt, and at every beginning by itself.

    At a beginning s, by sorting what is below: |V(s) - CVaR at level 1 - tau(s) of the cost to
    come|.
    """
    parts = decomposed(mdp, mdp.log_ref, level)
    yield (parts.value[0].squeeze(-1) - tail_of_total(mdp, mdp.log_ref, level).cvar).abs()
    for t, (share, value) in enumerate(zip(parts.share[:-1], parts.value[1:], strict=True), 1):
        tau = share.flatten(-2)
        ordered, order = accumulate_from(mdp.cost, t).sort(-1, descending=True)
        mass = accumulate_from(mdp.log_ref, t).exp().gather(-1, order)
        taken = (tau.unsqueeze(-1) - (mass.cumsum(-1) - mass)).clamp(min=0).minimum(mass)
        cvar = (taken * ordered).sum(-1) / taken.sum(-1)
        yield (cvar - value).abs().where(tau > 1e-9, 0.0)


def accumulate_from(levels: Levels, start: int) -> Tensor:
    """Sum along each path below the beginnings of `start` tokens: [..., V**start, paths]."""
    total = levels[start].unsqueeze(-1).flatten(-2)
    size = levels[start].shape[-1]
    for level in levels[start + 1 :]:
        grouped = level.unflatten(-2, (levels[start].shape[-2], -1))
        total = (total.unsqueeze(-1) + grouped).flatten(-2)
    return total.view(*levels[start].shape[:-1], size ** (len(levels) - start))


@claim("answers", "tail-levels", "no other levels along the tree give more", 1e-10)
def other_levels(setting: Setting) -> Errors:
    """How far levels chosen otherwise along the tree give more: they are all within the set."""
    by_level: Errors = {}
    generator = torch.Generator().manual_seed(setting.seed)
    for name, level in LEVELS.items():
        errors = []
        for mdp in trees(setting):
            whole = tail_of_total(mdp, mdp.log_ref, level).cvar
            for _ in range(20):
                # The worst case of another cost is a choice of levels that this cost may have.
                cost = combine(mdp.cost, noise(mdp.cost, generator), 1.0, 0.3)
                rival = TokenMDP(mdp.log_ref, mdp.reward, cost)
                density = tail_of_total(rival, mdp.log_ref, level).density
                value = (density * accumulate(mdp.cost)).sum(-1)
                errors.append((value - whole).clamp(min=0))
        by_level[name] = largest(torch.cat(errors))
    return by_level


@claim(
    "answers",
    "tail-fixed",
    "one level for all prefixes gives no less",
    -1e-10,
    "at least",
    cases=LEVELS,
)
def fixed_levels(mdp: TokenMDP, level: float) -> Iterator[Tensor]:
    """By how much nested CVaR of one level for all prefixes exceeds static CVaR, on each tree."""
    _, values = nested(mdp.cost, mdp.log_ref, get_risk(f"cvar:{level}"))
    yield values[0].squeeze(-1) - tail_of_total(mdp, mdp.log_ref, level).cvar


def forget() -> None:
    """Solve anew, for a library that has changed since."""
    for solved in (optima, ascent, safe_step):
        solved.cache_clear()
