"""A saved scorer, whatever its family, and its scores for the answers in a file."""

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from riskalign.data import Source, Text
from riskalign.data.fields import checked_text, refuse_row_fields
from riskalign.data.sources import source_rows
from riskalign.errors import InputError
from riskalign.files.atomic import write_bytes
from riskalign.files.cache import file_sha256
from riskalign.files.folder import Outputs, check_out, hold, remove_made
from riskalign.scorers.causal import load_causal_model
from riskalign.scorers.embedding import load_embedding_model
from riskalign.scorers.kept import in_pieces
from riskalign.scorers.scorer import Scorer, read_card

ANSWER_FIELDS = ("answer", "completion", "response")
_SUFFIXES = (".jsonl", ".jsonl.gz")
_PIECE = 64


def load_scorer(folder: str | Path, *, encoder: str | Path | None = None) -> Scorer:
    """Load what a scorer's `save` wrote.

    `encoder` says where an embedding scorer's encoder is now, if not where it was at training.

    Raises `InputError`: no scorer there, or one that is damaged or does not fit its encoder.
    """
    card = read_card(folder)
    name = "max_length" if card.family == "causal" else "max_tokens"
    limit = card.settings.get(name)
    if not isinstance(limit, int) or limit < 2:
        raise InputError(
            f"{folder}: field 'settings.{name}' of its card is {limit!r}, which is how many tokens "
            "it reads and at least 2. Train the scorer again."
        )
    if card.family == "causal":
        return Scorer(card, load_causal_model(folder, limit))
    return Scorer(card, load_embedding_model(folder, card, limit, encoder))


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

    What an interrupted call has scored is kept beside `out`, and the same call takes it up: the
    same answers, scored by the same files.

    Args:
        source: rows with `prompt` and one of `ANSWER_FIELDS`.
        out: a `.jsonl` or `.jsonl.gz` file.
        field: the new field's name; the scorer's kind by default.
        encoder: as in `load_scorer`.
        update: called with (answers done, answers).

    Raises `InputError`: `out` exists or has another suffix, a row has no prompt or answer or has
    the new field already, or there is no scorer.
    """
    target = Path(out)
    if not target.name.endswith(_SUFFIXES):
        raise InputError(f"{target}: write a file ending in {' or '.join(_SUFFIXES)}.")
    check_out(target, overwrite, {"data": source if isinstance(source, str | Path) else None})
    loaded = load_scorer(scorer, encoder=encoder)
    name = field or loaded.kind
    rows, pairs = _rows(source, name)
    kept = target.with_name(f".{target.name}.scored")
    with hold(kept, Outputs([]), name="out"):
        scores = in_pieces(
            pairs,
            lambda some: np.array(loaded.score([p for p, _ in some], [a for _, a in some])),
            size=_PIECE,
            folder=kept,
            identity=_identity(Path(scorer)),
            update=update,
        )
        lines = [_line(row, name, score) for row, score in zip(rows, scores.tolist(), strict=True)]
        content = "".join(lines).encode()
        write_bytes(target, gzip.compress(content, mtime=0) if target.suffix == ".gz" else content)
    remove_made(kept)
    return len(rows)


def _identity(folder: Path) -> str:
    """What decides a scorer's scores: all of its files."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return json.dumps([[str(path.relative_to(folder)), file_sha256(path)] for path in files])


def _rows(source: Source, name: str) -> tuple[list[Mapping[str, Any]], list[tuple[Text, Text]]]:
    """The rows, and the prompt and answer of each."""
    rows: list[Mapping[str, Any]] = []
    pairs = []
    for where, row in source_rows(source, "train", "data"):
        refuse_row_fields(row, where)
        given = [each for each in ANSWER_FIELDS if row.get(each) is not None]
        if len(given) != 1:
            raise InputError(
                f"{where}: has {len(given)} of the fields {', '.join(ANSWER_FIELDS)}. "
                "Give exactly one, the answer to score."
            )
        if name in row:
            raise InputError(
                f"{where}: has a field {name!r} already. Name the new one with --field."
            )
        pairs.append((checked_text(row, "prompt", where), checked_text(row, given[0], where)))
        _line(row, name, 0.0, where)
        rows.append(row)
    if not rows:
        raise InputError("the data holds no row. Give rows with a prompt and an answer.")
    return rows, pairs


def _line(row: Mapping[str, Any], name: str, score: float, where: str = "") -> str:
    try:
        line = json.dumps({**row, name: score}, ensure_ascii=False, allow_nan=False) + "\n"
        line.encode()  # half of a surrogate pair has no UTF-8
        return line
    except (TypeError, ValueError) as error:  # parquet holds times, bytes and NaN, JSON does not
        raise InputError(f"{where}: cannot be written as JSON: {error}. Drop the field.") from error
