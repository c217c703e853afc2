"""Time and memory of the token statistics, chunked against dense, and of CVaR by search.

Each measurement runs forward and backward in a fresh process, the variants taking turns, and the
table shows medians. CPU seconds add up the threads' work. Memory is the process's peak above what
it held once its inputs were made.

    python benchmarks/token_stats.py --json benchmarks/results/token_stats.json
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIANTS = {
    "dense": "dense, head trained",
    "chunked": "chunked, head trained",
    "dense_frozen": "dense, head frozen",
    "chunked_frozen": "chunked, head frozen",
    "sorting": "CVaR 0.95 by sorting",
    "search": "CVaR 0.95 by search",
}


def peak_megabytes() -> float:
    """The process's peak resident memory so far (Linux counts kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work_on_tokens(variant: str, tokens: int, vocabulary: int, width: int, risk: str) -> Any:
    """A function of a number of tokens that runs one forward and backward pass on that many."""
    import torch

    from riskalign.risk import get_risk
    from riskalign.tokens import Head, token_stats, token_stats_naive

    generator = torch.Generator().manual_seed(0)
    weight = torch.empty(vocabulary, width).normal_(0.0, 0.1, generator=generator)
    head_ref = Head(weight + 0.01 * torch.empty_like(weight).normal_(generator=generator))
    weight.requires_grad_(not variant.endswith("frozen"))
    hidden = torch.empty(tokens, width).normal_(generator=generator).requires_grad_()
    hidden_ref = hidden.detach() + 0.1 * torch.empty(tokens, width).normal_(generator=generator)
    labels = torch.randint(vocabulary, (tokens,), generator=generator)
    function = token_stats if variant.startswith("chunked") else token_stats_naive

    def work(n: int) -> None:
        weight.grad = hidden.grad = None
        stats = function(
            hidden[:n], Head(weight), hidden_ref[:n], head_ref, labels[:n], get_risk(risk)
        )
        (stats.risk - stats.logp_policy).sum().backward()

    return work


def work_on_risk(variant: str, tokens: int, vocabulary: int) -> Callable[[int], None]:
    """A function of a number of tokens that computes CVaR and its density 64 tokens at a time."""
    import torch

    from riskalign.risk import get_risk

    generator = torch.Generator().manual_seed(0)
    losses = torch.empty(tokens, vocabulary).normal_(0.0, 0.3, generator=generator)
    log_probs = torch.empty(tokens, vocabulary).normal_(0.0, 2.5, generator=generator)
    for row in log_probs:  # one by one, so that the peak before measuring is the inputs' size
        row -= row.logsumexp(-1)
    risk = get_risk("cvar:0.95")

    def by_sorting(losses: torch.Tensor, log_probs: torch.Tensor) -> None:
        ordered, order = losses.sort(dim=-1, descending=True)
        mass = log_probs.exp().gather(-1, order)
        before = mass.cumsum(-1) - mass
        taken = torch.minimum(mass, (0.05 - before).clamp_min_(0.0)) / 0.05
        (taken * ordered).sum(-1)
        torch.zeros_like(losses).scatter_(-1, order, taken)

    def work(n: int) -> None:
        for rows in range(0, n, 64):
            chunk = slice(rows, min(n, rows + 64))
            if variant == "sorting":
                by_sorting(losses[chunk], log_probs[chunk])
            else:
                risk(losses[chunk], log_probs[chunk])

    return work


def measure(variant: str, arguments: argparse.Namespace) -> None:
    """Run one variant once in this process and print its figures as JSON."""
    import torch

    sizes = arguments.tokens, arguments.vocab
    if variant in ("sorting", "search"):
        work = work_on_risk(variant, *sizes)
    else:
        work = work_on_tokens(variant, *sizes, arguments.hidden, arguments.risk)
    before = peak_megabytes()
    work(min(8, arguments.tokens))
    start, start_cpu = time.perf_counter(), time.process_time()
    work(arguments.tokens)
    figures = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
        "megabytes": peak_megabytes() - before,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(figures))


def run_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure every variant `repeats` times in turn, each in a fresh process."""
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("tokens", "vocab", "hidden")]
    for _ in range(arguments.repeats):
        for variant, done in runs.items():
            command = [sys.executable, __file__, *sizes, f"--risk={arguments.risk}"]
            output = subprocess.run(
                [*command, f"--measure={variant}"], check=True, capture_output=True, text=True
            ).stdout
            done.append(json.loads(output))
    first = runs["dense"][0]
    return {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, CPU, "
        f"{first['threads']} thread(s), torch {first['torch'].partition('+')[0]}",
        "tokens": arguments.tokens,
        "vocabulary": arguments.vocab,
        "hidden": arguments.hidden,
        "risk": arguments.risk,
        "repeats": arguments.repeats,
        "variants": {
            variant: {
                name: round(statistics.median(run[name] for run in done), 3)
                for name in ("seconds", "cpu_seconds", "megabytes")
            }
            | {"all_seconds": [round(run["seconds"], 3) for run in done]}
            for variant, done in runs.items()
        },
    }


def print_table(results: dict[str, Any]) -> None:
    """Print the medians."""
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"{results['tokens']} tokens, vocabulary {results['vocabulary']}, hidden "
        f"{results['hidden']}, {results['risk']}, float32, medians of {results['repeats']}",
        caption=results["machine"],
    )
    table.add_column("variant")
    table.add_column("seconds", justify="right")
    table.add_column("CPU seconds", justify="right")
    table.add_column("peak MiB above inputs", justify="right")
    for variant, figures in results["variants"].items():
        table.add_row(
            VARIANTS[variant],
            f"{figures['seconds']:.2f}",
            f"{figures['cpu_seconds']:.2f}",
            f"{figures['megabytes']:.0f}",
        )
    Console().print(table)


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=1408)
    parser.add_argument("--vocab", type=int, default=49_152)
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--risk", default="cvar:0.95")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--measure", choices=list(VARIANTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments.measure, arguments)
        return
    results = run_all(arguments)
    print_table(results)
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
