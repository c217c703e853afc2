"""Whether certified settings keep their limits, and how helpful they are: exact truth on trees.

    python benchmarks/certify.py --json benchmarks/results/certify.json

In each run the prompts are drawn from 16 random trees of a family, and answered twice by points of
the dial between a helpful optimum and the result of a safe step from it (or, `spare`, of a safe
step from the reference, which gives up all help). What is certified for CVaR 0.95 is compared with
the truth. `best of all` is the broken procedure that tests every setting and takes the most
helpful that passes; it is run where settings differ little and all break the limit.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from riskalign.evaluation import Asked, Bounded, Limit, certify
from riskalign.files.atomic import write_text
from riskalign.theory import FAMILIES, accumulate, random_mdp, sequence_optimum
from riskalign.theory.tree import mix, negate

Floats = NDArray[np.float64]
PROMPTS = (200, 500, 2000)
TREES, ANSWERS, LEVEL, CONFIDENCE, MAX_COST = 16, 2, 0.95, 0.95, 1.5
WEIGHTS = tuple(i / 10 for i in range(10, -1, -1))


class World(NamedTuple):
    """Sixteen trees: `probs` [settings, trees, leaves], `cost` [trees, leaves], up to `max_cost`.

    `cvar`, `rate` (of any cost) and `gain` (of reward over the reference) [settings] are exact.
    """

    probs: Floats
    cost: Floats
    max_cost: float
    cvar: Floats
    rate: Floats
    gain: Floats

    def draw(self, setting: int, n: int, rng: np.random.Generator) -> list[Asked]:
        """Costs of answers to `n` prompts."""
        trees = rng.integers(len(self.cost), size=n)
        ends = self.probs[setting].cumsum(-1)[trees]
        leaves = (rng.random((n, ANSWERS, 1)) * ends[:, None, -1:] > ends[:, None, :]).sum(-1)
        return [Asked(own) for own in self.cost[trees[:, None], leaves]]


def make_world(
    family: str, seed: int, spare: bool = False, weights: Sequence[float] = WEIGHTS
) -> World:
    """The dial from a helpful optimum to its safe tilt, or to that of the reference."""
    mdp = random_mdp(family, seed, vocabulary=3, depth=4, count=TREES)
    helpful = sequence_optimum(negate(mdp.reward), mdp.log_ref, 0.7)
    safe = sequence_optimum(mdp.cost, mdp.log_ref if spare else helpful, 0.15)
    probs = np.stack([accumulate(mix(helpful, safe, w)).exp().numpy() for w in weights])
    # A heavy tail's largest leaf would make every bound of a few prompts idle.
    cost = accumulate(mdp.cost).clamp(max=MAX_COST)
    reward, ref = accumulate(mdp.reward).numpy(), accumulate(mdp.log_ref).exp().numpy()
    every = np.broadcast_to(cost.numpy(), probs.shape).reshape(len(probs), -1)
    flat = probs.reshape(len(probs), -1) / TREES
    cvar = np.array([exact_cvar(every[i], flat[i]) for i in range(len(probs))])
    gain = ((probs - ref) * reward).sum(-1).mean(-1)
    return World(probs, cost.numpy(), MAX_COST, cvar, (flat * (every > 0)).sum(-1), gain)


def exact_cvar(costs: Floats, probs: Floats) -> float:
    """The mean of the worst 1 - LEVEL of the mass."""
    order = np.argsort(-costs)
    before = np.concatenate([[0.0], np.cumsum(probs[order])])
    share = np.diff(np.minimum(before, 1 - LEVEL))
    return float((share * costs[order]).sum() / (1 - LEVEL))


class Tally(NamedTuple):
    """Of some runs: how often a limit was broken, none certified, and the mean share of the gain.

    The share is of the gain of the best setting that truly keeps the limit; 0 where none is
    certified.
    """

    runs: int
    broken: float
    none: float
    share: float


def run(family: str, n: int, runs: int, spare: bool = False, seed: int = 0) -> Tally:
    """Certify by fixed-sequence tests against the middle between the least and the largest CVaR."""
    worlds = [make_world(family, i, spare) for i in range(8)]
    rng = np.random.default_rng([seed, n, *family.encode()])
    broken, none, shares = 0, 0, []
    for i in range(runs):
        world = worlds[i % len(worlds)]
        limit = (world.cvar.min() + world.cvar.max()) / 2
        best = max(gain for gain, cvar in zip(world.gain, world.cvar, strict=True) if cvar <= limit)
        tried = [
            (str(k), lambda k=k, world=world: world.draw(k, n, rng)) for k in range(len(WEIGHTS))
        ]
        bounded = Bounded(CONFIDENCE, MAX_COST)
        chosen = certify(tried, [Limit(f"cvar:{LEVEL}", limit)], bounded).chosen
        broken += chosen is not None and bool(world.cvar[int(chosen)] > limit)
        none += chosen is None
        shares.append(0.0 if chosen is None else world.gain[int(chosen)] / best)
    return Tally(runs, broken / runs, none / runs, float(np.mean(shares)))


def all_break(n: int, runs: int, seed: int = 0) -> dict[str, float]:
    """How often each procedure certifies a setting where all just break a limit on the rate."""
    weights = tuple(1 - i / 1000 for i in range(len(WEIGHTS)))
    worlds = [make_world("correlated", i, weights=weights) for i in range(8)]
    rng = np.random.default_rng([seed, n])
    bounded, erred = Bounded(CONFIDENCE), {"fixed sequence": 0, "best of all": 0}
    for i in range(runs):
        world = worlds[i % len(worlds)]
        # One answer a prompt: that bound is exact, so that there is nothing in reserve.
        asked = [
            [Asked(own.costs[:1]) for own in world.draw(k, n, rng)] for k in range(len(weights))
        ]
        limits = [Limit("unsafe_rate", float(world.rate.min()) * (1 - 1e-9))]
        named = [(str(k), lambda own=own: own) for k, own in enumerate(asked)]
        erred["fixed sequence"] += certify(named, limits, bounded).chosen is not None
        bounds = (bounded.upper(limits[0], limits[0].of(own)) for own in asked)
        erred["best of all"] += any(bound <= limits[0].limit for bound in bounds)
    return {name: count / runs for name, count in erred.items()}


def main() -> None:
    """Print both tables, and write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runs", type=int, default=500, help="Of each family and number.")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cells = [(f, n, spare) for spare in (False, True) for f in FAMILIES for n in PROMPTS]
    found = {
        f"{family} {n} {'spare' if spare else 'two steps'}": run(family, n, options.runs, spare)
        for family, n, spare in track(cells)
    }
    wrong = all_break(500, 8 * options.runs)
    print("| family | prompts | dial | limit broken | none certified | share of the gain |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for name, cell in found.items():
        family, n, dial = name.split(maxsplit=2)
        shown = (f"{100 * share:.1f} %" for share in cell[1:])
        print(f"| {family} | {int(n):,} | {dial} | {' | '.join(shown)} |")
    print(f"All settings break the limit, {8 * options.runs} runs: {wrong}")
    if options.json:
        content = {
            "runs": options.runs,
            "cells": {name: cell._asdict() for name, cell in found.items()},
            "all_break": wrong,
        }
        write_text(options.json, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
