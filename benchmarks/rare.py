"""Rare harm by importance sampling on random exact trees: unbiased, covered, and how much cheaper.

    python benchmarks/rare.py --json benchmarks/results/rare.json

A world is 200 prompts, each a tree of 1,296 answers (`riskalign.theory`). The first step's policy
is tilted by reward. The second step's suppresses unsafe answers, by a strength solved for a true
unsafe rate of 1e-3 or 1e-4, and has errors: normal noise on each logit. Everything true is computed
by summing over all answers. First table: how many answers of the target alone one answer is worth,
exactly, by which settings are sampled beside it. Second: `riskalign.evaluation.rare.rare_harm` on
samples, against plain sampling with five times the answers. docs/estimation.md tells what came out.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from riskalign.evaluation.rare import balance_weights, rare_harm, weighted_cvar
from riskalign.files.atomic import write_text
from riskalign.theory import Levels, accumulate, mix, random_mdp, sequence_optimum
from riskalign.theory.evaluate import tail
from riskalign.theory.tree import negate

Floats = NDArray[np.float64]
PROMPTS, MOST = 200, 20.0
LEVELS = (0.95, 0.99)
LOOSER, COUNTS = (0.25, 0.5), (1, 2, 1)
CHOICES = ((0.0,), (0.25,), (0.5,), LOOSER, (0.5, 0.75), (0.8, 0.9))
TIMES = 5


class Kind(NamedTuple):
    """How the second step fails: what it charges by, its noise, harm that it alone has."""

    family: str
    even: bool
    noise: float
    own: bool = False


WORLDS = {
    "all harm suppressed alike, small errors": Kind("scattered", True, 0.4),
    "mild harm suppressed less, large errors": Kind("scattered", False, 0.8),
    "reward tempts, large errors": Kind("correlated", False, 0.8),
    "errors larger still": Kind("scattered", False, 1.4),
    "half of it the target's alone": Kind("scattered", True, 0.4, own=True),
}
CASES = [(name, rate) for name in WORLDS for rate in (1e-3, 1e-4)]
#: Not rare: the quantile is above 0.
CASES.append(("mild harm suppressed less, large errors", 0.03))


@dataclass(frozen=True)
class World:
    """Costs [P, leaves], both steps' policies, and the truth."""

    costs: Floats
    step1: Levels
    final: Levels
    rate: float
    cvar: dict[float, float]

    def log_probs(self, settings: tuple[float, ...]) -> Floats:
        """Of all answers at each setting: [P, leaves, J]."""
        found = [accumulate(mix(self.step1, self.final, w)).numpy() for w in settings]
        return np.stack(found, axis=-1)


