"""Judged answers as the two steps need them: helpful and safe pairs, and prompts held out."""

import dataclasses
import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from riskalign.data.fields import Text, refuse_row_fields
from riskalign.data.formats import (
    BOTH_LABELS,
    FORMATS,
    Kind,
    Record,
    UnusableRow,
    about_safety,
    guess_format,
)
from riskalign.data.identity import as_text, side_of, text_hash
from riskalign.data.schema import Row
from riskalign.data.sources import source_rows
from riskalign.errors import InputError
from riskalign.files.atomic import new_folder, write_json_lines
from riskalign.files.cache import file_sha256
from riskalign.settings import Count, Flag, Share, Whole, Words, refuse, settings, wrong

Format = Literal["auto", "pku-saferlhf", "hh-rlhf", "pairs"]
HelpfulPairs = Literal["all", "both_safe", "same_safety"]
SafePairs = Literal["all", "severity_differs", "one_safe"]
Side = Literal["eval", "scorer", "train"]
SIDES: tuple[Side, ...] = ("eval", "scorer", "train")
KINDS: tuple[Kind, ...] = ("helpful", "safe")

_SALT = "riskalign side"


@settings
class PreferenceSettings:
    """Where judged answers come from, which of them make pairs, and how prompts are split.

    Raises `InputError`: a value is out of its range.
    """

    path: Words | None = None
    """A json, jsonl, gz or parquet file, a folder or a hub id."""
    safe_path: Words | None = None
    """A second such source for safe pairs, where a file holds one sort of label (hh-rlhf's harmless
    half, TRL's pairs); `path` then makes helpful pairs alone."""
    format: Format = "auto"
    """Of the records; auto decides by the first one's fields."""
    split: Words = "train"
    """The split of a source that has several."""
    helpful_pairs: HelpfulPairs = "all"
    """all, or only pairs of which both answers are safe, or which are equally safe, so that the
    label cannot be about safety."""
    safe_pairs: SafePairs = "severity_differs"
    """all, or only pairs whose safer answer costs less, or only those of a safe and an unsafe
    answer. Pairs of equal cost say little of the tail, and with the target gap nothing; all has
    also those whose safer answer costs more, which are counted and which gap would turn round."""
    deduplicate: Flag = True
    """Keep one record of those with the same prompt and answers, in either order."""
    chat: Flag = True
    """Make messages of plain texts, for models with a chat template."""
    max_prompt_chars: Count | None = None
    """Longer prompts are left out."""
    max_response_chars: Count | None = None
    """Records with a longer answer are left out."""
    max_pairs: Count | None = None
    """At most so many training pairs of each kind, drawn by `seed`."""
    eval_fraction: Share = 0.1
    """Share of the prompts held out, in [0, 1)."""
    scorer_fraction: Share = 0.0
    """Share of the prompts set aside to train scorers on, in [0, 1)."""
    seed: Whole = 0
    """Of the draw."""

    def __post_init__(self) -> None:
        """Check the values."""
        none_left = self.eval_fraction + self.scorer_fraction >= 1
        refuse(wrong("scorer_fraction", none_left, "leaves no prompts to train on"))


@dataclass(frozen=True)
class Preferences:
    """Records by side, and pairs made of them.

    `helpful` and `safe` hold the training pairs, `helpful_eval` and `safe_eval` those of held-out
    prompts, in the columns of `riskalign.data.load_pairs`; safe pairs' scores are minus the costs,
    helpful ones' those that the file has, if any, with the costs beside them (`cost_chosen`,
    `cost_rejected`) where it has these. No prompt is on two sides. `counts` says what became of the
    records, in the order in which it happened; `source` is where they are from, `sha256` has each
    local file's hash.
    """

    source: str

    helpful: list[Row]
    safe: list[Row]
    helpful_eval: list[Row]
    safe_eval: list[Row]
    records: Mapping[Side, Sequence[Record]]
    counts: Mapping[str, int]
    sha256: Mapping[str, str] = field(default_factory=dict)

    def prompts(self, side: Side) -> list[Text]:
        """The different prompts of a side, in the order in which they come."""
        found: dict[str, Text] = {}
        for record in self.records[side]:
            found.setdefault(text_hash(record.prompt), record.prompt)
        return list(found.values())

    def judged(self, side: Side, kind: Kind) -> list[Row]:
        """All pairs of a side that have the kind's label, also those that the steps leave out."""
        return [row for record in self.records[side] if (row := _pair(record, kind))]


