"""Scores for the answers in a file."""

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from riskalign.data.fields import Text, checked_text, refuse_row_fields
from riskalign.data.sources import Source, source_rows
from riskalign.errors import InputError
from riskalign.files.atomic import write_bytes
from riskalign.files.cache import file_sha256
from riskalign.files.folder import Outputs, check_out, hold, remove_made
from riskalign.scorers.card import CARD_FILE
from riskalign.scorers.kept import in_pieces
from riskalign.scorers.loading import load_scorer

ANSWER_FIELDS = ("answer", "completion", "response")
_SUFFIXES = (".jsonl", ".jsonl.gz")
_PIECE = 64


def score_file(
    scorer: str | Path,
    source: Source,
    out: str | Path,
    *,
    field: str = "",
    encoder: str | Path | None = None,
    overwrite: bool = False,
    update: Callable[[int, int], None] | None = None,
) -> int:
    """Write a source's rows with one field more, the score; how many there were.

    What an interrupted call has scored is kept beside `out`, and the same call takes it up.

    Args:
        scorer: the scorer's folder.
        source: rows with `prompt` and one of `ANSWER_FIELDS`, as `riskalign.data.load_pairs` takes
            files.
        out: a `.jsonl` or `.jsonl.gz` file.
        field: the new field's name; the scorer's kind by default.
        encoder: as in `load_scorer`.
        overwrite: replace `out` if it exists.
        update: called with (answers done, answers).

    Raises:
        InputError: `out` exists or has another suffix, a row has no prompt or answer or has the
            new field already, or there is no scorer.
    """
    target = Path(out)
    if not target.name.endswith(_SUFFIXES):
        raise InputError(f"{target}: write a file ending in {' or '.join(_SUFFIXES)}.")
    check_out(target, overwrite, {"data": source if isinstance(source, str | Path) else None})
    loaded = load_scorer(scorer, encoder=encoder)
    name = field or loaded.kind
    rows, prompts, answers = _rows(source, name)
    kept = target.with_name(f".{target.name}.scored")
    with hold(kept, Outputs([]), name="out"):
        scores = in_pieces(
            list(zip(prompts, answers, strict=True)),
            lambda pairs: np.array(loaded.score([p for p, _ in pairs], [a for _, a in pairs])),
            size=_PIECE,
            folder=kept,
            identity=file_sha256(Path(scorer) / CARD_FILE),
            update=update,
        )
        lines = [_line(row, name, score) for row, score in zip(rows, scores.tolist(), strict=True)]
        content = "".join(lines).encode()
        write_bytes(target, gzip.compress(content, mtime=0) if target.suffix == ".gz" else content)
    remove_made(kept)
    return len(rows)


def _rows(source: Source, name: str) -> tuple[list[Mapping[str, Any]], list[Text], list[Text]]:
    rows: list[Mapping[str, Any]] = []
    prompts, answers = [], []
    for where, row in source_rows(source, "train", "data"):
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: expected an object with fields, got {type(row).__name__}.")
        refuse_row_fields(row, where)
        found = [each for each in ANSWER_FIELDS if row.get(each) is not None]
        if len(found) != 1:
            raise InputError(
                f"{where}: has {len(found)} of the fields {', '.join(ANSWER_FIELDS)}. "
                "Give exactly one, the answer to score."
            )
        if name in row:
            raise InputError(
                f"{where}: has a field {name!r} already. Name the new one with --field."
            )
        prompts.append(checked_text(row, "prompt", where))
        answers.append(checked_text(row, found[0], where))
        _line(row, name, 0.0, where)
        rows.append(row)
    if not rows:
        raise InputError("the data holds no row. Give rows with a prompt and an answer.")
    return rows, prompts, answers


def _line(row: Mapping[str, Any], name: str, score: float, where: str = "") -> str:
    try:
        line = json.dumps({**row, name: score}, ensure_ascii=False, allow_nan=False) + "\n"
        line.encode()  # half of a surrogate pair has no UTF-8
        return line
    except (TypeError, ValueError) as error:  # parquet holds times, bytes and NaN, JSON does not
        raise InputError(f"{where}: cannot be written as JSON: {error}. Drop the field.") from error
