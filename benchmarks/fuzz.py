"""Sound inputs, changed at random, read through every door: none may end in a traceback.

    python benchmarks/fuzz.py --reads 20000 --seed 0

A door takes a file or a value that a user may get wrong and gives a result or an `InputError`. Each
read takes a sound input of a door, replaces, removes, doubles or nests one to three random parts of
it (for text files also random bytes), and reads it. The same seed makes the same reads.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from peft import LoraConfig, get_peft_model

from riskalign.data import load_groups, load_pairs, load_unpaired
from riskalign.errors import InputError
from riskalign.evaluation.results import read_results
from riskalign.models import load_model, save_model
from riskalign.pipeline import load_config

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too
from tests import tiny

ROOT = Path(__file__).parents[1]

#: What takes a part's place.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 3, 1.5, -0.0, 1e308, float("nan"), float("inf"), 10**30, 10**400,
    "", " ", "a", "0", "nan", "1e999", "\x00", "\ud800", "\x1b[2J", "{{", "{% for %}", "../..",
    "x" * 300, [], {}, [[]], [None], [{}], {"": 0}, {"role": "user"}, [{"role": "user"}],
    ["a", 1], "2024-01-01", "!!python/object", "*a", "&a", "ä", "\u202e",
)  # fmt: skip


def _places(tree: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here] if here else []
    items = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree if isinstance(tree, list) else ())
    )
    for key, value in items:
        found += _places(value, (*here, key))
    return found


def changed(tree: Any, rng: random.Random) -> Any:
    """A copy of a tree of JSON with one to three parts changed."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 3)):
        places = _places(tree)
        if not places or rng.random() < 0.02:
            return copy.deepcopy(rng.choice(ODD))
        *above, last = rng.choice(places)
        part = tree
        for key in above:
            part = part[key]
        act = rng.randrange(5)
        if act == 0:
            part.pop(last)
        elif act == 1 and isinstance(part, list):
            part.insert(last, copy.deepcopy(part[last]))
        elif act == 2 and isinstance(part, dict):
            part[str(last) + rng.choice(("_", "x", "\x00"))] = part.pop(last)
        elif act == 3:
            part[last] = [part[last]] if rng.random() < 0.5 else {"a": part[last]}
        else:
            part[last] = copy.deepcopy(rng.choice(ODD))
    return tree


def spoilt(text: str, rng: random.Random) -> bytes:
    """A text's bytes with a random stretch cut out, doubled or replaced."""
    raw = text.encode("utf-8", "surrogatepass")
    at, n = rng.randrange(len(raw) + 1), rng.randrange(1, 40)
    middle = rng.choice((b"", raw[at : at + n] * 2, rng.randbytes(n), b"[" * 2000, b"\xff\xfe"))
    return raw[:at] + middle + raw[at + n :]


@dataclass(frozen=True)
class Door:
    """How a change of a sound input is written below a folder, and read."""

    sound: Any
    write: Callable[[Path, Any, random.Random], Path]
    read: Callable[[Path], object]


def _json_lines(folder: Path, rows: Any, rng: random.Random) -> Path:
    path = folder / "rows.jsonl"
    rows = rows if isinstance(rows, list) else [rows]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(spoilt(text, rng) if rng.random() < 0.2 else text.encode())
    return path


def _json(folder: Path, content: Any, rng: random.Random) -> Path:
    path = folder / "results.json"
    text = json.dumps(content)
    path.write_bytes(spoilt(text, rng) if rng.random() < 0.2 else text.encode())
    return path


def _yaml(folder: Path, content: Any, rng: random.Random) -> Path:
    path = folder / "job.yaml"
    try:
        text = yaml.safe_dump(content)
    except ValueError:  # of an integer too long to write
        text = "seed: " + "9" * 5000
    path.write_bytes(
        spoilt(text, rng) if rng.random() < 0.3 else text.encode("utf-8", "surrogatepass")
    )
    return path