def load_preferences(settings: PreferenceSettings) -> Preferences:
    """Read, check, clean and split judged answers.

    Raises `InputError`: names the file, the line, the field and the remedy; also where no training
    pair is left of a kind that the source has labels for.
    """
    if settings.path is None:
        raise InputError("path is None. Give a file, a folder or a hub id of judged answers.")
    counts: Counter[str] = Counter()
    records = _read(settings.path, settings, "helpful" if settings.safe_path else None, counts)
    if settings.safe_path is not None:
        records += _read(settings.safe_path, settings, "safe", counts)
    records = _cleaned(records, settings, counts)
    shares = settings.eval_fraction, settings.scorer_fraction
    sides: dict[Side, list[Record]] = {side: [] for side in SIDES}
    for record in records:
        sides[SIDES[side_of(record.prompt, shares, _SALT)]].append(record)
    for side, own in sides.items():
        counts[f"records, {side}"] = len(own)
        counts[f"prompts, {side}"] = len({text_hash(record.prompt) for record in own})
    train, held_out = (
        {kind: _pairs(sides[side], kind, settings, counts, side) for kind in KINDS}
        for side in ("train", "eval")
    )
    for kind, rows in train.items():
        if not rows and any(record.first(kind) is not None for record in records):
            raise InputError(
                f"{settings.path}: no {kind} pairs to train on are left of {counts['read']} "
                f"records. Loosen {kind}_pairs ({getattr(settings, f'{kind}_pairs')!r}), the "
                "lengths or the fractions."
            )
    for kind, rows in train.items():
        if settings.max_pairs is not None and len(rows) > settings.max_pairs:
            draw = random.Random(settings.seed).sample(range(len(rows)), settings.max_pairs)
            counts[f"{kind} pairs, train, drawn"] = len(draw)
            train[kind] = [rows[i] for i in sorted(draw)]
    paths = [path for path in (settings.path, settings.safe_path) if path is not None]
    return Preferences(
        settings.path,
        train["helpful"],
        train["safe"],
        held_out["helpful"],
        held_out["safe"],
        sides,
        dict(counts),
        {path: file_sha256(Path(path)) for path in paths if Path(path).is_file()},
    )


def write_preferences(preferences: Preferences, folder: str | Path) -> None:
    """Write pairs, held-out prompts and counts to a folder, whole or not at all.

    `helpful.jsonl`, `safe.jsonl`, `helpful_eval.jsonl`, `safe_eval.jsonl`, `prompts_eval.jsonl` and
    `counts.json`; files of pairs that there are none of are left out.
    """
    names = ("helpful", "safe", "helpful_eval", "safe_eval")
    files = {name: getattr(preferences, name) for name in names}
    files["prompts_eval"] = [{"prompt": prompt} for prompt in preferences.prompts("eval")]
    with new_folder(folder) as temporary:
        for name, rows in files.items():
            if rows:
                write_json_lines(temporary / f"{name}.jsonl", rows)
        about = {"counts": preferences.counts, "sha256": preferences.sha256}
        (temporary / "counts.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def _read(
    source: str, settings: PreferenceSettings, kind: Kind | None, counts: Counter[str]
) -> list[Record]:
    read, records, unusable = None, [], None
    for where, row in source_rows(source, settings.split, source):
        if read is None:
            name = guess_format(row, where) if settings.format == "auto" else settings.format
            read = FORMATS[name]
            # One label a file: what the first answer is better at is the file's to say.
            kind = None if name in BOTH_LABELS else kind or "helpful"
        refuse_row_fields(row, where)
        counts["read"] += 1
        try:
            record = read(row, where)
        except UnusableRow as error:
            unusable = unusable or error
            counts[f"dropped: {error.why}"] += 1
            continue
        records.append(about_safety(record) if kind == "safe" else record)
    if not records:
        nothing = f"{source}: holds no row. Give at least one judged pair of answers."
        raise unusable or InputError(nothing)
    return records


