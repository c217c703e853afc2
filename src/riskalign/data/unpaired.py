"""Single judged responses, for KTO: each with a response to another prompt, and batches of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from datasets import Dataset, concatenate_datasets

from riskalign.data.layout import Batch, RowCollator, tokenized_answers

logger = logging.getLogger(__name__)


def with_mismatched(rows: Dataset, name: str = "data") -> Dataset:
    """Give each tokenized row a response to another prompt, for KTO's estimate of the KL.

    It is that of a row before it (the first rows take the last ones'), as many places before as
    the longest run of rows with one prompt has rows: a pair's two responses stand side by side.
    The response depends on the data set alone, so that a batch may be split over processes in any
    way. A row that so gets a response to its own prompt is counted, and the log says how many.
    """
    rows = rows.select_columns([n for n in rows.column_names if not n.startswith("mismatched_")])
    prompts = [hash(tuple(row["prompt_ids"])) for row in rows.select_columns(["prompt_ids"])]
    shift = max(len(list(run)) for _, run in groupby(prompts)) % len(rows)
    shift = shift or min(1, len(rows) - 1)
    same = sum(prompts[i] == prompts[i - shift] for i in range(len(rows)))
    if same:
        logger.warning(
            "%s: %d of %d rows take a response to their own prompt into KTO's estimate of the KL, "
            "which is meant for responses to other prompts.",
            name,
            same,
            len(rows),
        )
    names = [n for n in ("completion_ids", "completion_gaps") if n in rows.column_names]
    others = rows.select_columns(names)
    others = others.rename_columns({n: n.replace("completion", "mismatched") for n in names})
    first = len(rows) - shift
    parts = [others.select(range(first, len(rows))), others.select(range(first))]
    return concatenate_datasets([rows, concatenate_datasets(parts)], axis=1)


@dataclass(frozen=True)
class UnpairedCollator:
    """Collates tokenized single responses as `RowCollator` does pairs, for KTO.

    In place of the chosen response stands the row's own, in place of the rejected one the response
    to another prompt that `with_mismatched` gave it. `gap` [B] is 1 where the label is true and -1
    elsewhere. `max_length` also holds for a prompt with a mismatched response.
    """

    pad_token_id: int
    shared_prompt: bool = False
    max_length: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """Collate a list of rows; see the class."""
        pairs = []
        for row in rows:
            room = None if self.max_length is None else self.max_length - len(row["prompt_ids"])
            [(chosen, chosen_gaps)] = tokenized_answers(row)
            pairs.append(
                {
                    "prompt_ids": row["prompt_ids"],
                    "chosen_ids": chosen,
                    "rejected_ids": row["mismatched_ids"][:room],
                    "chosen_gaps": chosen_gaps,
                    "rejected_gaps": row.get("mismatched_gaps", ()),
                    "gap": 1.0 if row["label"] else -1.0,
                }
            )
        return RowCollator(self.pad_token_id, self.shared_prompt)(pairs)
