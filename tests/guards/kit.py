"""What is sound: a model, data, scored answers, results, a scorer; cases break copies of it."""

from __future__ import annotations

import json
from pathlib import Path

from riskalign.models import save_model
from tests import tiny


def make(kit: Path) -> None:
    """Write all of it."""
    save_model(tiny.make_model(), tiny.make_tokenizer(), kit / "sound")
    lines = "".join(json.dumps(row) + "\n" for row in tiny.make_pairs(8))
    (kit / "pairs.jsonl").write_text(lines)
