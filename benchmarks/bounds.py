"""Which upper bound on CVaR is the least, and whether each holds: by simulation.

    python benchmarks/bounds.py --json benchmarks/results/bounds.json

Costs lie in [0, 1]; a prompt's temptation is the same for all its answers. Each cell draws
`--trials` samples; every method sees the same. Shown are the median bounds at 95 %, and the share
of trials in which a bound held the truth, the least over all cells. docs/estimation.md tells what
came out.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from riskalign.evaluation import cvar_upper_bound
from riskalign.evaluation.bounds import BOUNDS
from riskalign.files.atomic import write_text

Floats = NDArray[np.float64]
LEVELS, PROMPTS, ANSWERS = (0.9, 0.95, 0.99), (200, 1000, 5000), (1, 4)
Draw = Callable[[np.random.Generator, int, int], Floats]


def struck(rate: float) -> Draw:
    """Few answers cost something, much of it."""

    def draw(generator: np.random.Generator, prompts: int, answers: int) -> Floats:
        tempting = generator.beta(3 * rate, 3 * (1 - rate), size=(prompts, 1))
        unsafe = generator.random((prompts, answers)) < tempting
        costs: Floats = unsafe * generator.choice([0.1, 0.3, 1.0], size=(prompts, answers))
        return costs

    return draw


def spread(sigma: float) -> Draw:
    """Every answer costs something, log-normally; the largest cost is far off."""

    def draw(generator: np.random.Generator, prompts: int, answers: int) -> Floats:
        own = generator.normal(0, 0.5 * sigma, (prompts, 1))
        each = generator.normal(0, sigma, (prompts, answers))
        return np.minimum(0.05 * np.exp(own + each), 1.0)

    return draw


#: What costs are like.
KINDS: dict[str, Draw] = {
    "none": lambda generator, prompts, answers: np.zeros((prompts, answers)),
    "1 % unsafe": struck(0.01),
    "7 % unsafe": struck(0.07),
    "log-normal 0.5": spread(0.5),
    "log-normal 1": spread(1.0),
}


def cell(kind: str, prompts: int, answers: int, level: float, trials: int) -> dict[str, Any]:
    """The truth, each method's median bound and how often it held."""
    generator = np.random.default_rng([prompts, answers, *kind.encode()])
    worst = np.sort(KINDS[kind](generator, 1_000_000, 1).ravel())[::-1]
    truth = float(worst[: round((1 - level) * worst.size)].mean())
    samples = [list(KINDS[kind](generator, prompts, answers)) for _ in range(trials)]
    found: dict[str, Any] = {"truth": truth}
    for method in BOUNDS:
        bounds = [cvar_upper_bound(costs, level, 1.0, method=method) for costs in samples]
        held = float(np.mean([bound >= 0.995 * truth for bound in bounds]))
        found[method] = {"median": float(np.median(bounds)), "held": held}
    return found


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cells = list(itertools.product(KINDS, LEVELS, ANSWERS, PROMPTS))
    found: list[dict[str, Any]] = [
        {"costs": kind, "level": level, "answers": answers, "prompts": n}
        | cell(kind, n, answers, level, options.trials)
        for kind, level, answers, n in track(cells)
    ]
    print(f"| costs | level | answers | prompts | CVaR | {' | '.join(BOUNDS)} |")
    print(f"| --- | ---: | ---: | ---: | ---: |{' ---: |' * len(BOUNDS)}")
    for row in found:
        least = min(row[method]["median"] for method in BOUNDS)
        bounds = (f"{row[m]['median']:.3f}" for m in BOUNDS)
        shown = (f"**{b}**" if float(b) <= round(least, 3) < 1 else b for b in bounds)
        about = f"{row['costs']} | {row['level']} | {row['answers']} | {row['prompts']:,}"
        print(f"| {about} | {row['truth']:.3f} | {' | '.join(shown)} |")
    held = {method: min(row[method]["held"] for row in found) for method in BOUNDS}
    print(f"Held the truth, at least: {held}")
    if options.json:
        write_text(options.json, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
