"""Time and memory of preparing a file of pairs, beside TRL's own preparation.

From a JSONL file of random conversations, made on the spot, to tokenized rows, each measurement in
a fresh process: ours by `prepare_rows`, which the trainer calls, once into an empty cache and once
again, TRL's by `load_dataset` and its `DPOTrainer` (benchmarks/requirements.txt), with the same
tokenizer and as many processes. Both tokenizers keep to one core a process. Seconds of processors
count all processes, and other work on the machine does not change them much. Memory is that of the
process itself above what it was before: the peak of all that is resident (`VmHWM`), in which pages
of mapped files count until the system takes them back, and of what is its own (`RssAnon`, looked at
every 10 ms), which cannot be taken back.

    python benchmarks/preparation.py --json benchmarks/results/preparation.json
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from benchmarks.peaks import machine, measured, save

SHOWN = {
    "trl": "TRL",
    "riskalign": "riskalign",
    "again": "riskalign, second run",
}
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def words_of(draw: random.Random) -> list[str]:
    """Five thousand words of a few syllables."""
    letters = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    return ["".join(draw.choices(letters, k=draw.randint(1, 4))) for _ in range(5000)]


def write_pairs(path: Path, n: int) -> None:
    """A file of n pairs of uneven lengths, with scores."""
    draw = random.Random(0)
    words = words_of(draw)

    def said(role: str, low: int, high: int) -> list[dict[str, str]]:
        return [{"role": role, "content": " ".join(draw.choices(words, k=draw.randint(low, high)))}]

    with path.open("w", encoding="utf-8") as stream:
        for _ in range(n):
            row = {
                "prompt": said("user", 5, 20),
                "chosen": said("assistant", 10, 30),
                "rejected": said("assistant", 10, 30),
                "score_chosen": draw.random(),
                "score_rejected": -draw.random(),
            }
            stream.write(json.dumps(row) + "\n")


def make_tokenizer() -> Any:
    """Byte-level BPE of 8,000 entries, learnt from such words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|im_start|>", "<|im_end|>", "<|pad|>"],
    )
    words = words_of(random.Random(0))
    tokenizer.train_from_iterator([" ".join(words) + " system user assistant"], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        chat_template=TEMPLATE,
        extra_special_tokens=["<|im_start|>"],
        model_max_length=2048,
    )


def make_model() -> Any:
    """A Llama of almost nothing."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=8000,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def resident(field: str) -> int:
    """A figure of this process's memory in bytes, as Linux names it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition(f"{field}:")[2].split()[0]) * 1024


class Watch:
    """What this process takes from now on: time, processors' time, peaks of memory."""

    def __init__(self) -> None:
        self.before, self.own = resident("VmHWM"), resident("RssAnon")
        self.most, self.ended = self.own, threading.Event()
        self.began, self.used = time.perf_counter(), processor_seconds()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self.ended.wait(0.01):
            self.most = max(self.most, resident("RssAnon"))

    def figures(self) -> dict[str, Any]:
        """What it took until now."""
        self.ended.set()
        return {
            "seconds": time.perf_counter() - self.began,
            "processor_seconds": processor_seconds() - self.used,
            "megabytes": (resident("VmHWM") - self.before) / 2**20,
            "own_megabytes": (self.most - self.own) / 2**20,
        }


def processor_seconds() -> float:
    """Of this process and those that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def measure(variant: str, o: argparse.Namespace) -> dict[str, Any]:
    """Prepare a file's rows in this process and return the figures."""
    from datasets import disable_progress_bars

    disable_progress_bars()
    tokenizer, model = make_tokenizer(), make_model()
    settings: dict[str, Any] = {"output_dir": f"{o.file}.out", "use_cpu": True, "report_to": []}
    settings |= {"dataset_num_proc": o.num_proc, "max_length": 512}
    if variant == "trl":
        return _measure_trl(o, tokenizer, model, settings)
    from riskalign.training import RSAConfig
    from riskalign.training.preparation import prepare_rows

    args = RSAConfig(**settings, target="gap", max_gap=10.0)
    watch = Watch()
    rows, counts = prepare_rows(o.file, "train_dataset", tokenizer, model, args)
    assert counts.kept == len(rows) == o.rows
    return watch.figures()