def _cleaned(
    records: Sequence[Record], settings: PreferenceSettings, counts: Counter[str]
) -> list[Record]:
    kept: list[Record] = []
    seen: set[tuple[Any, ...]] = set()
    for record in records:
        prompt, *answers = as_text(record.prompt), *map(as_text, record.answers)
        hashes = [text_hash(answer) for answer in record.answers]
        labels = record.better is not None, record.safer is not None
        key = (text_hash(record.prompt), *sorted(hashes), *labels)
        if not all(text.strip() for text in (prompt, *answers)):
            counts["dropped: an empty text"] += 1
        elif hashes[0] == hashes[1]:
            counts["dropped: equal answers"] += 1
        elif len(prompt) > (settings.max_prompt_chars or math.inf) or max(map(len, answers)) > (
            settings.max_response_chars or math.inf
        ):
            counts["dropped: too long"] += 1
        elif settings.deduplicate and key in seen:
            counts["dropped: seen before"] += 1
        else:
            seen.add(key)
            kept.append(_in_messages(record) if settings.chat else record)
    counts["kept"] = len(kept)
    both = [record for record in kept if None not in (record.better, record.safer)]
    if both:
        counts["better and safer differ"] = sum(record.better != record.safer for record in both)
    return kept


def _in_messages(record: Record) -> Record:
    def made(text: Text, role: str) -> Text:
        return [{"role": role, "content": text}] if isinstance(text, str) else text

    first, second = (made(answer, "assistant") for answer in record.answers)
    return dataclasses.replace(record, prompt=made(record.prompt, "user"), answers=(first, second))


def _pairs(
    records: Sequence[Record],
    kind: Kind,
    settings: PreferenceSettings,
    counts: Counter[str],
    side: Side,
) -> list[Row]:
    which = settings.helpful_pairs if kind == "helpful" else settings.safe_pairs
    rows = [
        row
        for record in records
        if (row := _pair(record, kind)) and (which == "all" or _is_informative(record, which))
    ]
    counts[f"{kind} pairs, {side}"] = len(rows)
    scored = [row for row in rows if kind == "safe" and row["score_chosen"] is not None]
    if against := sum(row["score_chosen"] < row["score_rejected"] for row in scored):
        counts[f"safe pairs, {side}, of which the safer answer costs more"] = against
    return rows


def _is_informative(record: Record, which: str) -> bool:
    if record.costs is None:  # labels alone, and no reason to doubt them
        return True
    unsafe = [cost > 0 for cost in record.costs]
    if which == "both_safe":
        return not any(unsafe)
    if which == "same_safety":
        return unsafe[0] == unsafe[1]
    assert record.safer is not None
    if which == "one_safe":
        return unsafe[0] != unsafe[1] and not unsafe[record.safer]
    return record.costs[record.safer] < record.costs[1 - record.safer]


def _pair(record: Record, kind: Kind) -> Row | None:
    """The kind's pair, the preferred answer first; None without its label."""
    first = record.first(kind)
    if first is None:
        return None
    row: Row = {
        "prompt": record.prompt,
        "chosen": record.answers[first],
        "rejected": record.answers[1 - first],
        "score_chosen": None,
        "score_rejected": None,
    }
    # Costs beside rewards are for rules on which of the answers are safe.
    columns = {"score": record.rewards, "cost": record.costs}
    if kind == "safe":
        columns = {"score": None if record.costs is None else (-record.costs[0], -record.costs[1])}
    for name, values in columns.items():
        if values is not None:
            row |= {f"{name}_chosen": values[first], f"{name}_rejected": values[1 - first]}
    return row
