"""Which rows go together, a group's loss from its pairs', and averages over rows."""

import itertools

import pytest
import torch

from riskalign.data import RowCollator
from riskalign.errors import InputError
from riskalign.losses import LOSSES, LossOutput, SequenceStats, pair_loss
from riskalign.tokens import Group, Head
from riskalign.tokens import stats as grouped
from riskalign.training.rows import MetricSums, mean_by_row, row_groups, rows_of

ROWS = [
    {"prompt_ids": [1], "chosen_ids": [2], "rejected_ids": [3, 4], "gap": 1.5},
    {"prompt_ids": [1], "completions_ids": [[5, 6], [7], [8]], "scores": [0.0, 3.0, 1.0]},
    {"prompt_ids": [1], "chosen_ids": [9], "rejected_ids": [9], "gap": 0.5},
]
BATCH = RowCollator(0)(ROWS)
HEAD = Head(torch.zeros(10, 1))


def test_a_batch_of_pairs_and_a_group_by_hand() -> None:
    assert BATCH["row"].tolist() == [0, 0, 1, 1, 1, 2, 2]
    assert BATCH["sequence"].tolist() == [0, 1, 1, 2, 2, 3, 4, 5, 6]
    # The group's scores are in the order 3, 1, 0: its pairs are (3, 1), (3, 0), (1, 0).
    assert BATCH["pairs"].T.tolist() == [[0, 1], [3, 4], [3, 2], [4, 2], [5, 6]]
    assert BATCH["gap"].tolist() == [1.5, 2.0, 3.0, 1.0, 0.5]


def test_rows_fill_the_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "_WORKSPACE_ELEMENTS", {"cpu": 70, "other": 70})
    found = row_groups(BATCH, HEAD)
    assert found is not None
    assert [group.rows for group in found] == [slice(0, 2), slice(2, 3)]
    assert [group.tokens.tolist() for group in found] == [[0, 1, 2, 3, 4, 5, 6], [7, 8]]
    first, second = (rows_of(BATCH, group) for group in found)
    assert first.sequence.tolist() == [0, 1, 1, 2, 2, 3, 4]
    assert (first.n, first.n_responses, second.n, second.n_responses) == (2, 5, 1, 2)
    assert first.pair_row.tolist() == [0, 1, 1, 1]
    assert second.sequence.tolist() == [0, 1]
    assert second.pairs.tolist() == [[0], [1]]
    assert second.pair_row.tolist() == [0]
    assert second.gap.tolist() == [0.5]


def test_all_rows_are_one_group_of_all() -> None:
    everything = rows_of(BATCH, Group(slice(0, 3), torch.arange(9)))
    for own, other in zip(everything, rows_of(BATCH), strict=True):
        assert torch.equal(torch.as_tensor(own), torch.as_tensor(other))


def test_a_row_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "_WORKSPACE_ELEMENTS", {"cpu": 30, "other": 30})
    assert row_groups(BATCH, HEAD) is None


def group(k: int, seed: int) -> tuple[SequenceStats, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(7, k, generator=generator, dtype=torch.float64)
    stats = SequenceStats(*values[:6].requires_grad_())
    return stats, values[6].detach()


def of_group(stats: SequenceStats, scores: torch.Tensor, name: str, target: str) -> LossOutput:
    row = {
        "prompt_ids": [1],
        "completions_ids": [[i] for i in range(len(scores))],
        "scores": scores.tolist(),
    }
    rows = rows_of(RowCollator(0, ties=target != "hard")([row]))
    found = pair_loss(
        name,
        *(SequenceStats(*(values[of] for values in stats)) for of in rows.pairs),
        beta=0.3,
        target=target,
        gap=None if target == "hard" else rows.gap.double(),
    )
    return mean_by_row(found, rows)


@pytest.mark.parametrize("k", [2, 3, 8])
@pytest.mark.parametrize("name", ["dpo", "rsa1"])
def test_a_groups_gap_loss_is_the_variance_of_what_is_left(k: int, name: str) -> None:
    """The closed form of docs/method.md, section 8, values and gradients.

    With k = 2 it is the pair's `(m - gap)^2`.
    """
    stats, scores = group(k, k)
    scores = scores.float().double()  # as the collator keeps them
    loss = of_group(stats, scores, name, "gap").loss
    margins = 0.3 * (stats.logp_policy - stats.logp_ref + (stats.risk if name == "rsa1" else 0))
    rest = margins - scores
    expected = 2 * k / (k - 1) * (rest - rest.mean()).square().mean()
    torch.testing.assert_close(loss[0], expected, rtol=1e-6, atol=1e-6)
    own, other = (
        torch.autograd.grad(value, [stats.logp_policy, stats.risk], materialize_grads=True)
        for value in (loss[0], expected)
    )
    torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("target", ["hard", "soft", "gap"])
def test_every_loss_of_a_group_is_the_mean_over_its_pairs(name: str, target: str) -> None:
    stats, scores = group(4, 1)
    stats = stats._replace(kl=stats.risk)  # TDPO is defined by the mean alone
    found = of_group(stats, scores, name, target)
    each = []
    for i, j in itertools.combinations(range(4), 2):
        better, worse = (i, j) if scores[i] > scores[j] else (j, i)
        gap = (scores[better] - scores[worse]).float().double().reshape(1)
        one = pair_loss(
            name,
            SequenceStats(*(v[better : better + 1] for v in stats)),
            SequenceStats(*(v[worse : worse + 1] for v in stats)),
            beta=0.3,
            target=target,
            gap=None if target == "hard" else gap,
        )
        each.append(one)
    torch.testing.assert_close(found.loss[0], torch.cat([o.loss for o in each]).mean())
    for metric, values in found.metrics.items():
        expected = torch.cat([one.metrics[metric] for one in each]).mean()
        torch.testing.assert_close(values[0], expected)


def test_answers_of_one_score_are_no_pair_of_an_order() -> None:
    row = {"prompt_ids": [1], "completions_ids": [[1], [2], [3]], "scores": [1.0, 0.0, 1.0]}
    assert RowCollator(0, ties=False)([row])["pairs"].T.tolist() == [[0, 1], [2, 1]]
    assert RowCollator(0)([row])["gap"].tolist() == [0.0, 1.0, 1.0]


def test_an_unknown_loss_is_refused() -> None:
    stats, scores = group(3, 0)
    with pytest.raises(InputError, match="not known"):
        of_group(stats, scores, "dpo3", "hard")


def test_averages_weigh_pairs_and_start_again() -> None:
    sums = MetricSums()
    sums.add({"a": torch.tensor([1.0, 2.0, 3.0]), "b": torch.tensor([0.0, 0.0, 3.0])})
    sums.add({"a": torch.tensor([6.0]), "b": torch.tensor([1.0])})
    assert sums.averages() == {"a": 3.0, "b": 1.0}
    assert sums.averages() == {}
    sums.add({"a": torch.tensor([5.0]), "b": torch.tensor([2.0])})
    assert sums.averages(lambda totals: totals * 2) == {"a": 5.0, "b": 2.0}
