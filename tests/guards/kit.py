"""What is sound: a model, data, scored answers, results, a scorer; cases break copies of it."""

from __future__ import annotations

import json
from pathlib import Path

from riskalign.models import save_model
from tests import tiny
from tests.guards.harness import run
from tests.guards.runs import TINY


def make(kit: Path) -> None:
    """Write all of it."""
    save_model(tiny.make_model(), tiny.make_tokenizer(), kit / "sound")
    lines = "".join(json.dumps(row) + "\n" for row in tiny.make_pairs(8))
    (kit / "pairs.jsonl").write_text(lines)
    words = f"align --model {kit / 'sound'} --output_dir {kit / 'run'} {TINY}"
    end = run(*words.split(), work=True)
    assert end.code == 0, end
