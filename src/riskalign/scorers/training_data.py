"""What a scorer of either family is trained and judged on."""

from dataclasses import dataclass
from pathlib import Path

from riskalign.data.identity import text_hash
from riskalign.data.sources import Source
from riskalign.errors import InputError
from riskalign.files.cache import file_sha256
from riskalign.scorers.prompts import half_of
from riskalign.scorers.rows import Judged, judged_rows
from riskalign.scorers.scorer_data import Kind


@dataclass(frozen=True)
class TrainingData:
    """Judged rows, the hashes of their prompts, and held-out rows that share none of these.

    `source` is what the data is called, `sha256` its file's ("" where it is no file), `half` the
    part of its prompts that the rows are.
    """

    rows: list[Judged]
    hashes: list[str]
    held_out: list[Judged]
    source: str
    sha256: str
    half: str
    held_out_source: str


def training_data(
    kind: Kind, source: Source, *, half: str = "", eval_source: Source | None = None
) -> TrainingData:
    """Read and check everything before any work.

    Raises:
        InputError: rows that `judged_rows` refuses, fewer than 2 prompts to train or to be judged
            on, labels that are all the same, or held-out prompts that are trained on.
    """
    name, sha256 = _identity(source)
    rows = half_of(judged_rows(source, kind), half)
    held_out = [] if eval_source is None else judged_rows(eval_source, kind, split="test")
    hashes = [text_hash(row.prompt) for row in rows]
    if len(set(hashes)) < 2:
        raise InputError(f"{name}: only 1 prompt to train on. Give rows with several.")
    labels = {label for row in rows for label in row.unsafe}
    if kind == "cost" and len(labels) < 2:
        raise InputError(
            f"{name}: every answer is {'unsafe' if labels.pop() else 'safe'}. A cost scorer needs "
            "answers of both kinds."
        )
    other = "" if eval_source is None else _identity(eval_source)[0]
    if held_out and len({text_hash(row.prompt) for row in held_out}) < 2:
        raise InputError(
            f"{other}: only 1 prompt to judge the scorer on, and intervals are drawn over prompts. "
            "Give several."
        )
    shared = set(hashes) & {text_hash(row.prompt) for row in held_out}
    if shared:
        raise InputError(
            f"{other}: shares {len(shared)} prompt(s) with {name}, so it is not held out. Take "
            "them out of one of the two."
        )
    return TrainingData(rows, hashes, held_out, name, sha256, half, other)


def _identity(source: Source) -> tuple[str, str]:
    if isinstance(source, str | Path):
        path = Path(source)
        return str(source), file_sha256(path) if path.is_file() else ""
    return "data", ""
