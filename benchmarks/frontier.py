"""Which form of RSA lowers tail risk, and by how much: exact policies on random trees.

    python benchmarks/frontier.py --json benchmarks/results/frontier.jsonl --html frontier.html

For each tree, every method's closed form is computed on one grid of (beta, lambda). At a matched
expected reward and a KL budget each method shows its lowest CVaR of total cost; differences are
paired on trees. Methods whose figures the JSON already holds are not computed again, so delete it
after a change of the theory. docs/frontier.md tells what came out.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from riskalign.errors import InputError
from riskalign.files.atomic import write_text
from riskalign.risk import get_risk
from riskalign.theory import (
    FAMILIES,
    Levels,
    TokenMDP,
    accumulate,
    cautious,
    nested,
    random_mdp,
    self_consistent,
    sequence_optimum,
    tilt,
    tilted_consistent,
)
from riskalign.theory.evaluate import by_sorting, tail_of_total
from riskalign.theory.tree import Measure, combine, expected_sum, negate

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from benchmarks.frontier_answers import (
    TAILS,
    Method,
    Points,
    any_threshold,
    evaluate,
    finer_multipliers,
    optimum,
    tilted_by_cvar,
    tilted_by_erm,
)
from benchmarks.frontier_page import render, table

BUDGETS = (0.5, 1.0, 2.0, 4.0, math.inf)  # nats of KL to the reference
SHARES = (0.7, 0.9)  # of the reward that is to be had within the budget
BASE = "mean, whole responses"
FINE = "mean, whole responses (16 times the grid)"
ANY = "tail of answers, any threshold"
BASES = {ANY: FINE}  # what a method is compared with, where it is not BASE
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
MEAN = get_risk("mean")

Solver = Callable[[TokenMDP, Tensor, Tensor], Levels]


def measure(spec: str) -> Measure:
    """The library's measure, CVaR by sorting."""
    return by_sorting(get_risk(spec))


def whole(mdp: TokenMDP, beta: Tensor, weight: Tensor) -> Levels:
    """SACPO and Safe RLHF: the optimum over whole responses."""
    return sequence_optimum(combine(negate(mdp.reward), mdp.cost, 1.0, weight), mdp.log_ref, beta)


def one_step(spec: str, spec_reward: str = "mean") -> Solver:
    """RSA's closed form: values nested under the reference, a measure for the cost."""

    def solve(mdp: TokenMDP, beta: Tensor, weight: Tensor) -> Levels:
        q_loss, _ = nested(negate(mdp.reward), mdp.log_ref, measure(spec_reward))
        q_cost, _ = nested(mdp.cost, mdp.log_ref, measure(spec))
        return tilt(mdp.log_ref, combine(q_loss, q_cost, 1.0, weight), beta)

    return solve


def rounds(spec: str, count: int) -> Solver:
    """One-step RSA repeated on fresh samples, at `count` times the temperature each."""

    def solve(mdp: TokenMDP, beta: Tensor, weight: Tensor) -> Levels:
        policy = mdp.log_ref
        for _ in range(count):
            q_loss, _ = nested(negate(mdp.reward), policy, MEAN)
            q_cost, _ = nested(mdp.cost, policy, measure(spec))
            policy = tilt(policy, combine(q_loss, q_cost, 1.0, weight), count * beta)
        return policy

    return solve


def fixed_point(spec: str) -> Solver:
    """Values under the new policy, the measure on the cost alone."""
    return lambda mdp, beta, weight: tilted_consistent(
        negate(mdp.reward), mdp.cost, mdp.log_ref, measure(spec), beta, weight
    )


def careful(spec: str) -> Solver:
    """Best at each state for values under itself, the measure on the cost alone."""
    return lambda mdp, beta, weight: cautious(
        negate(mdp.reward), mdp.cost, mdp.log_ref, get_risk(spec), beta, weight
    )


def consistent(spec: str) -> Solver:
    """The self-consistent optimum, the measure on cost and reward together."""
    return lambda mdp, beta, weight: self_consistent(
        combine(negate(mdp.reward), mdp.cost, 1.0, weight), mdp.log_ref, get_risk(spec), beta
    )


def tokens(solve: Solver) -> Method:
    """A method that gives policies token by token."""
    return lambda mdp, beta, weight: iter([evaluate(mdp, accumulate(solve(mdp, beta, weight)))])


