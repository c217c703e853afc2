"""Reward and cost models on disk, as `riskalign evaluate` uses them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from riskalign import scorers
from riskalign.errors import InputError
from riskalign.files.cache import file_sha256
from riskalign.pipeline.ledger import content_hash
from riskalign.pipeline.settings import Kind
from riskalign.scorers import Kind as ScorerKind
from riskalign.scorers import Scorer

Tell = Callable[[int, int, str], None]

#: A scorer's kind, and the label that it learns from.
SCORED: Mapping[ScorerKind, Kind] = {"reward": "helpful", "cost": "safe"}

_SCORED_AT_ONCE = 64


def load_scorer(kind: str, folder: str) -> Scorer:
    """The scorer in a folder; `InputError` unless it is of this kind."""
    scorer = scorers.load_scorer(folder)
    if scorer.kind != kind:
        raise InputError(
            f"scorer_{kind} {folder!r}: is a {scorer.kind} model. Give a {kind} model's folder."
        )
    return scorer


def scores_of(
    kind: str, folder: str, prompts: list[list[Any]], answers: list[str], tell: Tell
) -> list[float]:
    """A score for each answer to its prompt, by the scorer in a folder.

    Raises:
        InputError: too few or too many scores, or one that is not finite.
    """
    scorer = load_scorer(kind, folder)
    found: list[float] = []
    for at in range(0, len(answers), _SCORED_AT_ONCE):
        some = slice(at, at + _SCORED_AT_ONCE)
        found += [float(score) for score in scorer.score(prompts[some], answers[some])]
        tell(len(found), len(answers), kind)
    if len(found) != len(answers) or not all(map(math.isfinite, found)):
        raise InputError(
            f"scorer_{kind} {folder!r}: gave {len(found)} scores to {len(answers)} answers, or one "
            "that is not finite. Use another scorer."
        )
    return found


def encoder_identity(encoder: str) -> str | list[str]:
    """What decides a sentence encoder: its name, and with a folder the hash of its files."""
    folder = Path(encoder).expanduser()
    return [encoder, folder_hash("encoder", encoder)] if folder.is_dir() else encoder


def folder_hash(kind: str, folder: str) -> str:
    """Hex SHA-256 of a scorer's files and their names; `InputError` where there is no folder."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise InputError(f"scorer_{kind} {folder!r}: no such folder. Check the path.")
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return content_hash([[path.relative_to(root).as_posix(), file_sha256(path)] for path in files])
