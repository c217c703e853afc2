"""Claims about the tail of whole answers: the optimum, how it is learnt, CVaR along the tree."""

import functools

import torch
from torch import Tensor

from riskalign.risk import get_risk
from riskalign.theory import (
    FAMILIES,
    Levels,
    TokenMDP,
    accumulate,
    answer_optimum,
    charged,
    decomposed,
    nested,
    one_step,
    random_mdp,
    sequence_optimum,
)
from riskalign.theory.evaluate import tail_of_total
from riskalign.theory.solve import negate, value_scale
from riskalign.theory.tree import combine
from riskalign.theory.verify.answer_rivals import at_same_reward_and_kl, by_gradient, lagrangian
from riskalign.theory.verify.claim import Claim, Errors, Setting, largest, smallest
from riskalign.theory.verify.loss_claims import DEPTH, VOCABULARY, train
from riskalign.theory.verify.trees import BETA, total_variation, trees

LEVELS = (0.8, 0.95)
#: Of the cost's charge, whose slope is this much at most.
SLOPE = 1.0
_OWN = 2  # the optimum's own place among the starts of `ascent`


def _multiplier(name: str) -> float:
    """The multiplier that is worth comparing: the tail cost of CVaR rises by 1/(1 - a)."""
    level = get_risk(name).parameter if name.startswith("cvar") else None
    return SLOPE * (1 - (level or 0.0))


@functools.cache
def optima(setting: Setting, level: float) -> list[tuple[TokenMDP, Levels]]:
    """The trees, and the optimum on them; solved once for all claims that ask about it."""
    weight = _multiplier(f"cvar:{level}")
    return [
        (mdp, answer_optimum(mdp, f"cvar:{level}", BETA, weight).log_policy)
        for mdp in trees(setting)
    ]


def same_reward_and_kl(setting: Setting) -> Errors:
    """How far any of 24 policies of the same reward and KL has a lower CVaR: tilts and noise."""
    found: Errors = {}
    for level in LEVELS:
        errors = []
        for mdp, best in optima(setting, level):
            for lost in at_same_reward_and_kl(mdp, best, level, setting.seed):
                errors.append(lost.clamp(min=0).amax())
        found[f"cvar:{level}"] = largest(torch.stack(errors))
    return found


@functools.cache
def ascent(setting: Setting, level: float) -> Tensor:
    """What each of gradient ascent's starts ends at, less what the optimum has: [trees, starts]."""
    weight = _multiplier(f"cvar:{level}")
    rows = []
    for mdp, best in optima(setting, level):
        sacpo = sequence_optimum(
            combine(negate(mdp.reward), mdp.cost, 1.0, SLOPE), mdp.log_ref, BETA
        )  # fmt: skip
        reached = by_gradient(mdp, level, BETA, weight, [mdp.log_ref, sacpo, best], setting.seed)
        rows.append(reached - lagrangian(mdp, best, level, BETA, weight).unsqueeze(-1))
    return torch.cat(rows)


def gradient_ascent(setting: Setting) -> Errors:
    """How far ascent on the same Lagrangian from 8 starts gets below the closed form."""
    return {f"cvar:{a}": largest((-ascent(setting, a)).clamp(min=0)) for a in LEVELS}


def gradient_stays_above(setting: Setting) -> Errors:
    """By how much the ascent's starts end above it, at the mean tree: the best and the worst."""
    above = ascent(setting, 0.8)
    others = above[:, [i for i in range(above.shape[1]) if i != _OWN]]
    return {"best": float(others.amin(-1).mean()), "worst": float(others.amax(-1).mean())}


def rare_harm(setting: Setting) -> Errors:
    """SACPO's optimum at `lambda / (1 - a)` where the helpful policy's quantile is the least cost.

    Then it is the quantile of every tilt towards lower costs, too, and the claim is a theorem.
    Not a number, and so a failure, where no tree has a quantile that low.
    """
    found: Errors = {}
    for level in LEVELS:
        errors = []
        for mdp, best in optima(setting, level):
            helpful = sequence_optimum(negate(mdp.reward), mdp.log_ref, BETA)
            least = accumulate(mdp.cost).amin(-1)
            rare = tail_of_total(mdp, helpful, level).var <= least
            losses = combine(negate(mdp.reward), mdp.cost, 1.0, SLOPE)
            distance = total_variation(
                best, sequence_optimum(losses, mdp.log_ref, BETA)
            )  # fmt: skip
            errors.append(distance[rare])
        rows = torch.cat(errors)
        found[f"cvar:{level}, {len(rows)} trees"] = largest(rows) if len(rows) else float("nan")
    return found


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
    helpful = sequence_optimum(negate(mdp.reward), mdp.log_ref, BETA)
    best = answer_optimum(mdp, name, BETA, weight)
    charge = tuple(weight * level for level in charged(mdp, best.phi))
    return helpful, best.log_policy, charge


def dpo_recovers(setting: Setting) -> Errors:
    """The safe step with `dpo` on gaps of `-lambda phi(C)`, from the helpful policy."""
    found: Errors = {}
    for name in ("cvar:0.9", "erm:0.25"):
        helpful, best, charge = safe_step(setting, name)
        trained = train(helpful, -accumulate(charge), get_risk("mean"), "gap", "dpo")
        found[name] = largest(total_variation(trained, best))
    return found


