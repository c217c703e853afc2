"""SafeDPO's pairs (arXiv 2505.20065): the helpful order, turned round or left out for safety."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from riskalign.data.fields import checked_score
from riskalign.errors import InputError


@dataclass(frozen=True)
class SafetyRule:
    """When an answer is safe, and how much further an unsafe loser is to be pushed away.

    An answer is safe whose cost is at most `threshold`. `margin`, SafeDPO's Delta, is in the units
    of the loss's margin: beta times nats.
    """

    threshold: float = 0.0
    margin: float = 1.0


class SafetyRows(NamedTuple):
    """Rows and what became of the pairs: `kept` as they were, `swapped`, `dropped`."""

    rows: list[dict[str, Any]]
    kept: int
    swapped: int
    dropped: int


def safety_rows(rows: Iterable[tuple[str, Mapping[str, Any]]], rule: SafetyRule) -> SafetyRows:
    """SafeDPO's transformation of pairs (where, row) that are ordered by helpfulness.

    A pair whose chosen answer is safe is kept; one whose rejected answer alone is safe is swapped;
    one of two unsafe answers is left out, for no order makes either worth learning. Rows have
    `cost_chosen` and `cost_rejected`. The new scores are minus `rule.margin` times whether the
    answer is unsafe, so that their difference is the offset `Delta (h_l - h_w)` that the target
    `offset` takes off the margin, with h = 1 for an unsafe answer.

    By hand, threshold 0 and margin 2: costs (0, 0) are kept with scores (0, 0); (0, 3) kept with
    (0, -2); (3, 0) swapped, with (0, -2); (1, 3) left out.

    Raises `InputError`: a cost is missing or not a finite number.
    """
    made: list[dict[str, Any]] = []
    kept = swapped = dropped = 0
    for where, row in rows:
        costs = [_cost(row, field, where) for field in ("cost_chosen", "cost_rejected")]
        first, second = (cost > rule.threshold for cost in costs)
        if first and second:
            dropped += 1
            continue
        swapped += first
        kept += not first
        offset = {"score_chosen": 0.0, "score_rejected": -rule.margin if first or second else 0.0}
        turned = {"chosen": row["rejected"], "rejected": row["chosen"]} if first else {}
        made.append({**row, **turned, **offset})
    return SafetyRows(made, kept, swapped, dropped)


def _cost(row: Mapping[str, Any], field: str, where: str) -> float:
    if row.get(field) is None:
        raise InputError(
            f"{where}: field '{field}' is missing, which says whether the answer is safe. Give "
            "both costs (0 and 1 for labels), or set safe_cost: null."
        )
    return checked_score(row[field], field, where)
