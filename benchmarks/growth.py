"""How time and memory of the token statistics grow with tokens and vocabulary.

Forward and backward of `riskalign.tokens.grouped_losses`, and of `token_stats` where a pair no
longer fits its workspace, at doubling sizes, each in fresh processes. A slope is that of a straight
line through the logarithms: 1 is linear, 0 flat. Memory is above inputs and gradients.

    python benchmarks/growth.py --json benchmarks/results/growth.json
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from benchmarks.peaks import machine, save
from benchmarks.token_stats import PAIR, VARIANTS, rows_of, run_all


def slope(sizes: list[int], values: list[float]) -> float:
    """Of log values over log sizes."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument(
        "--vocabularies", type=int, nargs="+", default=[8192, 16_384, 32_768, 65_536]
    )
    parser.add_argument("--hidden", type=int, default=576)
    parser.add_argument("--risk", default="cvar:0.95")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    o = parser.parse_args()
    rows: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    for variant in ("grouped", "chunked"):
        for axis, sizes in (
            ("tokens", [PAIR * n for n in o.pairs]),
            ("vocabulary", o.vocabularies),
        ):
            found = []
            for size in sizes:
                tokens = size if axis == "tokens" else PAIR * o.pairs[1]
                vocab = size if axis == "vocabulary" else o.vocabularies[2]
                found += rows_of(run_all(o, [variant], tokens, vocab), tokens, vocab)
            rows += [row | {"axis": axis} for row in found]
            # The fastest run is the least disturbed one.
            time = slope(sizes, [min(row["all_seconds"]) for row in found])
            name = f"{VARIANTS[variant]}: slope of time over {axis}"
            # Weights' gradients are read and written once a group, whatever else there is.
            ratios.append({"name": name, "value": time, "bar": "1.0 ± 0.05"})
            ratios[-1]["holds"] = math.isclose(time, 1.0, abs_tol=0.05)
            if axis == "tokens":
                # Above inputs and gradients, but for that by hidden states, which is made anew.
                memory = slope(sizes, [row["megabytes"] for row in found])
                name = f"{VARIANTS[variant]}: slope of memory over {axis}"
                ratios.append({"name": name, "value": memory, "bar": "0.0 ± 0.1"})
                ratios[-1]["holds"] = math.isclose(memory, 0.0, abs_tol=0.1)
    for ratio in ratios:
        ratio["value"] = round(float(ratio["value"]), 3)
    settings = {n: getattr(o, n) for n in ("hidden", "risk", "precision", "repeats", "device")}
    results = {"machine": machine(o.device), "settings": settings, "rows": rows, "ratios": ratios}
    columns = {
        "variant": "variant",
        "tokens": "tokens",
        "vocabulary": "vocabulary",
        "seconds": "s",
        "megabytes": "peak MiB above inputs and gradients",
    }
    save(results, o.json, "Growth", columns, VARIANTS)


if __name__ == "__main__":
    main()
