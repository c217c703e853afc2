"""A batch's rows: which have their losses taken together, a row's loss, and metrics' averages.

Shapes: R rows, S responses, P pairs, N response tokens, as `riskalign.data.RowCollator` makes them.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor
from transformers import Trainer

from riskalign.data import Batch
from riskalign.losses import LossOutput
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


def rows_of(batch: Mapping[str, Tensor], group: Group | None = None) -> Rows:
    """A group's rows, numbered anew; without one the whole batch."""
    row, pairs = batch["row"], batch["pairs"]
    if group is None:
        n = int(row[-1]) + 1
        return Rows(batch["sequence"], len(row), pairs, row[pairs[0]], batch["gap"], n)
    first, last = group.rows.start, group.rows.stop
    first_response, last_response = torch.searchsorted(row, torch.tensor([first, last]).to(row))
    pair_row = row[pairs[0]]
    inside = (pair_row >= first) & (pair_row < last)
    return Rows(
        batch["sequence"][group.tokens] - first_response,
        int(last_response - first_response),
        pairs[:, inside] - first_response,
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


def real_rows(batch: Mapping[str, Tensor]) -> int:
    """How many of a batch's rows count, its first ones: all where `mark_repeats` found none."""
    return int(batch["real"]) if "real" in batch else int(batch["row"][-1]) + 1


def mark_repeats(batch: Batch, accelerator: Accelerator) -> None:
    """Note in the batch that was loaded last how many of its rows, the first ones, are no repeats.

    So that all processes have as many batches, of as many rows, accelerate fills up the last ones
    with rows from the epoch's start (`BatchSamplerShard`). In the order of the processes these
    repeats come last. A process may have no other rows; it still takes part in every exchange.
    """
    n, loader = accelerator.num_processes, accelerator.gradient_state.active_dataloader
    if n == 1 or not loader.end_of_dataloader:
        return
    own = int(batch["row"][-1]) + 1
    left = len(loader.dataset) % (own * n)  # in the last batches of all processes together
    if left and not loader._drop_last:
        at_hand = min(max(left - accelerator.process_index * own, 0), own)
        batch["real"] = torch.tensor(at_hand)


def counting(count: Callable[[Batch], int]) -> Any:
    """A `get_batch_samples` that sums the `count` of a step's batches over all processes.

    Batches are marked before (`mark_repeats`), and `count` must leave repeats out.
    """

    def get_batch_samples(
        self: Trainer, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Batch], Tensor]:
        batches, _ = Trainer.get_batch_samples(self, epoch_iterator, num_batches, device)
        if batches:
            mark_repeats(batches[-1], self.accelerator)
        items = torch.tensor([sum(map(count, batches))], device=device)
        return batches, self.accelerator.gather(items).sum()

    return get_batch_samples


class MetricSums:
    """Sums per-pair metrics on their device; nothing waits for it until `averages`.

    NaN stands for a value that a pair does not have, and counts for nothing.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add metrics of B pairs, each [B]."""
        for name, values in metrics.items():
            known = ~values.isnan()
            total = torch.stack((values.detach().double().nansum(), known.sum().double()))
            self._sums[name] = self._sums[name] + total if name in self._sums else total

    def averages(self, add_up: Callable[[Tensor], Tensor] | None = None) -> dict[str, float]:
        """Averages of known values since the last call; `add_up` sums over processes."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        totals = torch.stack([self._sums[name] for name in names])
        if add_up is not None:
            totals = add_up(totals)
        self._sums = {}
        pairs = zip(names, totals.tolist(), strict=True)
        return {name: total / n for name, (total, n) in pairs if n}
