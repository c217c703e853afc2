"""Tokens a second of sampling answers, against transformers' own `generate`.

Both answer the same conversations from the same weights at temperature 1, without end-of-sequence
token, so that every answer has the same number of tokens. The peer is `generate` with `do_sample`
on batches of the same size, prompts repeated for each answer, as a user would write it. Ours is
`riskalign.models.sampling.sample`: each prompt read once for all of its answers, a cache with its
room from the start, one random number for each token drawn.

    python benchmarks/sampling.py --json benchmarks/results/sampling.json
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from benchmarks.peaks import machine, measured, megabytes, peak_above, reset_peak, save
from benchmarks.step import SHAPES, make_model, make_tokenizer

VARIANTS = {
    "ours": "riskalign, float32",
    "ours_bf16": "riskalign, bfloat16 weights",
    "generate": "transformers, float32",
    "generate_bf16": "transformers, bfloat16 weights",
    "generate_autocast": "transformers, bfloat16 autocast over float32 weights",
}
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}"


def measure(variant: str, o: argparse.Namespace) -> dict[str, Any]:
    """Sample once in this process, after a short warm-up."""
    import random

    import torch

    from riskalign.cli.process import keep_freed_memory
    from riskalign.models.sampling import sample
    from riskalign.worlds import Prompt

    if variant.startswith("ours"):
        keep_freed_memory()  # as the command line does
    dtype = "bfloat16" if variant.endswith("_bf16") else "float32"
    model = make_model(o.shape, o.device, dtype).eval()
    model.generation_config.eos_token_id = None
    vocabulary = SHAPES[o.shape][5]
    tokenizer = make_tokenizer(vocabulary)
    tokenizer.chat_template = TEMPLATE
    tokenizer.eos_token = None
    draw = random.Random(0)
    # Prompts of different lengths, as a world has them.
    texts = [
        " ".join(
            f"w{draw.randrange(3, vocabulary)}" for _ in range(draw.randint(o.words // 2, o.words))
        )
        for _ in range(o.prompts)
    ]
    prompts = [
        Prompt(f"p{i}", ({"role": "user", "content": text},), {}) for i, text in enumerate(texts)
    ]

    def ours(new: int) -> int:
        found = sample(
            model,
            tokenizer,
            prompts,
            answers_per_prompt=o.answers,
            max_new_tokens=new,
            batch_size=o.batch,
        )
        return sum(len(answer.token_ids) for own in found for answer in own)

    def peer(new: int) -> int:
        tokenizer.padding_side = "left"
        rows = [text for text in texts for _ in range(o.answers)]
        made = 0
        for i in range(0, len(rows), o.batch):
            given = tokenizer(rows[i : i + o.batch], return_tensors="pt", padding=True)
            autocast = torch.autocast(
                o.device, torch.bfloat16, enabled=variant.endswith("autocast")
            )
            with autocast, torch.inference_mode():
                out = model.generate(
                    input_ids=given["input_ids"].to(o.device),
                    attention_mask=given["attention_mask"].to(o.device),
                    do_sample=True,
                    top_k=0,
                    max_new_tokens=new,
                )
            made += (out.shape[1] - given["input_ids"].shape[1]) * len(out)
        return made

    run = ours if variant.startswith("ours") else peer
    run(2)
    reset_peak(o.device)
    before = megabytes(o.device)
    start = time.perf_counter()
    tokens = run(o.new)
    if o.device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "megabytes": peak_above(before, o.device),
    }


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="135m")
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--answers", type=int, default=4, help="to each prompt")
    parser.add_argument("--words", type=int, default=120, help="of the longest prompt")
    parser.add_argument("--new", type=int, default=32, help="tokens of an answer")
    parser.add_argument("--batch", type=int, default=64, help="answers in flight at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    # bfloat16 by autocast casts every weight at every token: ask for it by name, and wait.
    quick = [name for name in VARIANTS if not name.endswith("autocast")]
    parser.add_argument("--variants", default=",".join(quick))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--measure", choices=list(VARIANTS), help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.measure is not None:
        print(json.dumps(measure(o.measure, o)))
        return
    names = ("shape", "prompts", "answers", "words", "new", "batch", "device")
    flags = [f"--{name}={getattr(o, name)}" for name in names]
    runs: dict[str, list[dict[str, Any]]] = {variant: [] for variant in o.variants.split(",")}
    for _, variant in itertools.product(range(o.repeats), runs):
        runs[variant].append(measured(__file__, variant, flags))
    rows = [
        {"variant": variant}
        | {key: round(statistics.median(run[key] for run in done), 2) for key in done[0]}
        for variant, done in runs.items()
    ]
    ratios = []
    for a, b in (("ours", "generate"), ("ours_bf16", "generate_bf16")):
        if a in runs and b in runs:
            value = statistics.median(
                x["tokens_per_second"] / y["tokens_per_second"]
                for x, y in zip(runs[a], runs[b], strict=True)
            )
            name = f"{VARIANTS[a]} over {VARIANTS[b]}, tokens/s"
            ratios.append({"name": name, "value": round(value, 3), "bar": 1.0, "holds": value > 1})
    results = {
        "machine": machine(o.device),
        "settings": {name: getattr(o, name) for name in (*names, "repeats")},
        "rows": rows,
        "ratios": ratios,
    }
    columns = {
        "variant": "variant",
        "seconds": "s",
        "tokens_per_second": "tokens/s",
        "megabytes": "peak MiB",
    }
    save(results, o.json, "Sampling", columns, VARIANTS)


if __name__ == "__main__":
    main()
