"""Folders of finished runs and comparisons that were tampered with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.guards.harness import WORLD, Case, Make, case

#: A job of seconds; its finished folder is in the kit.
TINY = (
    f"{WORLD} --evaluation.prompts 2 --evaluation.answers_per_prompt 2 --evaluation.n_boot 20 "
    "--evaluation.max_new_tokens 4 --evaluation.dial [] --sampling.prompts 3 "
    "--sampling.answers_per_prompt 4 --sampling.max_new_tokens 4 --safe.max_steps 1 "
    "--helpful.max_steps 1"
)


def _content(text: str | bytes) -> Callable[[Path], object]:
    raw = text if isinstance(text, bytes) else text.encode()
    return lambda path: path.write_bytes(raw)


def _edited(**fields: Any) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        for place, value in fields.items():
            part = content
            *above, last = place.split("__")
            for name in above:
                part = part[next(iter(part)) if name == "FIRST" else name]
            last = next(iter(part)) if last == "FIRST" else last
            if value is ...:
                part.pop(last)
            else:
                part[last] = value
        path.write_text(json.dumps(content))

    return edit


_ANY: dict[str, Callable[[Path], object]] = {
    "empty": _content(""),
    "a list": _content("[]"),
    "a word": _content('"x"'),
    "null": _content("null"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "bad UTF-8": _content(b'{"a": "\xff"}'),
    "nested": _content("[" * 100_000),
    "5000 digits": _content('{"stages": ' + "9" * 5000 + "}"),
}

_MANIFEST: dict[str, Callable[[Path], object]] = {
    **_ANY,
    "stages a word": _edited(stages="x"),
}

_CERTIFIED: dict[str, Any] = {
    "certified": "final",
    "certified_w": 1.0,
    "limits": [{"risk": "mean", "limit": 2.0, "category": None}],
    "confidence": 0.95,
    "bound": "betting",
    "assumptions": [],
    "tests": [],
    "models": {"final": {"name": "safe/model", "fingerprint": "0"}},
    "prompts": 2,
    "shared_with_evaluation": 0,
    "sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 4},
    "bf16": False,
    "world": None,
    "riskalign_version": "0.1.0",
}


def _says(**fields: Any) -> Callable[[Path], object]:
    """A certificate with these fields; sound but for its fingerprint without any."""
    return _content(json.dumps(_CERTIFIED | fields))


_SAYS = _says()
_CERTIFICATE: dict[str, Callable[[Path], object]] = {
    **{name: edit for name, edit in _ANY.items() if name != "cut off"},
    "of nothing": _says(certified=None, certified_w=None),
    "of a command": _content('{"certified": "a.jsonl", "tests": []}'),
    "at a word": _says(certified_w="half"),
    "at NaN": _says(certified_w=float("nan")),
    "far beyond": _says(certified_w=1e9),
    "without models": _says(models={}),
    "of models without a fingerprint": _says(models={"final": {"name": "safe/model"}}),
    "of a model called 3": _says(certified_w=0, models={"step1": {"name": 3, "fingerprint": "0"}}),
    "sampled with words": _says(sampling={"temperature": "hot"}),
    "with code for tokens": _says(
        sampling={"temperature": 1.0, "top_p": 1.0, "max_new_tokens": "1)\nexit("}
    ),
    "limits a word": _says(limits="x"),
    "tests a word": _says(tests="x"),
}


def cases() -> list[Case]:
    """All of them."""

    def tampered(file: str, edit: Callable[[Path], object]) -> Make:
        def make(here: Path) -> None:
            shutil.copytree(here.parent / "kit" / "run", here / "run", symlinks=True)
            edit(here / "run" / file)

        return make

    again = f"align --model {{sound}} --output_dir {{here}}/run {TINY}"
    found = [
        case(f"{file} {name}", again, f"run/{file}", tampered(file, edit), heals=True)
        for file in ("manifest.json", "finished.json")
        for name, edit in _MANIFEST.items()
        if name in ("cut off", "nested", "stages a word")
    ]
    found += [
        case(f"{file} lost or changed", again, f"run/{file}", tampered(file, edit), heals=True)
        for file, edit in (
            ("pairs/helpful.jsonl", _content("")),
            ("model/model.safetensors", _content(b"\0" * 100)),
            ("evaluation/final.jsonl", Path.unlink),
            ("helpful/model/config.json", _content("[]")),
            ("helpful/log.json", Path.unlink),
        )
    ]
    found += [
        case(f"record {name}", again, "run", tampered(".riskalign/made.jsonl", _content(text)))
        for name, text in {"a list": "[1]\n", "cut off": '{"path"', "nested": "[" * 100_000, "null": "null\n", "of numbers": '{"made": 3}\n'}.items()
    ]  # fmt: skip
    export = "export {here}/run --out {out}"
    found += [
        case(f"certificate {name}", export, "certificate.json", tampered("certificate.json", edit))
        for name, edit in _CERTIFICATE.items()
    ]
    found += [
        case(
            "certificate of other weights", export, "run/model", tampered("certificate.json", _SAYS)
        ),
        case("no certificate", "export {kit}/run --out {out}", "certificate.json"),
        case("no averages certified", "export {kit}/run --baked --out {out}", "certificate-baked"),
        case("export over a file", "export {kit}/run --out {sound}/config.json", "config.json"),
    ]
    found += [
        case(
            f"results {name}",
            "report {here}/run",
            "run/results.json",
            tampered("results.json", edit),
        )
        for name, edit in _ANY.items()
    ]
    found += [
        case(
            f"output_dir {name}",
            f"align --model {{sound}} --output_dir {{here}}/{place} {TINY}",
            place[:30],
            make,
        )
        for name, place, make in (
            ("is a file", "file", lambda here: (here / "file").write_text("x")),
            ("lies under a file", "file/run", lambda here: (here / "file").write_text("x")),
            ("has too long a name", "n" * 300, lambda here: None),
            ("holds a file of the user's", "mine", lambda here: ((here / "mine").mkdir(), (here / "mine" / "manifest.json").write_text("{}"))),
        )
    ]  # fmt: skip
    return found
