"""Peak memory of real training steps, beside what `riskalign plan --model` says they take.

Each measurement trains a few steps by `RSATrainer` in a fresh process, on a Llama of random weights
and pairs of random words. What is counted is the process's largest resident memory above what it
had before the model was made, libraries loaded and warm: with an allocator that gives back at
once what is freed, and for one row, `with_gaps`, with the C library's own ways as well. The plan is
asked for one device without a GPU's own needs.

    python benchmarks/memory.py --json benchmarks/results/memory.json
"""

import argparse
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from benchmarks.peaks import machine, measured, save
from benchmarks.step import SHAPES, make_model, make_pairs, make_tokenizer

SHAPES["80m"] = (768, 8, 12, 4, 2048, 32_000, False)
# name: method, checkpointing, batches accumulated, bf16
VARIANTS = {
    "full": ("full", False, 1, False),
    "full_accumulated": ("full", False, 2, False),
    "full_checkpointed": ("full", True, 1, False),
    "full_bf16": ("full", False, 1, True),
    "lora": ("lora", False, 1, False),
    "lora_checkpointed": ("lora", True, 1, False),
}
SHOWN = {
    "full": "all weights",
    "full_accumulated": "the same, two batches a step",
    "full_checkpointed": "the same, checkpointing",
    "full_bf16": "all weights, bf16 autocast",
    "lora": "LoRA",
    "lora_checkpointed": "LoRA, checkpointing",
}
BAR = 0.2  # largest error
# glibc gives back at once what is freed: what is resident is what is held.
_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def resident(field: str = "VmRSS") -> int:
    """Bytes of this process's memory now, or `VmHWM` its largest so far."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    [kilobytes] = re.findall(rf"^{field}:\s+(\d+) kB$", status, flags=re.MULTILINE)
    return int(kilobytes) * 1024


def train(variant: str, shape: str, pairs: int, prompt: int, response: int, steps: int) -> int:
    """Train a few steps; bytes of resident memory from before the model was made."""
    from peft import LoraConfig

    from riskalign import RSAConfig, RSATrainer

    method, checkpointing, batches, bf16 = VARIANTS[variant]
    vocabulary = SHAPES[shape][5]
    data = make_pairs(pairs * batches * steps, prompt, response, vocabulary)
    tokenizer = make_tokenizer(vocabulary)
    before = resident()
    adapter = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    with tempfile.TemporaryDirectory() as folder:
        args = RSAConfig(
            output_dir=folder,
            per_device_train_batch_size=pairs,
            gradient_accumulation_steps=batches,
            max_steps=steps,
            bf16=bf16,
            gradient_checkpointing=checkpointing,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            max_length=None,
        )
        RSATrainer(
            model=make_model(shape, "cpu", "float32"),
            args=args,
            train_dataset=data,
            processing_class=tokenizer,
            peft_config=adapter if method == "lora" else None,
        ).train()
    return before


def measure(variant: str, o: argparse.Namespace) -> dict[str, Any]:
    """Largest memory of this process above that before the model."""
    train(variant, "tiny", 1, 4, 4, 2)  # what the libraries keep for themselves
    before = train(variant, o.shape, o.pairs, o.prompt, o.response, o.steps)
    return {"bytes": resident("VmHWM") - before}


def planned(variant: str, o: argparse.Namespace) -> dict[str, float]:
    """What the plan says, by its parts."""
    from riskalign.training.memory import Setup, plans

    method, checkpointing, batches, bf16 = VARIANTS[variant]
    setup = Setup(
        max_length=o.prompt + o.response + 1,  # its end
        max_prompt_length=o.prompt,
        per_device_train_batch_size=o.pairs,
        gradient_accumulation_steps=batches,
        bf16=bf16,
        device="cpu",
    )
    config = make_model(o.shape, "meta", "float32").config
    found = plans(config, setup, 2.0**40, checkpointing)
    [plan] = [each for each in found if (each.method, each.engine) == (method, "one")]
    return plan.parts._asdict()


def run_all(o: argparse.Namespace) -> dict[str, Any]:
    """Every variant in a process of its own, beside its plan."""
    flags = [f"--{name}={getattr(o, name)}" for name in ("shape", "pairs", "prompt", "response")]
    rows, ratios = [], []
    for variant in o.variants.split(","):
        plan = planned(variant, o)
        mib = {name: round(value / 2**20) for name, value in plan.items()}
        found = measured(__file__, variant, flags, _AT_ONCE)["bytes"]
        ratio = round(plan["total"] / found, 3)
        sizes = {"measured": round(found / 2**20)}
        if variant == "full":
            gaps = measured(__file__, variant, flags)["bytes"]
            sizes["with_gaps"] = round(gaps / 2**20)
        rows.append({"variant": variant, **sizes, **mib, "ratio": ratio})
        holds = abs(ratio - 1) <= BAR
        name = f"plan over measurement, {SHOWN[variant]}"
        ratios.append({"name": name, "value": ratio, "bar": f"1 ± {BAR}", "holds": holds})
        print(rows[-1], file=sys.stderr)
    settings = {
        name: getattr(o, name) for name in ("shape", "pairs", "prompt", "response", "steps")
    }
    return {"machine": machine(), "settings": settings, "rows": rows, "ratios": ratios}


def lines(results: dict[str, Any]) -> list[str]:
    """The table of docs/scale.md."""
    found = ["| | measured | planned | planned over measured |", "| --- | ---: | ---: | ---: |"]
    for row in results["rows"]:
        figures = f"{row['measured']:,} | {row['total']:,} | {row['ratio']:.3f}"
        found.append(f"| {SHOWN[row['variant']]} | {figures} |")
    return found


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="80m")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=40, help="words of a prompt")
    parser.add_argument("--response", type=int, default=80, help="words of a response")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--variants", default="full,full_checkpointed,lora")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--measure", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options)))
        return
    columns = {
        "variant": "what is trained",
        "measured": "measured, MiB",
        "with_gaps": "with gaps",
        "total": "planned, MiB",
    }
    columns |= {"activations": "activations", "loss": "loss", "ratio": "planned over measured"}
    title = f"One step: {options.pairs} pairs, {options.prompt} + {options.response} words"
    save(run_all(options), options.json, title, columns, SHOWN)


if __name__ == "__main__":
    main()
