"""Malformed configurations: values, files, structure."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.guards.harness import WORLD, Case, case

_ALIGN = f"align --model {{sound}} --output_dir {{out}} {WORLD}"
_BARE = f"align {WORLD} --config {{here}}/job.yaml"

#: A field, and values that it cannot have.
_VALUES: dict[str, tuple[str, ...]] = {
    "seed": ("1.5", "abc", "1e400", "[1]", "{a: 1}", "2024-01-01", "9" * 400, "true", ".nan"),
    "reward_scale": ("-1",),
    "beta": ("0", "-0.1", ".nan", ".inf", "1e400", "abc", "[0.1]", "null", "9" * 400),
    "lambda_": ("0", "-1", ".nan", ".inf", "abc", "1e400"),
    "order": ("[]", "[helpful, kind]", "{a: 1}", "[1]", "[[helpful]]", "null"),
    "merges": ("[1e30]", "[.nan]", "abc", "{a: 1}", "[[1]]", "[null]"),
    "bf16": ("maybe", "2", "[true]", "1.5"),
    "world": ("[]", "no.such:World", "json", "json:loads", "a:b:c", ":", "..:x"),
    "safe.learning_rate": ("-1e-5", "0", ".nan", "1e400", "abc", "2024-01-01", "[1e-5]", "true"),
    "safe.beta": ("0", "-1", ".inf", "abc"),
    "safe.alpha": ("-1", ".nan", "abc", "[0.5]"),
    "safe.max_steps": ("0", "1.5", "1e400", "abc", "true"),
    "safe.num_train_epochs": ("0", "-1", ".nan", "abc"),
    "safe.per_device_train_batch_size": ("0", "-1", "1.5", "abc", "9" * 400),
    "safe.gradient_accumulation_steps": ("0", "-1", "abc"),
    "safe.max_length": ("0", "-1", "abc", "1.5"),
    "safe.risk": ("nothing", "cvar", "cvar:1.5", "cvar:", "cvar:abc", "cvar:nan", "cvar:-0.1",
                  "entropic:inf", "cvar:1e400", "[cvar]", "x.y:Z", "json:loads"),
    "safe.loss_type": ("nothing", "1", "[rsa]", "x.y:z", "json:loads", "os:system"),
    "safe.loss_options": ("1", "abc", "{nothing: 1}", "[1]"),
    "safe.target": ("nothing", "1", "null"),
    "safe.save_strategy": ("never", "1", "[no]"),
    "safe.lr_scheduler_type": ("nothing", "1"),
    "safe.data": ("[]", "{a: 1}"),
    "safe.limit": ("-1", ".nan", "abc", "1e400"),
    "safe.answer_risk": ("nothing", "cvar:2", "1"),
    "safe.skip": ("maybe", "2"),
    "safe.nothing": ("1",),
    "nothing": ("1",),
    "peft.r": ("0", "-1", "1.5", "abc", "9" * 400),
    "peft.lora_alpha": ("0", ".nan", "abc"),
    "peft.lora_dropout": ("1.5", "-1", "abc"),
    "peft.target_modules": ("1", "{a: 1}", "[1]", "[]"),
    "sampling.prompts": ("0", "-1", "1.5", "abc", "1e400"),
    "sampling.answers_per_prompt": ("0", "1", "abc"),
    "sampling.temperature": ("0", "-1", ".nan", ".inf", "abc"),
    "sampling.top_p": ("0", "1.5", ".nan", "abc"),
    "sampling.max_new_tokens": ("0", "-1", "abc", "9" * 400),
    "evaluation.prompts": ("0", "-1", "abc", "1.5"),
    "evaluation.n_boot": ("0", "-1", "1e12", "abc", ".inf", "9" * 400),
    "evaluation.confidence": ("0", "1", "1.5", ".nan", "abc", "-0.5"),
    "evaluation.dial": ("[1e30]", "[abc]", "{a: 1}", "[[0.5]]"),
    "evaluation.risk": ("nothing", "cvar:2"),
    "evaluation.backend": ("nothing", "1"),
    "evaluation.distance_prompts": ("-1", "abc"),
}  # fmt: skip

#: The text of a file, and what its message names beside the file.
_FILES: dict[str, tuple[str | bytes, str]] = {
    "nested lists": ("seed: " + "[" * 5000 + "]" * 5000, "nested"),
    "nested groups": ("\n".join(" " * i + "a:" for i in range(200)), "nested"),
    "anchors that multiply": (
        "a: &a [1, 1]\n"
        + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)),
        "repeated",
    ),
    "an anchor of itself": ("a: &a [*a]", ""),
    "too large": ("seed: 1\n" + "# words\n" * 200_000, "1 MB"),
    "binary": (bytes(range(256)), ""),
    "latin-1": ("model: \xe9".encode("latin-1"), "UTF-8"),
    "utf-16": ("seed: 1".encode("utf-16"), ""),
    "NUL": (b"seed: \x001", ""),
    "a list": ("- 1\n- 2", "line 1"),
    "a word": ("hello", "line 1"),
    "a number": ("3", "line 1"),
    "unclosed": ("seed: [1", "line"),
    "tab": ("safe:\n\tbeta: 1", "line 2"),
    "two documents": ("seed: 1\n---\nseed: 2", ""),
    "a key twice": ("seed: 1\nseed: 2", "seed line 2"),
    "a key twice below": ("safe:\n  beta: 1\n  beta: 2", "beta line 3"),
    "a number as key": ("1: 2", "line 1"),
    "a list as key": ("? [1, 2]\n: 3", "line 1"),
    "null as key": ("~: 3", "line 1"),
    "a merge key": ("a: &a {seed: 1}\n<<: *a", ""),
    "a tag": ("seed: !!python/object/apply:os.getcwd []", ""),
    "another tag": ("seed: !mine 3", ""),
    "binary tag": ("seed: !!binary aGVsbG8=", "seed"),
    "set tag": ("order: !!set {helpful, safe}", "order"),
    "a date": ("seed: 2024-01-01", "seed line 1"),
    "a time": ("seed: 2024-01-01 10:00:00", "seed line 1"),
    "an impossible date": ("seed: 2024-13-41", "seed"),
    "base 60": ("output_dir: 10:20:30", "output_dir line 1"),
    "an integer of 5000 digits": ("seed: " + "9" * 5000, "seed"),
    "a float beyond floats": ("beta: 1e400", "beta line 1"),
    "group instead of value": ("seed:\n  a: 1", "seed"),
    "value instead of group": ("safe: 3", "safe line 1"),
    "list instead of group": ("safe: [beta]", "safe line 1"),
    "empty group's field": ("evaluation:\n  prompts:", "prompts line 2"),
    "misspelt": ("modle: x", "model line 1"),
    "misspelt below": ("safe:\n  learnin_rate: 1e-5", "learning_rate line 2"),
    "percent": ("%YAML 9.9\n---\nseed: 1\n", ""),
    "reserved character": ("seed: @1", "line 1"),
    "model with NUL": ('model: "a\\0b"', "model"),
    "model with surrogate": ('model: "a\\ud800b"', ""),
    "output_dir with NUL": ('output_dir: "a\\0b"', "output_dir"),
}  # fmt: skip


def _write(here: Path, content: str | bytes) -> None:
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    (here / "job.yaml").write_bytes(raw)


def _as_folder(here: Path) -> None:
    (here / "job.yaml").mkdir()


def _under_file(here: Path) -> None:
    (here / "file").write_text("seed: 1")


_COMPARE: tuple[tuple[str, str], ...] = (
    ("--presets nothing --seeds 0", "nothing"),
    ("--presets rsa --seeds x", "seeds"),
    ("--presets , --seeds 0", "presets"),
    ("--presets rsa --seeds 1e400", "seeds"),
)


def cases() -> list[Case]:
    """All of them."""
    found = [
        case(f"{field}={value[:20]}", f"{_ALIGN}", field.rpartition(".")[2])
        for field, values in _VALUES.items()
        for value in values
    ]
    flags = [f"--{field}={value}" for field, values in _VALUES.items() for value in values]
    found = [
        Case(each.name, (*each.command, flag), each.names)
        for each, flag in zip(found, flags, strict=True)
    ]
    # the shorthand `{here}` stands in one value, braces in others
    found = [
        Case(c.name, tuple(w.replace("{a: 1}", "{{a: 1}}").replace("{nothing: 1}", "{{nothing: 1}}")
                           for w in c.command), c.names)
        for c in found
    ]  # fmt: skip
    for name, (content, words) in _FILES.items():
        found.append(
            case(
                f"file: {name}",
                _BARE
                if "with" in name or "base 60" in name
                else f"{_ALIGN} --config {{here}}/job.yaml",
                f"job.yaml {words}",
                partial(_write, content=content),
            )
        )
    for name, command, words, make in (
        ("is a folder", "{here}/job.yaml", "job.yaml", _as_folder),
        ("lies under a file", "{here}/file/job.yaml", "job.yaml", _under_file),
        ("is missing", "{here}/job.yaml", "job.yaml no such file", None),
        ("has too long a name", "{here}/" + "n" * 300, "n" * 40, None),
        ("is empty words", "", "config", None),
    ):
        words_ = (*_ALIGN.split(), "--config", command)
        found.append(
            Case(f"config {name}", words_, tuple(words.split()), make or (lambda here: None))
        )
    found.append(
        case(
            "compare: a group of a word",
            f"compare {WORLD} --model {{sound}} --output_dir {{out}} --config {{here}}/job.yaml",
            "compare",
            partial(_write, content="compare: x"),
        )
    )
    found += [
        case(
            f"compare {flags}",
            f"compare --model {{sound}} --output_dir {{out}} {WORLD} {flags}",
            words,
        )
        for flags, words in _COMPARE
    ]
    return found