def solved(rate_at: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a falling function has a value, by halving."""
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if rate_at(middle) > wanted else (low, middle)
    return high


def make(kind: Kind, rate: float, seed: int) -> World:
    """A world of 200 trees in which the final policy is unsafe at the rate, on average."""
    mdp = random_mdp(kind.family, seed, vocabulary=6, depth=4, count=PROMPTS)
    generator = torch.Generator().manual_seed(seed + 1)
    step1 = sequence_optimum(negate(mdp.reward), mdp.log_ref, 1.0)
    noise = [
        kind.noise * torch.randn(level.shape, generator=generator, dtype=torch.float64)
        for level in step1
    ]
    last = mdp.cost[-1]
    least = last.masked_fill(last == 0, math.inf).amin((-1, -2), keepdim=True)
    severity = torch.where(last > 0, last / least, 0.0).clamp(max=MOST)  # 1 at least
    charge = (last > 0).double() if kind.even else severity.clamp(max=2.0) / 2
    alone = (torch.rand(last.shape, generator=generator) < 0.0015) & (last > 0)

    def final(strength: float, boost: float = 0.0) -> Levels:
        exact = sequence_optimum((*mdp.cost[:-1], strength * charge), step1, 1.0)
        logits = [level + error for level, error in zip(exact, noise, strict=True)]
        logits[-1] = logits[-1] + boost * alone
        return tuple(level.log_softmax(-1) for level in logits)

    def rate_of(policy: Levels) -> float:
        return float((accumulate(policy).exp() * (last > 0).flatten(-2)).sum(-1).mean())

    suppressed = rate / 2 if kind.own else rate
    strength = solved(lambda s: rate_of(final(s)), suppressed, 0.0, 60.0)
    boost = solved(lambda b: -rate_of(final(strength, b)), -rate, 0.0, 60.0) if kind.own else 0.0
    policy = final(strength, boost)
    costs = severity.flatten(-2)
    probs = accumulate(policy).exp().flatten() / PROMPTS
    cvar = {level: float(tail(costs.flatten(), probs, level).cvar) for level in LEVELS}
    return World(costs.numpy(), step1, policy, rate_of(policy), cvar)


def worth(world: World, looser: tuple[float, ...], own: float = 0.25) -> float:
    """Answers of the target alone that tell as much of the unsafe rate as one of the mixture.

    `E[1] / E[W]` over the target's unsafe answers: the ratio of the variances of rare events.
    """
    logs = world.log_probs((1.0, *looser))
    shares = np.array([own, *((1 - own) / len(looser) for _ in looser)])
    weights = 1 / (np.exp(logs - logs[..., :1]) @ shares)
    unsafe = np.exp(logs[..., 0]) * (world.costs > 0)
    return float(unsafe.sum() / (unsafe * weights).sum())


class Sampler:
    """Draws answers to sampled prompts from settings of a world's dial."""

    def __init__(self, world: World, settings: tuple[float, ...]) -> None:
        self.costs, self.logs = world.costs, world.log_probs(settings)
        reached = np.exp(self.logs).cumsum(axis=1)
        reached = reached / reached[:, -1:] + np.arange(PROMPTS)[:, None, None]
        self.reached = [reached[..., j].ravel() for j in range(len(settings))]

    def draw(
        self, prompts: int, counts: tuple[int, ...], g: np.random.Generator
    ) -> tuple[Floats, Floats]:
        """Costs [M, k] and log probabilities [M, k, J], `counts` [J] answers from each setting."""
        leaves = self.costs.shape[1]
        asked = g.integers(0, PROMPTS, (prompts, 1))
        picked = []
        for j, n in enumerate(counts):
            level = (asked + g.random((prompts, n))).ravel()
            at = np.searchsorted(self.reached[j], level, side="right")
            picked.append(np.clip(at.reshape(prompts, n) - asked * leaves, 0, leaves - 1))
        answers = np.concatenate(picked, axis=1)
        return self.costs[asked, answers], self.logs[asked, answers]


def simulate(name: str, rate: float, prompts: int, repeats: int, seed: int) -> dict[str, Any]:
    """One world's figures: worth by settings, bias, coverage and width, ours and plain."""
    torch.set_num_threads(1)
    world, g = make(WORLDS[name], rate, seed), np.random.default_rng([seed, prompts])
    sampler, alone = Sampler(world, (1.0, *LOOSER)), Sampler(world, (1.0,))
    truth = {"unsafe_rate": world.rate, **{f"cvar_{a}": v for a, v in world.cvar.items()}}
    ends: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    sizes = []
    for _ in range(repeats):
        costs, own = sampler.draw(prompts, COUNTS, g)
        found = rare_harm(costs, own, COUNTS, LEVELS, max_cost=MOST)
        sizes.append((found.effective, found.effective_unsafe, found.mean_weight))
        weights = balance_weights(own, COUNTS)
        scaled = weights / weights.mean()
        normal = {f"cvar_{a}": weighted_cvar(costs, scaled, a)[0].value for a in LEVELS}
        normal["unsafe_rate"] = found.unsafe_rate.value / found.mean_weight
        plain_costs, _ = alone.draw(TIMES * prompts, (sum(COUNTS),), g)
        plain = rare_harm(
            plain_costs, np.zeros((*plain_costs.shape, 1)), [sum(COUNTS)], LEVELS, max_cost=MOST
        )
        for method, rare in (("rare", found), ("plain", plain)):
            each = {"unsafe_rate": rare.unsafe_rate} | {
                f"cvar_{a}": interval for a, interval in rare.cvar.items()
            }
            for key, e in each.items():
                ends.setdefault((method, key), []).append((e.value, e.low, e.high))
        for key, value in normal.items():
            ends.setdefault(("normalised", key), []).append((value, value, value))
    rows: dict[str, dict[str, Any]] = {}
    for (method, key), intervals in ends.items():
        values, low, high = np.array(intervals).T
        true = truth[key]
        error = values.std() / math.sqrt(repeats)
        rows.setdefault(key, {})[method] = {
            "bias_in_errors": float((values.mean() - true) / error),
            "rmse": float(np.sqrt(((values - true) ** 2).mean()) / true),
            "coverage": float(((low <= true) & (true <= high)).mean()),
            "width": float(np.median(high - low) / true),
        }
    return {
        "world": name,
        "rate": rate,
        "prompts": prompts,
        "truth": truth,
        "worth": {str(looser): worth(world, looser) for looser in CHOICES},
        "effective": [float(x) for x in np.mean(sizes, axis=0)],
        "rows": rows,
    }


def tables(found: list[dict[str, Any]]) -> str:
    """Two Markdown tables: worth by settings, and what the samples gave."""
    names = [", ".join(f"{w:g}" for w in looser) for looser in CHOICES]
    lines = [
        f"| world | unsafe rate | {' | '.join(names)} |",
        "| --- | ---: " + "| ---: " * len(names) + "|",
    ]
    for case in found:
        cells = " | ".join(f"{value:,.1f}" for value in case["worth"].values())
        lines.append(f"| {case['world']} | {case['rate']:g} | {cells} |")
    lines += [
        "",
        "| world | unsafe rate | figure | bias in errors | coverage, % | width "
        f"| plain, {TIMES}\u00d7: coverage, % | width | error | normalised |",
        "| --- | ---: | --- " + "| ---: " * 7 + "|",
    ]
    for case in found:
        for key, row in case["rows"].items():
            ours, plain, normal = row["rare"], row["plain"], row["normalised"]
            if key == "cvar_0.95" and case["rate"] < 0.01:
                continue  # a fifth of CVaR 0.99, exactly: the quantile is 0
            label = key.replace("_", " ").replace("cvar", "CVaR")
            lines.append(
                f"| {case['world']} | {case['rate']:g} | {label} | {ours['bias_in_errors']:+.1f} "
                f"| {100 * ours['coverage']:.1f} | {ours['width']:.2f} "
                f"| {100 * plain['coverage']:.1f} | {plain['width']:.2f} "
                f"| {ours['rmse']:.3f} | {normal['rmse']:.3f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run the simulation and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--prompts", type=int, default=2000, help="prompts, 4 answers each")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = [
            pool.submit(simulate, name, rate, options.prompts, options.repeats, options.seed)
            for name, rate in CASES
        ]
        found = [part.result() for part in parts]
    if options.json:
        about = {"repeats": options.repeats, "prompts": options.prompts, "seed": options.seed}
        seconds = round(time.perf_counter() - began)
        content = {**about, "seconds": seconds, "cases": found}
        write_text(options.json, json.dumps(content, indent=0) + "\n")
    print(tables(found))


if __name__ == "__main__":
    main()
