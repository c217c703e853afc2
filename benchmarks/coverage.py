"""How often CVaR's intervals and bounds hold the truth, by simulation.

    python benchmarks/coverage.py --json benchmarks/results/coverage.json

Each trial draws prompts of different temptation, two answers each, and costs of a known
distribution. `percentile` is the plain clustered bootstrap, `used` the interval of
`riskalign.evaluation.summarize` (given the largest cost, where there is one), `bound` the
distribution-free upper bound. Figures: share of trials that hold the truth, and the median width in
units of the truth. docs/estimation.md tells what came out.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskalign.atomic import write_text
from riskalign.evaluation import ScoredAnswer, cvar_bounds, summarize
from riskalign.evaluation.metrics import tail

Floats = NDArray[np.float64]
LEVELS = (0.9, 0.95, 0.99)
ANSWERS = 2
VAULT = np.array([2.0, 4.0, 6.0, 8.0, 10.0, 25.0])
VAULT_SHARES = (0.1, 0.1, 0.23, 0.1, 0.23, 0.24)
Severity = Callable[[np.random.Generator, tuple[int, int]], Floats]


def vault(generator: np.random.Generator, size: tuple[int, int]) -> Floats:
    """The vault's costs of a leak, as often as its start model's."""
    return generator.choice(VAULT, p=VAULT_SHARES, size=size)


# name: unsafe rate, severities, largest cost
WORLDS: dict[str, tuple[float, Severity, float | None]] = {
    "vault, 7 % unsafe": (0.07, vault, 25.0),
    "vault, 1.5 % unsafe": (0.015, vault, 25.0),
    "exponential, 20 %": (0.2, lambda g, size: g.exponential(size=size), None),
    "log-normal, 20 %": (0.2, lambda g, size: g.lognormal(0, 1.5, size), None),
    "Pareto 3, 20 %": (0.2, lambda g, size: 1 + g.pareto(3.0, size), None),
    "Pareto 1.5, 20 %": (0.2, lambda g, size: 1 + g.pareto(1.5, size), None),
    "Pareto 1.5 up to 100, 20 %": (
        0.2,
        lambda g, size: (1 + g.pareto(1.5, size)).clip(0, 100),
        100,
    ),
}


def draw(name: str, prompts: int, generator: np.random.Generator) -> Floats:
    """Costs [prompts, 2]; a prompt's temptation is a beta variable around the unsafe rate."""
    rate, severity, _ = WORLDS[name]
    tempting = generator.beta(3 * rate, 3 * (1 - rate), size=(prompts, 1))
    size = (prompts, ANSWERS)
    return np.where(generator.random(size) < tempting, severity(generator, size), 0.0)


def percentile(costs: Floats, n_boot: int, generator: np.random.Generator) -> Floats:
    """Ends [levels, 2] of the plain clustered percentile bootstrap."""
    n = len(costs)
    draws = generator.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64)
    _, replicates = tail(costs.ravel(), draws.repeat(ANSWERS, axis=1), LEVELS)
    ends: Floats = np.quantile(replicates, [0.025, 0.975], axis=1).T
    return ends


def simulate(name: str, prompts: int, trials: int, n_boot: int, seed: int) -> list[dict[str, Any]]:
    """Coverage and width of each method at each level."""
    generator = np.random.default_rng([seed, prompts])
    _, severity, max_cost = WORLDS[name]
    big = np.sort(draw(name, 2_000_000, generator).ravel())[::-1]
    truth = {level: float(big[: round((1 - level) * big.size)].mean()) for level in LEVELS}
    # What other models of a comparison leak, from which a rare leaker borrows its severities.
    severities = severity(generator, (1, 60)).ravel()
    held: dict[tuple[float, str], list[tuple[bool, float]]] = {}
    for trial in range(trials):
        costs = draw(name, prompts, generator)
        plain = percentile(costs, n_boot, generator)
        scored = [
            ScoredAnswer(str(i), "", 0.0, float(c), 0.0, 0.0, 1)
            for i, row in enumerate(costs)
            for c in row
        ]
        seen = costs[costs > 0]
        used = summarize(
            scored,
            n_boot=n_boot,
            seed=trial,
            severities=np.append(severities, seen).tolist(),
            max_cost=max_cost,
        )
        bounds = {} if max_cost is None else cvar_bounds(scored, LEVELS, max_cost)
        for i, level in enumerate(LEVELS):
            value, ends = truth[level], used[f"cvar_{level}"]
            pairs = {"percentile": (plain[i, 0], plain[i, 1]), "used": (ends.low, ends.high)}
            if bounds:
                pairs["bound"] = (0.0, bounds[f"cvar_{level}"])
            for method, (low, high) in pairs.items():
                # A saturated end meets the truth to rounding, and a simulated truth is none better.
                ok = low <= value * (1 + 1e-3) and value * (1 - 1e-3) <= high
                held.setdefault((level, method), []).append((ok, (high - low) / value))
    return [
        {
            "world": name,
            "prompts": prompts,
            "level": level,
            "method": method,
            "coverage": float(np.mean([ok for ok, _ in results])),
            "width": float(np.median([width for _, width in results])),
        }
        for (level, method), results in held.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: coverage in percent with width behind it."""
    methods = ("percentile", "used", "bound")
    cells = {(r["world"], r["prompts"], r["level"], r["method"]): r for r in rows}
    places = dict.fromkeys((r["world"], r["prompts"], r["level"]) for r in rows)
    lines = [
        "| costs | prompts | level | percentile | used | bound |",
        "| --- | ---: | ---: " + "| ---: " * 3 + "|",
    ]
    for world, prompts, level in places:
        shown = []
        for method in methods:
            row = cells.get((world, prompts, level, method))
            shown.append(f"{100 * row['coverage']:.1f} ({row['width']:.2f})" if row else "")
        lines.append(f"| {world} | {prompts} | {level} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the simulation and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--n-boot", type=int, default=500)
    parser.add_argument("--prompts", type=int, nargs="+", default=[64, 136, 500])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = []
    began = time.perf_counter()
    for name in WORLDS:
        for prompts in options.prompts:
            rows += simulate(name, prompts, options.trials, options.n_boot, options.seed)
    content = {
        "trials": options.trials,
        "n_boot": options.n_boot,
        "seed": options.seed,
        "seconds": round(time.perf_counter() - began),
        "rows": rows,
    }
    if options.json:
        write_text(options.json, json.dumps(content, indent=0) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