def _measure_trl(
    o: argparse.Namespace, tokenizer: Any, model: Any, settings: dict[str, Any]
) -> dict[str, Any]:
    import datasets
    import trl

    peer: Any = trl
    found: dict[str, Any] = {}

    class Timed(peer.DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, *args: Any, **kwargs: Any) -> Any:
            rows = super()._prepare_dataset(*args, **kwargs)
            assert len(rows) == o.rows
            found.update(watch.figures())
            return rows

    args = peer.DPOConfig(**settings)
    watch = Watch()
    loaded = datasets.load_dataset("json", data_files=o.file, split="train")
    Timed(model, make_model(), args=args, train_dataset=loaded, processing_class=tokenizer)
    return found


def run_all(o: argparse.Namespace) -> dict[str, Any]:
    """Each size in turn; of each all variants, one behind the other."""
    rows: list[dict[str, Any]] = []
    for n, num_proc in [(n, None) for n in o.sizes] + [(min(o.sizes), o.num_proc)]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pairs.jsonl"
            write_pairs(file, n)
            flags = [f"--file={file}", f"--rows={n}"]
            flags += [] if num_proc is None else [f"--num_proc={num_proc}"]
            places = {
                "RISKALIGN_CACHE": f"{folder}/ours",
                "HF_DATASETS_CACHE": f"{folder}/theirs",
                "TOKENIZERS_PARALLELISM": "false",
                "OMP_NUM_THREADS": "1",
            }
            for variant in o.variants.split(","):
                if variant == "trl" and n > o.peer_up_to:
                    continue
                figures = measured(__file__, variant, flags, places)
                row = {"rows": n, "num_proc": num_proc or 1, "variant": variant}
                rows.append(row | {key: round(value, 3) for key, value in figures.items()})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"machine": machine(), "rows": rows, "ratios": ratios(rows)}


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Times over TRL's of the same run, memory over rows, and the second run."""
    found: list[tuple[str, float, float]] = []
    by = {(row["rows"], row["num_proc"], row["variant"]): row for row in rows}
    for (n, num_proc, variant), row in by.items():
        if variant == "riskalign" and (trl := by.get((n, num_proc, "trl"))):
            of = f"{n} rows, {num_proc} process{'es' * (num_proc > 1)}"
            for key, what in (("seconds", "time"), ("processor_seconds", "processors' time")):
                found.append((f"{what} over TRL's, {of}", row[key] / trl[key], 1.0))
        if variant == "again":
            found.append((f"second run, seconds, {n} rows", row["seconds"], 1.0))
    for variant in SHOWN:
        own = {
            n: row["own_megabytes"]
            for (n, of, name), row in by.items()
            if (of, name) == (1, variant)
        }
        if len(own) > 1:
            low, high = min(own), max(own)
            slope = (own[high] - own[low]) * 2**20 / (high - low)
            found.append((f"bytes of its own a row, {SHOWN[variant]}", slope, 100.0))
    return [
        {"name": name, "value": round(value, 3), "bar": bar, "holds": value <= bar}
        for name, value, bar in found
    ]


def main() -> None:
    """Measure one variant, or all of them in fresh processes."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")])
    parser.add_argument("--variants", default=",".join(SHOWN))
    parser.add_argument("--num_proc", type=int)
    parser.add_argument("--peer_up_to", type=int, default=50_000, help="rows; above only ours")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--file", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.measure:
        print(json.dumps(measure(o.measure, o)))
        return
    o.sizes, o.num_proc = o.sizes or [20_000, 50_000, 200_000], o.num_proc or 2
    columns = {
        "rows": "rows",
        "num_proc": "processes",
        "variant": "",
        "seconds": "s",
        "processor_seconds": "processors' s",
        "megabytes": "peak MiB above start",
        "own_megabytes": "of its own",
    }
    save(run_all(o), o.json, "Preparation", columns, SHOWN)


if __name__ == "__main__":
    main()
