"""Time and memory of the token statistics: ours against dense code, TRL's kernels and sorting.

All variants compute the same thing of the same random numbers: per-token log probabilities of both
models and a per-token divergence or risk, a loss over pairs of responses, and its gradients by
hidden states and head. Each measurement is a fresh process, the variants taking turns, after one
run on a few tokens; the table shows medians. Memory is the process's peak above what it held once
inputs and gradients existed. `trl` is its `ChunkedDivergenceFunction` (forward KL) with
`ChunkedLogProbFunction` for both models (benchmarks/requirements.txt): KL, since it has no risk.

    python benchmarks/token_stats.py --json benchmarks/results/token_stats.json
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from benchmarks.peaks import machine, matmul_rate, measured, megabytes, peak_above, reset_peak, save

VARIANTS = {
    "grouped": "ours, pairs at once, CVaR",
    "chunked": "ours, in chunks, CVaR",
    "plain": "ours, pairs at once, without compiled rows, CVaR",
    "frozen": "ours, pairs at once, head frozen, CVaR",
    "trl": "TRL's kernels, KL",
    "dense": "dense, KL",
    "sorting": "dense, CVaR by sorting",
}
PAIR = 352  # tokens of a pair's two responses


def inputs(o: argparse.Namespace, variant: str) -> dict[str, Any]:
    """Hidden states, heads and labels; gradients exist already, so that they are not counted."""
    import torch

    from riskalign.tokens import Head

    generator = torch.Generator(o.device).manual_seed(0)
    dtype = torch.bfloat16 if o.precision == "bf16" else torch.float32

    def normal(*shape: int) -> torch.Tensor:
        made = torch.empty(shape, device=o.device).normal_(generator=generator)
        return made

    weight = normal(o.vocab, o.hidden).mul_(0.1)
    reference = (weight + normal(o.vocab, o.hidden).mul_(0.01)).to(dtype)
    hidden = normal(o.tokens, o.hidden)
    hidden_ref = (hidden + 0.1 * normal(o.tokens, o.hidden)).to(dtype)
    hidden, weight = hidden.to(dtype).requires_grad_(), weight.to(dtype)
    weight.requires_grad_(variant != "frozen")
    for leaf in (hidden, weight):
        if leaf.requires_grad:
            leaf.grad = torch.zeros_like(leaf)
            leaf.grad.add_(1.0)
    labels = torch.randint(o.vocab, (o.tokens,), generator=generator, device=o.device)
    return {
        "hidden": hidden,
        "head": Head(weight),
        "hidden_ref": hidden_ref,
        "head_ref": Head(reference),
        "labels": labels,
    }


def pair_loss(logp: Any, logp_ref: Any, risk: Any) -> Any:
    """TDPO1's loss of each stretch of `PAIR` tokens, halves being the two responses."""
    import torch

    rewards = (0.1 * (logp - logp_ref + risk)).split(PAIR)
    margins = [part[: len(part) // 2].sum() - part[len(part) // 2 :].sum() for part in rewards]
    return torch.nn.functional.softplus(-torch.stack(margins))


def work(variant: str, o: argparse.Namespace, given: dict[str, Any]) -> Callable[[int], None]:
    """A function of a number of tokens that runs forward and backward on that many."""
    import torch

    from riskalign.risk import get_risk
    from riskalign.tokens import Group, grouped_losses, token_stats

    risk = get_risk(o.risk)
    rest = given["head"], given["hidden_ref"], given["head_ref"], given["labels"]

    def cut(n: int) -> tuple[Any, Any, Any, Any, Any]:
        head, hidden_ref, head_ref, labels = rest
        return given["hidden"][:n], head, hidden_ref[:n], head_ref, labels[:n]

    def ours(n: int) -> None:
        if variant == "chunked":
            stats = token_stats(*cut(n), risk)
            pair_loss(stats.logp_policy, stats.logp_ref, stats.risk).sum().backward()
            return
        index = torch.arange(n, device=o.device)
        groups = [Group(slice(i, i + 1), part) for i, part in enumerate(index.split(PAIR))]
        grouped_losses(
            *cut(n),
            risk,
            groups=groups,
            loss=lambda _, stats: pair_loss(stats.logp_policy, stats.logp_ref, stats.risk),
        ).sum().backward()

    def dense(n: int) -> None:
        hidden, head, hidden_ref, head_ref, labels = cut(n)
        log_policy = (hidden @ head.weight.T).float().log_softmax(-1)
        with torch.no_grad():
            log_ref = (hidden_ref @ head_ref.weight.T).float().log_softmax(-1)
            probs = log_ref.exp()
        logp, logp_ref = (x.gather(-1, labels[:, None])[:, 0] for x in (log_policy, log_ref))
        if variant == "dense":
            value = (probs * (log_ref - log_policy)).sum(-1)
        else:
            losses, order = (log_ref - log_policy).sort(-1, descending=True)
            mass = probs.gather(-1, order)
            level = risk.parameter or 0.0
            before = mass.cumsum(-1) - mass
            taken = torch.minimum(mass, (1 - level - before).clamp_min(0.0)) / (1 - level)
            value = (taken * losses).sum(-1)
        pair_loss(logp, logp_ref, value).sum().backward()

    def trl(n: int) -> None:
        import trl.kernels.chunked_divergence as divergence
        import trl.kernels.chunked_logprob as logprob

        kernels: Any = divergence
        chunked: Any = logprob
        hidden, head, hidden_ref, head_ref, labels = cut(n)
        kl, _ = kernels.ChunkedDivergenceFunction.apply(
            hidden, head.weight, None, hidden_ref, head_ref.weight, None, 0.0
        )
        size = kernels.VOCAB_CHUNK_SIZE
        args = (labels, 1.0, size, None, 1.0, ())
        logp = chunked.ChunkedLogProbFunction.apply(hidden, head.weight, None, *args)[0]
        with torch.no_grad():
            logp_ref = chunked.ChunkedLogProbFunction.apply(
                hidden_ref, head_ref.weight, None, *args
            )[0]
        pair_loss(logp, logp_ref, kl).sum().backward()

    return {"trl": trl, "dense": dense, "sorting": dense}.get(variant, ours)


def measure(variant: str, o: argparse.Namespace) -> dict[str, Any]:
    """Run one variant once in this process and return its figures."""
    import torch

    given = inputs(o, variant)
    run = work(variant, o, given)
    # A sum over few rows needs no memory to speak of: what is held now is inputs and gradients.
    before = megabytes(o.device)
    run(PAIR)
    reset_peak(o.device)
    start, start_cpu = time.perf_counter(), time.process_time()
    run(o.tokens)
    if o.device == "cuda":
        torch.cuda.synchronize()
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
        "megabytes": peak_above(before, o.device),
    }


def run_all(o: argparse.Namespace, variants: list[str], tokens: int, vocab: int) -> Any:
    """Every variant `repeats` times in turn, each in a fresh process."""
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in variants}
    flags = [f"--{n}={getattr(o, n)}" for n in ("hidden", "risk", "device", "precision")]
    for _, variant in itertools.product(range(o.repeats), variants):
        sizes = [f"--tokens={tokens}", f"--vocab={vocab}"]
        environment = {"RISKALIGN_NATIVE": "0"} if variant == "plain" else {}
        runs[variant].append(measured(__file__, variant, [*flags, *sizes], environment))
    return runs


