"""Time and memory of one whole training step, against TRL's DPO trainer.

Each measurement trains a few steps in a fresh process, the variants taking turns: forward and
backward passes, gradient clipping and AdamW, all by the trainers' own `train()`. The model has
SmolLM2-135M's shape and random weights, the pairs random words. The peer is TRL's `DPOTrainer`
(benchmarks/requirements.txt) on the same pairs in the same precision. Tokens a second count what
both variants are given, the prompts once for each response. `peak` is the share that the step's
own matrix products, at the rate measured here for a large one, have of its time. `groups` trains
on as many responses in groups that share a prompt, for instance at the vault's lengths with a
quickstart's adapter:

    python benchmarks/step.py --json benchmarks/results/step.json
    python benchmarks/step.py --prompt 160 --response 24 --lora --variants groups,dpo,trl \
        --json benchmarks/results/groups.json
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from benchmarks.peaks import machine, matmul_rate, measured, megabytes, peak_above, reset_peak, save

# name: library, loss, risk
VARIANTS = {
    "trl": ("trl", "dpo", ""),
    "rsa": ("riskalign", "rsa2", "cvar:0.95"),
    "rsa_compiled": ("riskalign", "rsa2", "cvar:0.95"),
    "rsa_mean": ("riskalign", "rsa2", "mean"),
    "dpo": ("riskalign", "dpo", "mean"),
    "groups": ("riskalign", "dpo", "mean"),
}
SHOWN = {
    "trl": "TRL, DPO",
    "rsa": "riskalign, RSA with CVaR 0.95",
    "rsa_compiled": "riskalign, the same, layers compiled",
    "rsa_mean": "riskalign, RSA with the mean (TDPO2)",
    "dpo": "riskalign, DPO",
    "groups": "riskalign, DPO on groups of one prompt",
}
# name: hidden, layers, heads, key-value heads, intermediate, vocabulary, tied
SHAPES = {
    "tiny": (64, 2, 4, 2, 128, 512, True),
    "135m": (576, 30, 9, 3, 1536, 49_152, True),
    "1b": (2048, 16, 32, 8, 8192, 128_256, True),
    "7b": (4096, 32, 32, 8, 14_336, 128_256, False),
}


def make_model(shape: str, device: str, dtype: str) -> Any:
    """A Llama of the given shape with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden, layers, heads, kv_heads, middle, vocabulary, tied = SHAPES[shape]
    torch.manual_seed(0)
    with torch.device(device):
        config = LlamaConfig(
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            intermediate_size=middle,
            vocab_size=vocabulary,
            tie_word_embeddings=tied,
            max_position_embeddings=2048,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
        return LlamaForCausalLM(config).to(getattr(torch, dtype))


def from_disk(model: Any, folder: str, device: str) -> Any:
    """The same model with a name to load it by, as TRL does to make its reference."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = model.dtype
    model.save_pretrained(folder)
    del model
    with torch.device(device):
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def make_tokenizer(vocabulary: int) -> Any:
    """One word, one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def make_pairs(n: int, prompt: int, response: int, vocabulary: int) -> Any:
    """Pairs of random words, all of one length."""
    import random

    from datasets import Dataset

    draw = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{draw.randrange(3, vocabulary)}" for _ in range(count))

    rows = [
        {
            "prompt": words(prompt),
            "chosen": " " + words(response),
            "rejected": " " + words(response),
        }
        for _ in range(n)
    ]
    return Dataset.from_list(rows)


def in_groups(pairs: Any, n: int) -> Any:
    """The responses of each `n` pairs as one group of the first pair's prompt."""
    from datasets import Dataset

    rows = []
    for i in range(0, len(pairs), n):
        some = [pairs[j] for j in range(i, i + n)]
        answers = [pair[side] for pair in some for side in ("chosen", "rejected")]
        scores = [0.1 * k for k in range(len(answers))]
        rows.append({"prompt": some[0]["prompt"], "completions": answers, "scores": scores})
    return Dataset.from_list(rows)


def measure(variant: str, o: argparse.Namespace, callbacks: Sequence[Any] = ()) -> dict[str, Any]:
    """Train a few steps in this process, watched by `callbacks`, and return their figures."""
    import torch
    from transformers import TrainerCallback

    library, loss, risk = VARIANTS[variant]
    vocabulary = SHAPES[o.shape][5]
    dtype = "bfloat16" if o.lora and o.precision == "bf16" else "float32"
    pairs = make_pairs(o.pairs * (o.steps + 1), o.prompt, o.response, vocabulary)

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_args: Any, **_kwargs: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
            if o.device == "cuda":
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.began)

    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        model = from_disk(make_model(o.shape, o.device, dtype), folder, o.device)
        settings: dict[str, Any] = {
            "output_dir": folder,
            "per_device_train_batch_size": o.pairs,
            "max_steps": o.steps + 1,
            "bf16": o.precision == "bf16",
            "gradient_checkpointing": o.checkpointing,
            "use_cpu": o.device == "cpu",
            "save_strategy": "no",
            "logging_steps": 1000,
            "report_to": [],
            "disable_tqdm": True,
            "max_length": None,
        }
        peft_config = None
        if o.lora:
            from peft import LoraConfig

            peft_config = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
        common: dict[str, Any] = {
            "model": model,
            "train_dataset": pairs,
            "processing_class": make_tokenizer(vocabulary),
            "callbacks": [clock, *callbacks],
            "peft_config": peft_config,
        }
        trainer: Any
        if library == "trl":
            import trl

            peer: Any = trl
            trainer = peer.DPOTrainer(args=peer.DPOConfig(**settings), **common)
        else:
            from riskalign import RSAConfig, RSATrainer

            settings |= {"loss_type": loss, "risk": risk}
            settings["compile_layers"] = variant == "rsa_compiled"
            if variant == "groups":
                settings |= {"per_device_train_batch_size": 1, "target": "gap"}
                common["train_dataset"] = in_groups(pairs, o.pairs)
            trainer = RSATrainer(args=RSAConfig(**settings), **common)
        reset_peak(o.device)
        before = megabytes(o.device)
        trainer.train()
    tokens = o.pairs * 2 * (o.prompt + o.response + 1)
    seconds = statistics.median(clock.seconds[1:])
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "megabytes": peak_above(before, o.device),
        "threads": torch.get_num_threads(),
    }