def rsa_recovers(setting: Setting) -> Errors:
    """The same with `rsa1` and a token-level measure: its own closed form with the cost `phi`."""
    helpful, _, charge = safe_step(setting, "cvar:0.9")
    risk = get_risk("cvar:0.4")
    trained = train(helpful, -accumulate(charge), risk, "gap")
    best = one_step(charge, helpful, value_scale(risk, BETA), BETA)
    return {f"cvar:0.9, tokens {risk.spec}": largest(total_variation(trained, best))}


def prefix_levels(setting: Setting) -> Errors:
    """CVaR by levels that follow the prefix: of the prompt, and at every beginning by itself."""
    found: Errors = {}
    for level in LEVELS:
        errors = []
        for mdp in trees(setting):
            parts = decomposed(mdp, mdp.log_ref, level)
            whole = tail_of_total(mdp, mdp.log_ref, level).cvar
            errors.append((parts.value[0].squeeze(-1) - whole).abs())
            errors.append(_at_beginnings(mdp, parts.share[:-1], parts.value[1:]))
        found[f"cvar:{level}"] = largest(torch.cat([e.flatten() for e in errors]))
    return found


def _at_beginnings(mdp: TokenMDP, share: Levels, value: Levels) -> Tensor:
    """|V(s) - CVaR at level 1 - tau(s) of the cost to come|, by sorting what is below s."""
    errors = []
    for t, (tau, v) in enumerate(zip(share, value, strict=True), start=1):
        tau = tau.flatten(-2)
        log_probs = accumulate_from(mdp.log_ref, t)
        costs = accumulate_from(mdp.cost, t)
        ordered, order = costs.sort(-1, descending=True)
        mass = log_probs.exp().gather(-1, order)
        taken = (tau.unsqueeze(-1) - (mass.cumsum(-1) - mass)).clamp(min=0).minimum(mass)
        own = (taken * ordered).sum(-1) / taken.sum(-1)
        errors.append((own - v).abs().where(tau > 1e-9, 0.0).flatten())
    return torch.cat(errors)


def accumulate_from(levels: Levels, start: int) -> Tensor:
    """Sum along each path below the beginnings of `start` tokens: [..., V**start, paths]."""
    total = levels[start].unsqueeze(-1).flatten(-2)
    size = levels[start].shape[-1]
    for level in levels[start + 1 :]:
        grouped = level.unflatten(-2, (levels[start].shape[-2], -1))
        total = (total.unsqueeze(-1) + grouped).flatten(-2)
    return total.view(*levels[start].shape[:-1], size ** (len(levels) - start))


def other_levels(setting: Setting) -> Errors:
    """How far levels chosen otherwise along the tree give more: they are all within the set."""
    found: Errors = {}
    generator = torch.Generator().manual_seed(setting.seed)
    for level in LEVELS:
        errors = []
        for mdp in trees(setting):
            whole = tail_of_total(mdp, mdp.log_ref, level).cvar
            for _ in range(20):
                shift = tuple(
                    torch.randn(c.shape, generator=generator, dtype=c.dtype) for c in mdp.cost
                )
                # The worst case of another cost is a choice of levels that this cost may have.
                rival = TokenMDP(mdp.log_ref, mdp.reward, combine(mdp.cost, shift, 1.0, 0.3))
                density = tail_of_total(rival, mdp.log_ref, level).density
                value = (density * accumulate(mdp.cost)).sum(-1)
                errors.append((value - whole).clamp(min=0))
        found[f"cvar:{level}"] = largest(torch.cat(errors))
    return found


def fixed_levels(setting: Setting) -> Errors:
    """By how much nested CVaR of one level for all prefixes exceeds static CVaR, on each tree."""
    found: Errors = {}
    for level in LEVELS:
        gaps = []
        for mdp in trees(setting):
            value = nested(mdp.cost, mdp.log_ref, get_risk(f"cvar:{level}"))[1][0].squeeze(-1)
            gaps.append(value - tail_of_total(mdp, mdp.log_ref, level).cvar)
        found[f"cvar:{level}"] = smallest(torch.cat(gaps))
    return found


def forget() -> None:
    """Solve anew, for a library that has changed since."""
    for solved in (optima, ascent, safe_step):
        solved.cache_clear()


CLAIMS = (
    Claim(
        "tail-best", "answers", "at the same reward and KL no policy has a lower CVaR",
        same_reward_and_kl, 1e-6,
    ),
    Claim(
        "tail-ascent", "answers", "gradient ascent on the same Lagrangian gets no further",
        gradient_ascent, 1e-9,
    ),
    Claim(
        "tail-local", "answers", "it ends above by (mean; the worst start in a local optimum)",
        gradient_stays_above, 0.0, "reported",
    ),
    Claim(
        "tail-rare", "answers", "where harm is rare (quantile 0) it is SACPO's optimum",
        rare_harm, 1e-10,
    ),
    Claim(
        "tail-dpo", "answers", "the safe step with dpo on gaps of -λφ(C) ends at it",
        dpo_recovers, 1e-6,
    ),
    Claim(
        "tail-rsa", "answers", "with rsa1 on those gaps: at rsa1's own optimum for φ(C)",
        rsa_recovers, 1e-6,
    ),
    Claim(
        "tail-prefix", "answers", "CVaR of the total = nested CVaR, levels following the prefix",
        prefix_levels, 1e-10,
    ),
    Claim(
        "tail-levels", "answers", "no other levels along the tree give more", other_levels, 1e-10
    ),
    Claim(
        "tail-fixed", "answers", "one level for all prefixes gives no less", fixed_levels, -1e-10,
        "at least",
    ),
)  # fmt: skip
