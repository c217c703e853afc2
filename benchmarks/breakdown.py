"""Where one training step's time goes, by kind of operator: what bounds its speed.

The last step of a run of each of `step.py`'s variants, in a fresh process under torch's profiler.
Times are each operator's own, without those that it calls. `floor` is the time of the step's
necessary matrix products (`step.needed_flops`) at the rate measured here for a large one. The
ratios say how many times TRL's tokens a second a step would reach that did nothing but these
products (floor), our own products as they are, or our own products, attention and statistics: what
no saving on the rest of the step can exceed.

    python benchmarks/breakdown.py --json benchmarks/results/breakdown.json
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from benchmarks import step
from benchmarks.peaks import machine, matmul_rate, measured, save

# kind: operators whose names hold one of these parts; the first kind that fits counts.
KINDS = {
    "products": ("::mm", "addmm", "bmm", "mkldnn_linear", "onednn"),
    "attention": ("scaled_dot_product", "flash_attention"),
    "statistics": ("riskalign::",),
    "optimizer": ("Optimizer", "_foreach_", "_fused_adam", "linalg_vector_norm"),
    "compiled layers": ("CompiledFunction", "graph_", "cpp_fused", "Torch-Compiled"),
    "moving": ("copy_", "::cat", "index", "gather", "scatter", "zero_", "fill_", "_embedding"),
}
REST = "elementwise and rest"


def kind_of(name: str) -> str:
    """The kind that an operator's time counts to."""
    found = (kind for kind, parts in KINDS.items() if any(part in name for part in parts))
    return next(found, REST)


def measure(variant: str, o: argparse.Namespace) -> dict[str, Any]:
    """Seconds by kind of the last step of a run in this process."""
    from torch.profiler import ProfilerActivity, profile, record_function
    from transformers import TrainerCallback

    from riskalign.tokens import native

    activities = [ProfilerActivity.CPU]
    if o.device == "cuda":
        activities.append(ProfilerActivity.CUDA)
    profiler = profile(activities=activities)

    class Watch(TrainerCallback):
        def on_step_begin(self, *args: Any, **_kwargs: Any) -> None:
            _, state, _ = args
            if state.global_step == o.steps:
                profiler.__enter__()

        def on_step_end(self, *args: Any, **_kwargs: Any) -> None:
            _, state, _ = args
            if state.global_step == o.steps + 1:
                profiler.__exit__(None, None, None)

    def named(name: str) -> None:
        # The compiled rows are no operator of torch's, which alone the profiler sees.
        work = getattr(native.Rows, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            with record_function(f"riskalign::{name}"):
                return work(*args, **kwargs)

        setattr(native.Rows, name, watched)

    kept = native.Rows.statistics, native.Rows.gradient
    named("statistics")
    named("gradient")
    try:
        figures = step.measure(variant, o, callbacks=[Watch()])
    finally:
        native.Rows.statistics, native.Rows.gradient = kept  # type: ignore[method-assign]
    seconds = dict.fromkeys((*KINDS, REST), 0.0)
    for event in profiler.key_averages():
        micro = event.self_device_time_total if o.device == "cuda" else event.self_cpu_time_total
        seconds[kind_of(event.key)] += micro / 1e6
    return {"seconds": figures["seconds"], **seconds}


def run_all(o: argparse.Namespace) -> dict[str, Any]:
    """Every variant and precision once, each in a fresh process."""
    rows: list[dict[str, Any]] = []
    names = ("shape", "pairs", "prompt", "response", "steps", "device")
    flags = [f"--{name}={getattr(o, name)}" for name in names]
    flags += ["--lora"] if o.lora else []
    for precision in o.precision.split(","):
        rates, found = [], {}
        for variant in o.variants.split(","):
            rates.append(matmul_rate(precision, o.device))
            found[variant] = measured(__file__, variant, [*flags, f"--precision={precision}"])
            print(f"{precision} {variant}: {found[variant]['seconds']:.2f} s", file=sys.stderr)
        floor = step.needed_flops(o) / statistics.median(rates)
        for variant, figures in found.items():
            rows.append(
                {
                    "precision": precision,
                    "variant": variant,
                    **{name: round(value, 3) for name, value in figures.items()},
                    "floor": round(floor, 3),
                }
            )
    settings = {name: getattr(o, name) for name in (*names, "lora")}
    return {
        "machine": machine(o.device),
        "settings": settings,
        "rows": rows,
        "ratios": ratios(rows),
    }


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The most that tokens a second could be over TRL's, from a run's rows."""
    found = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        own = {row["variant"]: row for row in rows if row["precision"] == precision}
        if "trl" not in own:
            continue
        bounds = {"floor": own["trl"]["floor"]}
        ours = [row for name, row in own.items() if name != "trl"]
        if ours:
            # The quickest of our variants in each kind: better than any of them as a whole.
            best = {kind: min(row[kind] for row in ours) for kind in KINDS}
            bounds["products"] = best["products"]
            bounds["products, attention and statistics"] = (
                best["products"] + best["attention"] + best["statistics"]
            )
        for name, seconds in bounds.items():
            value = own["trl"]["seconds"] / seconds
            found.append(
                {
                    "name": f"{name} over TRL's step, tokens/s, {precision}",
                    "value": round(value, 3),
                    "bar": 2.5,
                    "holds": value >= 2.5,
                }
            )
    return found


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=step.SHAPES, default="135m")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=60, help="words of a prompt")
    parser.add_argument("--response", type=int, default=180, help="words of a response")
    parser.add_argument("--steps", type=int, default=3, help="steps before the last one")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--variants", default="trl,rsa,rsa_compiled")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--measure", choices=list(step.VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.checkpointing = False
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options)))
        return
    columns = {"precision": "precision", "variant": "variant", "seconds": "s", "floor": "floor"}
    columns |= {kind: kind.partition(" ")[0] for kind in (*KINDS, REST)}
    title = f"One step, seconds: {options.pairs} pairs, {options.prompt} + {options.response} words"
    save(run_all(options), options.json, title, columns, step.SHOWN)


if __name__ == "__main__":
    main()