def needed_flops(o: argparse.Namespace) -> float:
    """Multiply-adds times two of the matrix products that one step cannot do without.

    Body: forward and, where weights are trained, twice as much backward (once under LoRA, whose
    own products are left out), and the reference's forward pass; attention's products likewise.
    Head: on response positions, forward for both models, backward by hidden states and, where it
    is trained, by weights.
    """
    hidden, layers, heads, kv_heads, middle, vocabulary, _ = SHAPES[o.shape]
    head_width = hidden // heads
    weights = layers * (hidden * head_width * (2 * heads + 2 * kv_heads) + 3 * hidden * middle)
    backward = 1 if o.lora else 2
    response = o.response + 1
    tokens = o.prompt + 2 * response
    body = tokens * weights * (2 + backward)
    # Query by key and weight by value, half of it under the causal mask.
    attention = tokens * tokens * hidden * layers * (2 + 2)
    head = 2 * response * hidden * vocabulary * (2 + backward)
    return float(2 * o.pairs * (body + attention + head))


def run_all(o: argparse.Namespace) -> dict[str, Any]:
    """Every variant and precision `repeats` times in turn, each in a fresh process."""
    rows: list[dict[str, Any]] = []
    names = ("shape", "pairs", "prompt", "response", "steps", "device")
    flags = [f"--{name}={getattr(o, name)}" for name in names]
    flags += ["--lora"] if o.lora else []
    flags += ["--checkpointing"] if o.checkpointing else []
    for precision in o.precision.split(","):
        done: dict[str, list[dict[str, Any]]] = {name: [] for name in o.variants.split(",")}
        rates = []
        for _ in range(o.repeats):
            rates.append(matmul_rate(precision, o.device))
            for name, runs in done.items():
                runs.append(measured(__file__, name, [*flags, f"--precision={precision}"]))
                print(f"{precision} {name}: {runs[-1]['seconds']:.2f} s", file=sys.stderr)
        rate = statistics.median(rates)
        medians = {
            name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for name, runs in done.items()
        }
        for name, figures in medians.items():
            flops = needed_flops(o)
            rows.append(
                {
                    "precision": precision,
                    "variant": name,
                    **{key: round(value, 3) for key, value in figures.items()},
                    "all_seconds": [round(run["seconds"], 3) for run in done[name]],
                    "matmul_gflops": round(rate / 1e9),
                    "peak": round(flops / rate / figures["seconds"], 3),
                }
            )
    return {
        "machine": machine(o.device),
        "settings": {name: getattr(o, name) for name in (*names, "lora", "checkpointing")},
        "rows": rows,
        "ratios": ratios(rows),
    }


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is compared, from a run's rows: times round by round, memory by medians."""
    found: list[tuple[str, float, float, bool]] = []
    by_name = {(row["precision"], row["variant"]): row for row in rows}

    def faster(a: dict[str, Any], b: dict[str, Any]) -> float:
        rounds = zip(a["all_seconds"], b["all_seconds"], strict=True)
        return float(statistics.median(y / x for x, y in rounds))

    for precision in dict.fromkeys(row["precision"] for row in rows):
        trl, dpo, rsa, compiled = (
            by_name.get((precision, name)) for name in ("trl", "dpo", "rsa", "rsa_compiled")
        )
        for own, what in ((rsa, "RSA"), (compiled, "RSA, layers compiled,")):
            if own and trl:
                speed, memory = faster(own, trl), own["megabytes"] / trl["megabytes"]
                found += [
                    (f"{what} over TRL's DPO, tokens/s, {precision}", speed, 2.5, speed >= 2.5),
                    (f"{what} over TRL's DPO, memory, {precision}", memory, 0.5, memory <= 0.5),
                ]
        if rsa and dpo:
            time = faster(dpo, rsa)
            found.append((f"RSA over own DPO, time, {precision}", time, 1.03, time <= 1.03))
        groups = by_name.get((precision, "groups"))
        for other, what, bar in ((dpo, "own pairs", 2.0), (trl, "TRL's pairs", 4.0)):
            if groups and other:
                speed = faster(groups, other)
                name = f"groups over {what}, responses/s, {precision}"
                found.append((name, speed, bar, speed >= bar))
        if rsa and precision == "bf16":
            found.append(("share of matmul peak, bf16", rsa["peak"], 0.6, rsa["peak"] >= 0.6))
    return [
        {"name": name, "value": round(value, 3), "bar": bar, "holds": bool(holds)}
        for name, value, bar, holds in found
    ]


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=60, help="words of a prompt")
    parser.add_argument("--response", type=int, default=180, help="words of a response")
    parser.add_argument("--steps", type=int, default=3, help="measured steps, after one more")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--from-json", type=Path, help="show an earlier run's file instead")
    parser.add_argument("--measure", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options)))
        return
    if options.from_json is not None:
        results = json.loads(options.from_json.read_text(encoding="utf-8"))
        results["ratios"] = ratios(results["rows"])
    else:
        results = run_all(options)
    title = f"One step: {options.pairs} pairs, {options.prompt} + {options.response} words"
    columns = {
        "precision": "precision",
        "variant": "variant",
        "seconds": "s",
        "tokens_per_second": "tokens/s",
        "megabytes": "peak MiB",
        "peak": "share of peak",
    }
    save(results, options.json, title, columns, SHOWN)


if __name__ == "__main__":
    main()