def _in_folder(file: str) -> Callable[[Path, Any, random.Random], Path]:
    """A copy of the kit's model with one file's content changed."""

    def write(folder: Path, content: Any, rng: random.Random) -> Path:
        for path in (folder.parent / "kit").iterdir():
            if path.is_file() and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
        (folder / file).unlink(missing_ok=True)
        if file.endswith(".jinja"):
            (folder / file).write_bytes(spoilt(content if isinstance(content, str) else "", rng))
        else:
            (folder / file).write_text(json.dumps(content))
        return folder

    return write


def _grouped(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "prompt": row["prompt"],
            "completions": [row["chosen"], row["rejected"]],
            "scores": [row["score_chosen"], row["score_rejected"]],
        }
        for row in rows
    ]


def doors(kit: Path) -> dict[str, Door]:
    """Every door by name; writes a sound model and adapter to `kit`."""
    pairs = tiny.make_pairs(3)
    single = [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": i % 2 == 0}
        for i, row in enumerate(pairs)
    ]
    save_model(tiny.make_model(), tiny.make_tokenizer(), kit)
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(tiny.make_model(), lora).save_pretrained(str(kit / "lora"))
    (kit / "lora" / "adapter_model.safetensors").rename(kit / "adapter_model.safetensors")
    config = json.loads((kit / "config.json").read_text())
    tokenizer = json.loads((kit / "tokenizer_config.json").read_text())
    adapter = {
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"],
        "base_model_name_or_path": str(kit), "task_type": "CAUSAL_LM",
    }  # fmt: skip
    results = json.loads((ROOT / "docs" / "quickstart.json").read_text())
    job = yaml.safe_load((ROOT / "recipes" / "vault" / "rsa.yaml").read_text())
    load = lambda folder: load_model(str(folder))  # noqa: E731
    return {
        "pairs": Door(pairs, _json_lines, lambda path: load_pairs(str(path))),
        "groups": Door(_grouped(pairs), _json_lines, lambda path: load_groups(str(path))),
        "single responses": Door(single, _json_lines, lambda path: load_unpaired(str(path))),
        "results": Door(results, _json, read_results),
        "configuration": Door(job, _yaml, load_config),
        "model configuration": Door(config, _in_folder("config.json"), load),
        "tokenizer configuration": Door(tokenizer, _in_folder("tokenizer_config.json"), load),
        "adapter": Door(adapter, _in_folder("adapter_config.json"), load),
        "chat template": Door(tiny.CHAT_TEMPLATE, _in_folder("chat_template.jinja"), load),
    }


@dataclass(frozen=True)
class Tally:
    """Reads by door and end (`read`, `refused`, `traceback`), and the tracebacks themselves."""

    counts: Counter[tuple[str, str]]
    tracebacks: list[str]


def fuzz(doors: dict[str, Door], reads: int, seed: int, work: Path) -> Tally:
    """Read `reads` changed inputs, door by door in turn."""
    rng, counts, tracebacks = random.Random(seed), Counter[tuple[str, str]](), list[str]()
    names = list(doors)
    for i in range(reads):
        name = names[i % len(names)]
        door = doors[name]
        with tempfile.TemporaryDirectory(dir=work) as folder:
            path = door.write(Path(folder), changed(door.sound, rng), rng)
            try:
                door.read(path)
                end = "read"
            except InputError:
                end = "refused"
            except Exception:
                end = "traceback"
                tracebacks.append(f"read {i}, {name}:\n{traceback.format_exc()}")
        counts[name, end] += 1
    return Tally(counts, tracebacks)


def main() -> int:
    """Print how the reads ended; 1 where one ended in a traceback."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--reads", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", help="This one alone.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        every = doors(Path(work) / "kit")
        if options.door:
            every = {options.door: every[options.door]}
        tally = fuzz(every, options.reads, options.seed, Path(work))
    for name in every:
        ends = {end: tally.counts[name, end] for end in ("read", "refused", "traceback")}
        print(f"{name:26}", *(f"{end} {n:6}" for end, n in ends.items()))
    for each in tally.tracebacks[:5]:
        print(each)
    return bool(tally.tracebacks)


if __name__ == "__main__":
    sys.exit(main())
