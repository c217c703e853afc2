"""How often the figures of many attempts, and of scorers that err, hold the truth, by simulation.

    python benchmarks/attempts.py --json benchmarks/results/attempts.json

`attempts`: prompts with probabilities of an unsafe answer of a known distribution, of which two are
no Beta, four answers each; `fitted` is the profile likelihood's interval that is used, `resampled`
percentiles of refits to drawn prompts (on a grid), `limits` the bounds that assume no model.
`errs`: scorers of known sensitivity and specificity, counted on labels and applied to answers to
136 prompts; `corrected` is the interval used, `plain` that of the share called unsafe, `bound` the
one for certificates at 95 % (half of the miss for the share, half for the labels). Figures: percent
of trials that hold the truth, and the median width (of the bound its distance from the truth).
docs/estimation.md tells what came out.
"""

import argparse
import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from riskalign.errors import InputError
from riskalign.evaluation import (
    METRICS,
    Bootstrap,
    ScoredAnswer,
    corrected_rate,
    measure_attempts,
    summarize,
)
from riskalign.evaluation.attempts import any_unsafe, log_likelihood
from riskalign.evaluation.bounds import mean_upper_bound
from riskalign.evaluation.corrected import Counts, upper
from riskalign.files.atomic import write_text

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Floats]

ANSWERS = 4
KS = (1, 10, 100, 1000)
PROMPTS = (64, 272)
WORLDS: dict[str, Draw] = {
    "Beta, mean 1 %, overdispersion 0.1": lambda g, n: g.beta(0.09, 8.91, n),
    "Beta, mean 5 %, overdispersion 0.25": lambda g, n: g.beta(0.15, 2.85, n),
    "Beta, mean 20 %, overdispersion 0.5": lambda g, n: g.beta(0.2, 0.8, n),
    "all prompts alike, 2 %": lambda g, n: np.full(n, 0.02),
    "two points: 10 % of 0.2, else 0.002": lambda g, n: np.where(g.random(n) < 0.1, 0.2, 0.002),
    "two points: 10 % of 0.5, else 0": lambda g, n: np.where(g.random(n) < 0.1, 0.5, 0.0),
}
#: Sensitivity and specificity, each with how many labelled answers it is known from.
SCORERS = ((0.9, 50, 0.9, 200), (0.75, 60, 0.98, 400), (0.95, 500, 0.95, 2000))
RATES = (0.0, 0.01, 0.05, 0.2, 0.5)
ERRS_PROMPTS = 136


def truth(draw: Draw) -> list[float]:
    """P(any unsafe of k) at each of `KS`, over so many prompts that it counts as exact."""
    p = draw(np.random.default_rng(0), 2_000_000)
    return [float((1 - (1 - p) ** k).mean()) for k in KS]


def resampled(unsafe: NDArray[np.int64], seed: int) -> Floats:
    """Percentile intervals [k, 2] of the fits to 200 draws of the prompts."""
    sides = np.meshgrid(np.linspace(-10, 3, 70), np.linspace(-12, 10, 70))
    mean, overdispersion = (expit(side.ravel()) for side in sides)
    counts = np.arange(ANSWERS + 1)
    logs = log_likelihood(mean, overdispersion, counts, np.full(ANSWERS + 1, ANSWERS))
    (drawn,) = Bootstrap(200, seed).draws(len(unsafe))
    best = (drawn @ np.eye(ANSWERS + 1)[unsafe] @ logs.T).argmax(axis=1)
    found = [any_unsafe(mean[best], overdispersion[best], k) for k in KS]
    return np.quantile(found, [0.025, 0.975], axis=1).T


def of_attempts(name: str, prompts: int, trials: int, seed: int) -> list[dict[str, Any]]:
    """Coverage and width of each interval at each k; trials without a fit are counted apart."""
    generator, true = np.random.default_rng([seed, prompts]), truth(WORLDS[name])
    held: dict[tuple[int, str], list[tuple[bool, float]]] = {}
    unfitted = 0
    for trial in range(trials):
        unsafe = generator.binomial(ANSWERS, WORLDS[name](generator, prompts))
        found = measure_attempts(unsafe, np.full(prompts, ANSWERS), KS)
        unfitted += bool(found.why)
        ends = np.zeros((len(KS), 2)) if found.why else resampled(unsafe, trial)
        for row, true_k, (low, high) in zip(found.rows, true, ends, strict=True):
            own = {"limits": (row.least, row.most)}
            if row.low is not None and row.high is not None:
                own |= {"fitted": (row.low, row.high), "resampled": (low, high)}
            for method, (bottom, top) in own.items():
                # Both may saturate at 1 to rounding.
                ok = bool(bottom - 1e-6 <= true_k <= top + 1e-6)
                held.setdefault((row.k, method), []).append((ok, float(top - bottom)))
    return [
        {
            "world": name,
            "prompts": prompts,
            "k": k,
            "truth": true[KS.index(k)],
            "method": method,
            "coverage": 100 * float(np.mean([ok for ok, _ in results])),
            "width": float(np.median([width for _, width in results])),
            "unfitted": unfitted,
        }
        for (k, method), results in held.items()
    ]


