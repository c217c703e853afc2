"""The tables of docs/scale.md: what `riskalign plan --model` says of models of known sizes.

Their configurations are written out here by their numbers; nothing is downloaded.

    python benchmarks/plans.py
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too

# The sizes of Llama 3 8B and 70B and of Qwen2.5 7B.
MODELS: dict[str, dict[str, Any]] = {
    "Llama-3-8B": {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "Qwen2.5-7B": {
        "model_type": "qwen2",
        "vocab_size": 152_064,
        "hidden_size": 3584,
        "intermediate_size": 18_944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    },
    "Llama-3-70B": {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": 8192,
        "intermediate_size": 28_672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
GPUS = (1, 8, 16)
GPU_MEMORY = 80
SETUP: dict[str, Any] = {"max_length": 1024, "per_device_train_batch_size": 4}


def table(name: str) -> Iterator[str]:
    """The lines of a model's table: GiB on each GPU and the most pairs, by the number of GPUs."""
    from transformers import AutoConfig

    from riskalign.models.outline import outline
    from riskalign.training.memory import ENGINES, Setup, plans, sizes
    from riskalign.training.rehearsal import rehearse

    config = AutoConfig.for_model(**MODELS[name])
    kept: dict[str, Any] = {}

    def remembered(*args: Any, **given: Any) -> Any:
        key = repr((args[1:], sorted(given.items(), key=lambda item: item[0])))
        if key not in kept:
            kept[key] = rehearse(*args, **given)
        return kept[key]

    cells: dict[tuple[str, str], dict[int, str]] = {}
    for gpus in GPUS:
        setup = Setup(gpus=gpus, **SETUP)
        for plan in plans(config, setup, GPU_MEMORY * 2**30, True, remembered):
            engine = "ddp" if plan.engine == "one" else plan.engine
            pairs = f"{plan.most_pairs} pairs" if plan.most_pairs else "none"
            total = plan.parts.total / 2**30
            cells.setdefault((plan.method, engine), {})[gpus] = f"{total:.0f} ({pairs})"
    yield f"**{name}**, {sizes(outline(config)).total:,} parameters:"
    yield ""
    yield f"| | {' | '.join(f'{gpus} GPU' + 's' * (gpus > 1) for gpus in GPUS)} |"
    yield "| --- " + "| ---: " * len(GPUS) + "|"
    order = sorted(
        cells, key=lambda c: (("full", "lora", "qlora").index(c[0]), ENGINES.index(c[1]))
    )
    for cell in order:
        own = " | ".join(cells[cell].get(gpus, "") for gpus in GPUS)
        yield f"| {cell[0]}, {cell[1]} | {own} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    print("\n\n".join("\n".join(table(name)) for name in MODELS))


if __name__ == "__main__":
    main()
