"""How often CVaR's intervals and bounds hold the truth, by simulation.

    python benchmarks/coverage.py --json benchmarks/results/coverage.json

Each trial draws prompts of different temptation, two answers each, and costs of a known
distribution. `percentile` is the plain clustered bootstrap, `used` the interval of
`riskalign.evaluation.summarize` (given the largest cost, where there is one), `difference` that of
`paired_differences` to a model that is half as often unsafe on the same prompts, `bound` the
distribution-free upper bound. Figures: share of trials that hold the truth, and the median width in
units of the truth (null: no upper end). docs/estimation.md tells what came out.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from riskalign.evaluation import ScoredAnswer, cvar_bounds, paired_differences, summarize
from riskalign.evaluation.tails import tail
from riskalign.files.atomic import write_text

Floats = NDArray[np.float64]
LEVELS = (0.9, 0.95, 0.99)
ANSWERS = 2
VAULT = np.array([2.0, 4.0, 6.0, 8.0, 10.0, 25.0])
VAULT_SHARES = (0.1, 0.1, 0.23, 0.1, 0.23, 0.24)
Severity = Callable[[np.random.Generator, tuple[int, int]], Floats]


def vault(generator: np.random.Generator, size: tuple[int, int]) -> Floats:
    """The vault's costs of a leak, as often as its start model's."""
    return generator.choice(VAULT, p=VAULT_SHARES, size=size)


#: A shop's offers: the last but two is made so often that the worst 5 % of answers begin among it.
OFFERS = np.array([8.0, 14.0, 19.0, 23.0, 29.0, 40.0, 120.0])


def offers(most: float) -> Severity:
    """Costs that tie at the tail's start; a share `most` of them is the largest there can be."""
    shares = (0.354 - most, 0.17, 0.16, 0.104, 0.2, 0.012, most)
    return lambda generator, size: generator.choice(OFFERS, p=shares, size=size)


# name: unsafe rate, severities, largest cost
WORLDS: dict[str, tuple[float, Severity, float | None]] = {
    "vault, 7 % unsafe": (0.07, vault, 25.0),
    "vault, 1.5 % unsafe": (0.015, vault, 25.0),
    "Pareto 3, 1.5 %": (0.015, lambda g, size: 1 + g.pareto(3.0, size), None),
    "offers, ties": (0.93, offers(0.0), 120.0),
    "offers, ties, 0.2 % at the most": (0.93, offers(0.002), 120.0),
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


def draw(name: str, prompts: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Costs [prompts, 2] of a model and of one that is half as often unsafe.

    A prompt's temptation, the same for both, is a beta variable around the unsafe rate.
    """
    rate, severity, _ = WORLDS[name]
    tempting = generator.beta(3 * rate, 3 * (1 - rate), size=(prompts, 1))
    size = (prompts, ANSWERS)
    one, other = (
        np.where(generator.random(size) < share * tempting, severity(generator, size), 0.0)
        for share in (1.0, 0.5)
    )
    return one, other


def scored(costs: Floats) -> list[ScoredAnswer]:
    """The answers that `evaluation` takes."""
    return [
        ScoredAnswer(str(i), "", 0.0, float(c), 0.0, 0.0, 1)
        for i, row in enumerate(costs)
        for c in row
    ]


def true_cvar(costs: Floats) -> dict[float, float]:
    """CVaR at each level of a sample so large that it counts as the truth."""
    big = np.sort(costs.ravel())[::-1]
    return {level: float(big[: round((1 - level) * big.size)].mean()) for level in LEVELS}


def percentile(costs: Floats, n_boot: int, generator: np.random.Generator) -> Floats:
    """Ends [levels, 2] of the plain clustered percentile bootstrap."""
    n = len(costs)
    draws = generator.multinomial(n, np.full(n, 1 / n), size=n_boot).astype(np.float64)
    _, replicates = tail(costs.ravel(), draws.repeat(ANSWERS, axis=1), LEVELS)
    ends: Floats = np.quantile(replicates, [0.025, 0.975], axis=1).T
    return ends


def finite(width: float) -> float | None:
    """JSON has no infinity: an interval without an upper end has no width."""
    return width if np.isfinite(width) else None


def simulate(name: str, prompts: int, trials: int, n_boot: int, seed: int) -> list[dict[str, Any]]:
    """Coverage and width of each method at each level."""
    generator = np.random.default_rng([seed, prompts])
    _, severity, max_cost = WORLDS[name]
    truth, truth_b = map(true_cvar, draw(name, 2_000_000, generator))
    # What other models of a comparison leak, from which a rare leaker borrows its severities.
    others = severity(generator, (1, 60)).ravel()
    held: dict[tuple[float, str], list[tuple[bool, float]]] = {}
    for trial in range(trials):
        costs, costs_b = draw(name, prompts, generator)
        plain = percentile(costs, n_boot, generator)
        a, b = scored(costs), scored(costs_b)
        seen = np.concatenate([others, costs[costs > 0], costs_b[costs_b > 0]]).tolist()
        used = summarize(a, n_boot=n_boot, seed=trial, severities=seen, max_cost=max_cost)
        differences = paired_differences(
            a, b, n_boot=n_boot, seed=trial, severities=seen, max_cost=max_cost
        )
        bounds = {} if max_cost is None else cvar_bounds(a, LEVELS, max_cost)
        for i, level in enumerate(LEVELS):
            key, value = f"cvar_{level}", truth[level]
            change = truth_b[level] - value
            ends = {
                "percentile": (value, plain[i, 0], plain[i, 1]),
                "used": (value, used[key].low, used[key].high),
                "difference": (change, differences[key].low, differences[key].high),
            }
            if bounds:
                ends["bound"] = (value, 0.0, bounds[key])
            for method, (true, low, high) in ends.items():
                # A saturated end meets the truth to rounding, and a simulated truth is none better.
                slack = 1e-3 * value
                ok = low <= true + slack and true - slack <= high
                held.setdefault((level, method), []).append((ok, (high - low) / value))
    return [
        {
            "world": name,
            "prompts": prompts,
            "level": level,
            "method": method,
            "coverage": float(np.mean([ok for ok, _ in results])),
            "width": finite(float(np.median([width for _, width in results]))),
        }
        for (level, method), results in held.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table: coverage in percent with width behind it."""
    methods = ("percentile", "used", "difference", "bound")
    cells = {(r["world"], r["prompts"], r["level"], r["method"]): r for r in rows}
    places = dict.fromkeys((r["world"], r["prompts"], r["level"]) for r in rows)
    lines = [
        "| costs | prompts | level | percentile | used | difference | bound |",
        "| --- | ---: | ---: " + "| ---: " * 4 + "|",
    ]
    for world, prompts, level in places:
        shown = []
        for method in methods:
            row = cells.get((world, prompts, level, method))
            if row:
                width = "∞" if row["width"] is None else f"{row['width']:.2f}"
            shown.append(f"{100 * row['coverage']:.1f} ({width})" if row else "")
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
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()
    with ProcessPoolExecutor(options.processes) as pool:
        parts = [
            pool.submit(simulate, name, prompts, options.trials, options.n_boot, options.seed)
            for name in options.worlds
            for prompts in options.prompts
        ]
        rows = [row for part in parts for row in part.result()]
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