METHODS: dict[str, Method] = {
    BASE: tokens(whole),
    "mean, whole responses (other grid)": tokens(
        lambda mdp, beta, weight: whole(mdp, beta * 1.035, weight * 1.1)
    ),
    FINE: finer_multipliers,
    **{f"tail of answers, cvar {a}": optimum(tilted_by_cvar, a, 1 - a) for a in (0.8, 0.95, 0.99)},
    **{f"tail of answers, erm {mu:g}": optimum(tilted_by_erm, mu, 0.05) for mu in (1.0, 4.0)},
    ANY: any_threshold,
    **{
        name: tokens(solve)
        for name, solve in {
            "mean, one step": one_step("mean"),
            **{f"cvar {a}, one step": one_step(f"cvar:{a}") for a in LEVELS},
            "erm 1, one step": one_step("erm:1"),
            "erm 4, one step": one_step("erm:4"),
            "cvar 0.95 on both, one step": one_step("cvar:0.95", "cvar:0.95"),
            **{f"cvar {a}, 4 rounds": rounds(f"cvar:{a}", 4) for a in (0.5, 0.9, 0.95)},
            **{f"cvar {a}, fixed point": fixed_point(f"cvar:{a}") for a in LEVELS},
            "erm 1, fixed point": fixed_point("erm:1"),
            "erm 4, fixed point": fixed_point("erm:4"),
            **{f"cvar {a}, self-consistent": careful(f"cvar:{a}") for a in LEVELS},
            **{
                f"cvar {a} on both, self-consistent": consistent(f"cvar:{a}")
                for a in (0.2, 0.5, 0.8)
            },
        }.items()
    },
}


def chosen_methods(words: str | None) -> list[str]:
    """Methods whose name holds one of the words; all without any."""
    wanted = [word.strip() for word in words.split(",")] if words else [""]
    for word in wanted:
        if not any(word in name for name in METHODS):
            raise InputError(f"methods: {word!r} is in no name; there are: {'; '.join(METHODS)}")
    return [name for name in METHODS if any(word in name for word in wanted)]


def grid(size: int) -> tuple[Tensor, Tensor]:
    """`2 size` temperatures by `size` multipliers, logarithmic, lambda 0 included: [G, 1, 1].

    Temperatures are close together, for they decide which KL and reward are hit.
    """
    beta = torch.logspace(-1.1, 0.4, 2 * size, dtype=torch.float64)
    weight = torch.cat([torch.zeros(1), torch.logspace(-1.0, 2.5, size - 1)]).double()
    first, second = torch.meshgrid(beta, weight, indexing="ij")
    return first.reshape(-1, 1, 1), second.reshape(-1, 1, 1)


def within_reach(mdp: TokenMDP, budget: float) -> tuple[float, float]:
    """The reference's reward, and the most that any policy has within the KL budget."""
    low, high = torch.tensor(1e-3), torch.tensor(1e3)

    def at(beta: Tensor) -> tuple[float, float]:
        policy = sequence_optimum(negate(mdp.reward), mdp.log_ref, float(beta))
        drift = tuple(a - b for a, b in zip(policy, mdp.log_ref, strict=True))
        return float(expected_sum(drift, policy)), float(expected_sum(mdp.reward, policy))

    for _ in range(60):
        middle = (low * high).sqrt()
        low, high = (middle, high) if at(middle)[0] > budget else (low, middle)
    return float(expected_sum(mdp.reward, mdp.log_ref)), at(high)[1]


