"""A batch's rows: which have their losses taken together, and a row's loss from its pairs'.

Shapes: R rows, S responses, P pairs, N response tokens, as `riskalign.data.RowCollator` makes them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from riskalign.losses import LossOutput, SequenceStats
from riskalign.tokens import Group, Head, fits


class Rows(NamedTuple):
    """Some rows' responses and pairs, numbered as if these rows were all there are.

    `sequence` [N] in [0, `n_responses`), `pairs` [2, P] into the responses, `pair_row` [P] in
    [0, `n`), `gap` [P].
    """

    sequence: Tensor
    n_responses: int
    pairs: Tensor
    pair_row: Tensor
    gap: Tensor
    n: int


def all_rows(batch: Mapping[str, Tensor]) -> Rows:
    """The whole batch."""
    row, pairs = batch["row"], batch["pairs"]
    n = int(row[-1]) + 1
    return Rows(batch["sequence"], len(row), pairs, row[pairs[0]], batch["gap"], n)


def rows_of(group: Group, batch: Mapping[str, Tensor]) -> Rows:
    """A group's rows, numbered anew."""
    first, last = group.rows.start, group.rows.stop
    row = batch["row"]
    first_response, last_response = torch.searchsorted(row, torch.tensor([first, last]).to(row))
    pair_row = row[batch["pairs"][0]]
    inside = (pair_row >= first) & (pair_row < last)
    return Rows(
        batch["sequence"][group.tokens] - first_response,
        int(last_response - first_response),
        batch["pairs"][:, inside] - first_response,
        pair_row[inside] - first,
        batch["gap"][inside],
        last - first,
    )


def row_groups(batch: Mapping[str, Tensor], head: Head) -> list[Group] | None:
    """The rows in as few groups as the workspace allows; None where one is too long."""
    of = batch["row"][batch["sequence"]]
    n = int(batch["row"][-1]) + 1
    lengths = torch.bincount(of, minlength=n).tolist()
    if not all(fits(length, head) for length in lengths):
        return None
    groups, first = [], 0
    for last in range(1, n + 1):
        if last == n or not fits(sum(lengths[first : last + 1]), head):
            inside = (of >= first) & (of < last)
            groups.append(Group(slice(first, last), inside.nonzero().squeeze(-1)))
            first = last
    return groups


def sides(stats: SequenceStats, pairs: Tensor) -> tuple[SequenceStats, SequenceStats]:
    """Statistics [P] of the pairs' chosen and rejected responses."""
    chosen, rejected = pairs
    return (
        SequenceStats(*(values[chosen] for values in stats)),
        SequenceStats(*(values[rejected] for values in stats)),
    )


def mean_by_row(output: LossOutput, rows: Rows) -> LossOutput:
    """Loss and metrics [R]: means over each row's pairs [P].

    Of a group of k responses under the target `gap` that is the squared gap loss of all its pairs,
    `2k / (k - 1)` times the mean of `((m_i - mean m) - (s_i - mean s))^2` over responses with
    margins m_i and scores s_i (docs/method.md, section 8).
    """
    counts = torch.bincount(rows.pair_row, minlength=rows.n)

    def mean(values: Tensor) -> Tensor:
        return values.new_zeros(rows.n).index_add(0, rows.pair_row, values) / counts

    metrics = {name: mean(values) for name, values in output.metrics.items()}
    return LossOutput(mean(output.loss), metrics)
