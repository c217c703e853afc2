"""A small network, sampled answers, exact evaluation: the tail form against SACPO and RSA.

    python benchmarks/small_networks.py --json benchmarks/results/small_networks.json \
        --svg docs/small_networks.svg

Between the closed forms of frontier.py and a language model. On each exact tree a small recurrent
network is trained to the tree's reference, then to its reward, and then, by each method on the same
budget of sampled answers and updates, to its costs, at a grid of multipliers. Policies are
evaluated exactly. At a matched reward each method's CVaR of total cost is divided by SACPO's;
means and intervals are over trees. What is in the file already is not computed again.
docs/small_networks.md tells what came out.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from riskalign.files.atomic import write_text
from riskalign.theory import Levels, random_mdp

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from benchmarks.small_networks_methods import CROSSING, FAMILIES, MAIN, Cell
from benchmarks.small_networks_model import (
    Networks,
    Trees,
    exact,
    fresh,
    pretrain,
    trees_of,
    worth,
)
from benchmarks.small_networks_page import page, table
from benchmarks.small_networks_train import Budget, Method, pull, threshold, train

SHAPE = {"vocabulary": 6, "depth": 4, "peakedness": 1.5}
HIDDEN = 16
STRENGTHS = tuple(float(x) for x in torch.logspace(-0.3, 2.0, 8, dtype=torch.float64))
FINE = tuple(float(x) for x in torch.logspace(-1.0, 2.0, 31, dtype=torch.float64))
PRETRAINING = 800  # updates
HELPFUL = 1 / 0.7  # nats for a reward of one standard deviation
CHUNK = 35  # runs at once; more are no faster on one core


class Start(NamedTuple):
    """What every method of a family starts from: networks after the helpful step, one a tree."""

    net: Networks
    trees: Trees
    log_leaves: Tensor
    pretrain_kl: Tensor


def begin(family: str, trees: int, seed: int) -> Start:
    """The trees, networks trained to their references, and the shared helpful step.

    The reference is the pretrained network itself; how far it is from the tree's own is reported.
    """
    generator = torch.Generator().manual_seed(seed)
    mdp = random_mdp(family, 100 + seed, count=trees, **SHAPE)  # type: ignore[arg-type]
    net = fresh(trees, SHAPE["vocabulary"], HIDDEN, generator)  # type: ignore[arg-type]
    depth = mdp.depth
    kl = pretrain(net, mdp.log_ref, PRETRAINING, 2e-2)
    reference: Levels = exact(net, depth)
    tree = trees_of(mdp, reference)
    net = net.copies(torch.arange(trees))
    strength = torch.full((trees,), HELPFUL, dtype=torch.float64)
    helpful = Method(levels=(0.0, 0.0))
    budget = Budget(updates=400)
    leaves = train(net, tree, helpful, budget, strength, generator, depth, value=tree.reward)
    return Start(net, tree, leaves, kl)


def run(start: Start, cell: Cell, seed: int) -> Tensor:
    """Every tree of the cell at every multiplier: [trees, strengths, 5], as `worth` has them."""
    n = min(cell.trees, len(start.log_leaves))
    tree = torch.arange(n).repeat_interleave(len(STRENGTHS))
    strength = torch.tensor(STRENGTHS, dtype=torch.float64).repeat(n)
    found = []
    for number, part in enumerate(torch.arange(len(tree)).split(CHUNK)):
        generator = torch.Generator().manual_seed(1000 * seed + number)
        own = start.trees.of(tree[part])
        net = start.net.copies(tree[part])
        depth = int(SHAPE["depth"])
        leaves = train(net, own, cell.method, cell.budget, strength[part], generator, depth)
        found.append(worth(own, leaves))
    return torch.cat(found).view(n, len(STRENGTHS), -1)


def ideal(start: Start, level: float) -> Tensor:
    """The optimum over whole answers, exact, with the charge of a CVaR: [trees, strengths, 5]."""
    found = []
    for strength in FINE:
        own = torch.full((len(start.log_leaves),), strength * pull(level), dtype=torch.float64)
        charge = start.trees.cost
        if level > 0:
            eta = threshold(charge, start.log_leaves.exp(), level, own)
            charge = (charge - eta.unsqueeze(-1)).clamp(min=0) / (1 - level)
        tilted = (start.log_leaves - own.unsqueeze(-1) * charge).log_softmax(-1)
        found.append(worth(start.trees, tilted))
    return torch.stack(found, 1)


def cells(part: str) -> Iterator[Cell]:
    """What is to be computed, in order."""
    if part in ("main", "all"):
        yield from MAIN
    if part in ("crossing", "all"):
        yield from CROSSING


def rounded(values: Tensor) -> list[Any]:
    """Nested lists of four figures."""
    if values.dim() > 0:
        return [rounded(value) for value in values]
    return float(f"{float(values):.4g}")  # type: ignore[return-value]


def describe(own: dict[str, Any], start: Start) -> None:
    """What every method is measured against: reference, start and both ideals."""
    own["start"] = rounded(worth(start.trees, start.log_leaves))
    own["reference"] = rounded(worth(start.trees, start.trees.log_ref))
    own["pretrain_kl"] = rounded(start.pretrain_kl)
    for name, level in (("ideal, cost", 0.0), ("ideal, tail", 0.95)):
        own[name] = rounded(ideal(start, level))


def study(content: dict[str, Any], options: argparse.Namespace) -> bool:
    """Add what is missing, family by family, until the time is up; whether all is there."""
    began = time.perf_counter()
    starts: dict[str, Start] = {}
    for cell in cells(options.part):
        for family in options.families:
            own = content["families"].setdefault(family, {})
            if family not in cell.families or cell.key in own:
                continue
            if options.minutes and time.perf_counter() - began > 60 * options.minutes:
                return False
            if family not in starts:
                starts[family] = begin(family, options.trees, options.seed)
                describe(own, starts[family])
            since = time.perf_counter()
            own[cell.key] = rounded(run(starts[family], cell, options.seed))
            print(f"{family}: {cell.key}: {time.perf_counter() - since:.0f} s", flush=True)
            if options.json:
                write_text(options.json, json.dumps(content) + "\n")
    return True


def main() -> None:
    """Run the study and write its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="figures; what is there is kept")
    parser.add_argument("--svg", type=Path, help="write the plot here")
    parser.add_argument("--part", choices=("main", "crossing", "all", "none"), default="all")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--trees", type=int, default=20, help="trees of each family")
    parser.add_argument("--minutes", type=float, help="begin nothing new after so long")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    content: dict[str, Any] = {"families": {}}
    if options.json and options.json.exists():
        content = json.loads(options.json.read_text(encoding="utf-8"))
    settings = {"trees": options.trees, "seed": options.seed, "strengths": list(STRENGTHS)}
    if content.setdefault("settings", settings) != settings:
        parser.error(f"{options.json} holds figures of {content['settings']}; name another file")
    done = study(content, options)
    if options.json:
        write_text(options.json, json.dumps(content) + "\n")
    print(table(content))
    if options.svg:
        write_text(options.svg, page(content))
    if not done:
        print("time is up: run again for the rest")


if __name__ == "__main__":
    main()