def called(generator: np.random.Generator, rate: float, se: float, sp: float) -> list[ScoredAnswer]:
    """Answers of which a share `rate` is unsafe, with the costs of a scorer that errs."""
    p = generator.beta(3 * rate + 1e-12, 3 * (1 - rate), ERRS_PROMPTS)
    unsafe = generator.random((ERRS_PROMPTS, ANSWERS)) < p[:, None]
    said = generator.random(unsafe.shape) < np.where(unsafe, se, 1 - sp)
    return [
        ScoredAnswer(str(i), "", 0.0, float(cost), 0.0, 0.0, 1)
        for i, row in enumerate(said)
        for cost in row
    ]


def of_errs(scorer: tuple[float, int, float, int], rate: float, trials: int, seed: int) -> Any:
    """Coverage and width of the plain and the corrected interval, and of the bound."""
    se, n_se, sp, n_sp = scorer
    generator = np.random.default_rng([seed, n_se, round(1000 * rate)])
    only = {"unsafe_rate": METRICS["unsafe_rate"]}
    held: dict[str, list[tuple[bool, float]]] = {"plain": [], "corrected": [], "bound": []}
    refused = 0
    for trial in range(trials):
        answers = called(generator, rate, se, sp)
        sensitivity: Counts = (int(generator.binomial(n_se, se)), n_se)
        specificity: Counts = (int(generator.binomial(n_sp, sp)), n_sp)
        plain = summarize(answers, n_boot=500, seed=trial, metrics=only)["unsafe_rate"]
        for name, ends in (
            ("plain", plain),
            ("corrected", corrected_rate(plain, sensitivity, specificity)),
        ):
            held[name].append((ends.low <= rate <= ends.high, ends.high - ends.low))
        share = mean_upper_bound(plain.value, ERRS_PROMPTS, 0.025)
        try:
            bound = upper(share, sensitivity, specificity, 0.025)
            held["bound"].append((bound >= rate, bound - rate))
        except InputError:
            refused += 1
    row: dict[str, Any] = {"scorer": scorer, "rate": rate, "refused": refused}
    for name, results in held.items():
        row[name] = [
            100 * float(np.mean([ok for ok, _ in results])),
            float(np.median([width for _, width in results])),
        ]
    return row


def tables(rows: list[dict[str, Any]], errs: list[dict[str, Any]]) -> str:
    """Both as Markdown: coverage in percent with width behind it."""
    lines = [
        "| probabilities | prompts | k | truth | resampled | fitted | limits |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    cells = {(r["world"], r["prompts"], r["k"], r["method"]): r for r in rows}
    for world, prompts, k in dict.fromkeys((r["world"], r["prompts"], r["k"]) for r in rows):
        of = [cells[world, prompts, k, name] for name in ("resampled", "fitted", "limits")]
        shown = " | ".join(f"{r['coverage']:.1f} ({r['width']:.2f})" for r in of)
        lines.append(f"| {world} | {prompts} | {k} | {of[0]['truth']:.3f} | {shown} |")
    lines += [
        "",
        "| sensitivity | specificity | unsafe | plain | corrected | bound |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in errs:
        se, n_se, sp, n_sp = row["scorer"]
        pairs = (row[name] for name in ("plain", "corrected", "bound"))
        shown = " | ".join(f"{held:.1f} ({width:.3f})" for held, width in pairs)
        lines.append(f"| {se} of {n_se} | {sp} of {n_sp} | {row['rate']:g} | {shown} |")
    return "\n".join(lines)


def main() -> None:
    """Run both simulations and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--trials", type=int, default=400, help="of many attempts")
    parser.add_argument("--errs_trials", type=int, default=2000, help="of scorers that err")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    given = parser.parse_args()
    with ProcessPoolExecutor(given.processes) as pool:
        first = [
            pool.submit(of_attempts, name, prompts, given.trials, given.seed)
            for name in WORLDS
            for prompts in PROMPTS
        ]
        second = [
            pool.submit(of_errs, scorer, rate, given.errs_trials, given.seed)
            for scorer in SCORERS
            for rate in RATES
        ]
        rows = [row for part in first for row in part.result()]
        errs = [part.result() for part in second]
    if given.json:
        content = {
            "trials": given.trials,
            "errs_trials": given.errs_trials,
            "seed": given.seed,
            "attempts": rows,
            "errs": errs,
        }
        write_text(given.json, json.dumps(content, indent=0) + "\n")
    print(tables(rows, errs))


if __name__ == "__main__":
    main()