def lowest(tables: Iterable[Points], needed: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Lowest CVaR [tails, budgets, shares] of policies with the reward within the budget.

    `needed` is the reward for each budget and share; inf where no policy has it.
    """
    found = np.full((len(TAILS), len(BUDGETS), len(SHARES)), math.inf)
    for points in tables:
        for b, budget in enumerate(BUDGETS):
            for s, least in enumerate(needed[b]):
                allowed = (points.reward >= least) & (points.kl <= budget)
                for t, level in enumerate(TAILS):
                    own = points.cvar[level].where(allowed, math.inf)
                    found[t, b, s] = min(found[t, b, s], float(own.amin()))
    return found


def study(
    family: str, trees: int, size: int, seed: int, methods: Iterable[str]
) -> dict[str, NDArray[np.float64]]:
    """Lowest CVaR of every method on one family, in units of the reference's.

    Arrays [trees, tails, budgets, shares].
    """
    found = {
        name: np.full((trees, len(TAILS), len(BUDGETS), len(SHARES)), math.inf) for name in methods
    }
    beta, weight = grid(size)
    console = Console(stderr=True)
    for tree in track(range(trees), family, console=console):
        mdp = random_mdp(family, 1000 * seed + tree, vocabulary=6, depth=4, peakedness=1.5)
        start = [float(tail_of_total(mdp, mdp.log_ref, level).cvar) for level in TAILS]
        reach = [within_reach(mdp, min(budget, 4.0)) for budget in BUDGETS]
        needed = [[least + s * (most - least) for s in SHARES] for least, most in reach]
        for name in found:
            own = lowest(METHODS[name](mdp, beta, weight), needed)
            found[name][tree] = own / np.array(start)[:, None, None]
    return found


def compare(
    found: Mapping[str, NDArray[np.float64]], seed: int, n_boot: int = 4000
) -> list[dict[str, Any]]:
    """Each method's mean CVaR less its base's, in the reference's CVaR, with an interval.

    The interval is a bootstrap over trees, paired. Trees where either finds no policy on the grid
    that has the reward within the budget are left out and counted by what remains, `trees`.
    """
    rows = []
    for name, own in found.items():
        # A method's interval does not depend on which others are computed beside it.
        draws = np.random.default_rng(seed)
        for t, level in enumerate(TAILS):
            for b, budget in enumerate(BUDGETS):
                for s, share in enumerate(SHARES):
                    base = BASES.get(name, BASE)
                    pair = np.stack([found[base][:, t, b, s], own[:, t, b, s]])
                    both = np.isfinite(pair).all(0)
                    row = {
                        "method": name,
                        "base": base,
                        "tail": level,
                        "budget": None if math.isinf(budget) else budget,
                        "share": share,
                        "reached": int(np.isfinite(pair[1]).sum()),
                        "trees": int(both.sum()),
                    }
                    rows.append(row | _difference(pair[:, both], draws, n_boot))
    return rows


def _difference(
    pair: NDArray[np.float64], draws: np.random.Generator, n_boot: int
) -> dict[str, float | None]:
    if pair.shape[1] < 2:
        return dict.fromkeys(("base_cvar", "change", "low", "high", "won", "lost"))
    difference = pair[1] - pair[0]
    means = difference[draws.integers(0, len(difference), size=(n_boot, len(difference)))].mean(-1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {
        "base_cvar": float(pair[0].mean()),
        "change": float(difference.mean()),
        "low": float(low),
        "high": float(high),
        "won": float((difference < -1e-6).mean()),
        "lost": float((difference > 1e-6).mean()),
    }


def main() -> None:
    """Run the study and write its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--html", type=Path, help="write a page with plots here")
    parser.add_argument("--svg", type=Path, help="write the plot alone here")
    parser.add_argument("--from-json", type=Path, help="read the figures instead of computing them")
    parser.add_argument("--trees", type=int, default=60, help="trees of each family")
    parser.add_argument(
        "--grid", type=int, default=24, help="values of lambda; twice as many of beta"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", help="words, between commas; all methods whose name has one")
    parser.add_argument("--families", help=f"between commas; of {', '.join(FAMILIES)}")
    options = parser.parse_args()
    content = read_figures(options.from_json) if options.from_json else run(options)
    print(table(content))
    if options.html or options.svg:
        page, svg = render(content)
        if options.html:
            write_text(options.html, page)
        if options.svg:
            write_text(options.svg, svg)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Compute what the JSON does not hold yet, and write it after each family."""
    wanted = options.families.split(",") if options.families else list(FAMILIES)
    content: dict[str, Any] = {
        "trees": options.trees,
        "grid": options.grid,
        "seed": options.seed,
        "base": BASE,
        "families": {},
    }
    if options.json and options.json.exists():
        kept = read_figures(options.json)
        if {**kept, "families": {}} != content:
            raise InputError(
                f"{options.json}: holds figures of other settings; name another file, or delete it"
            )
        content = kept
    for family in wanted:
        rows = content["families"].get(family, [])
        there = {row["method"] for row in rows}
        missing = [name for name in chosen_methods(options.methods) if name not in there]
        if not missing:
            print(f"{family}: kept from {options.json}", flush=True)
            continue
        needed = {*missing, BASE, *(BASES[name] for name in missing if name in BASES)}
        began = time.perf_counter()
        found = study(
            family, options.trees, options.grid, options.seed, [m for m in METHODS if m in needed]
        )
        rows += [row for row in compare(found, options.seed) if row["method"] not in there]
        content["families"][family] = sorted(
            rows, key=lambda row: list(METHODS).index(row["method"])
        )
        print(f"{family}: {time.perf_counter() - began:.0f} s", flush=True)
        if options.json:
            write_figures(options.json, content)
    return content


def write_figures(path: Path, content: Mapping[str, Any]) -> None:
    """Write what the table and the plot need: a line a row, the columns' names once, 9 digits."""
    families = content["families"]
    columns = list(next(iter(families.values()))[0])
    lines = [
        json.dumps([family, *(_short(row[name]) for name in columns)])
        for family, rows in families.items()
        for row in rows
    ]
    head = json.dumps({**content, "families": list(families), "columns": columns})
    write_text(path, "\n".join([head, *lines]) + "\n")


def _short(value: Any) -> Any:
    return float(f"{value:.9g}") if isinstance(value, float) else value


def read_figures(path: Path) -> dict[str, Any]:
    """Read what `write_figures` wrote."""
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    content: dict[str, Any] = json.loads(head)
    columns = content.pop("columns")
    families: dict[str, list[dict[str, Any]]] = {name: [] for name in content["families"]}
    for line in lines:
        family, *values = json.loads(line)
        families[family].append(dict(zip(columns, values, strict=True)))
    return {**content, "families": families}


if __name__ == "__main__":
    main()
