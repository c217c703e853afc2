"""How often a sampled answer changes with the batch size.

Its random numbers stay the same; the logits are rounded otherwise in a batch of another shape, and
a draw that lies at the edge between two tokens can fall to the other one.

    python benchmarks/batch_sizes.py --model smollm2-135m --precision float32
"""

import argparse

import torch

from riskalign.models import load_model
from riskalign.models.sampling import sample
from riskalign.worlds import get_world


def main() -> None:
    """Sample the same answers in batches of several sizes and count those that differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--world", default="vault")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--answers", type=int, default=4, help="to each prompt")
    parser.add_argument("--new", type=int, default=48, help="tokens of an answer")
    parser.add_argument(
        "--batches", default="64,32,8", help="the first is compared with the others"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    o = parser.parse_args()
    loaded = load_model(o.model, dtype=getattr(torch, o.precision))
    prompts = get_world(o.world).prompts("eval", o.prompts, 0)
    found = {
        size: [
            answer.token_ids
            for own in sample(
                loaded.model.to(o.device),
                loaded.tokenizer,
                prompts,
                answers_per_prompt=o.answers,
                max_new_tokens=o.new,
                batch_size=size,
            )
            for answer in own
        ]
        for size in map(int, o.batches.split(","))
    }
    (first, whole), *others = found.items()
    tokens = sum(map(len, whole))
    print(f"{o.model}, {o.world}, {o.precision}, {o.device}, torch {torch.__version__}")
    for size, again in others:
        n = sum(a != b for a, b in zip(whole, again, strict=True))
        print(f"batch {first} and {size}: {n} of {len(whole)} answers differ ({tokens} tokens)")


if __name__ == "__main__":
    main()