def rows_of(runs: Any, tokens: int, vocab: int) -> list[dict[str, Any]]:
    """One row a variant: the medians."""
    return [
        {"tokens": tokens, "vocabulary": vocab, "variant": variant}
        | {key: round(statistics.median(run[key] for run in done), 3) for key in done[0]}
        | {"all_seconds": [round(run["seconds"], 3) for run in done]}
        for variant, done in runs.items()
    ]


def ratio(runs: Any, a: str, b: str, key: str) -> float:
    """Median over rounds of a's figure over b's."""
    return float(statistics.median(x[key] / y[key] for x, y in zip(runs[a], runs[b], strict=True)))


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=4 * PAIR)
    parser.add_argument("--many-tokens", type=int, default=8192, help="for the memory bar")
    parser.add_argument("--vocab", type=int, default=49_152)
    parser.add_argument("--vocabularies", type=int, nargs="*", default=[32_768, 131_072, 262_144])
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--risk", default="cvar:0.95")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--measure", choices=list(VARIANTS), help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.measure is not None:
        print(json.dumps(measure(o.measure, o)))
        return
    variants = o.variants.split(",")
    runs = run_all(o, variants, o.tokens, o.vocab)
    rows = rows_of(runs, o.tokens, o.vocab)
    bars: list[tuple[str, float, float]] = []
    if {"grouped", "trl", "dense"} <= set(variants):
        bars += [
            ("ours over TRL, time", ratio(runs, "grouped", "trl", "seconds"), 0.35),
            ("ours over TRL, memory", ratio(runs, "grouped", "trl", "megabytes"), 0.25),
            ("ours over dense KL, time", ratio(runs, "grouped", "dense", "seconds"), 1.0),
        ]
    if o.many_tokens:
        many = run_all(o, ["grouped", "dense"], o.many_tokens, o.vocab)
        rows += rows_of(many, o.many_tokens, o.vocab)
        share = ratio(many, "grouped", "dense", "megabytes")
        bars.append((f"ours over dense KL, memory, {o.many_tokens} tokens", share, 0.05))
    for vocab in o.vocabularies:
        other = [v for v in variants if v in ("grouped", "chunked", "trl", "dense")]
        rows += rows_of(run_all(o, other, o.tokens // 2, vocab), o.tokens // 2, vocab)
    results = {
        "machine": machine(o.device)
        | {"matmul_gflops": round(matmul_rate(o.precision, o.device) / 1e9)},
        "settings": {
            n: getattr(o, n) for n in ("hidden", "risk", "precision", "repeats", "device")
        },
        "rows": rows,
        "ratios": [
            {"name": name, "value": round(value, 3), "bar": bar, "holds": value <= bar}
            for name, value, bar in bars
        ],
    }
    columns = {
        "tokens": "tokens",
        "vocabulary": "vocabulary",
        "variant": "variant",
        "seconds": "s",
        "cpu_seconds": "CPU s",
        "megabytes": "peak MiB above inputs and gradients",
    }
    save(
        results, o.json, f"Token statistics, forward and backward, {o.precision}", columns, VARIANTS
    )


if __name__ == "__main__":
    main()
