"""Which pairs go together, and that their sequences are numbered anew."""

import pytest
import torch

from riskalign.tokens import Head, grouped
from riskalign.training.groups import pair_groups, sequence_in_group

# Pairs 0, 1, 2 with 1 + 2, 2 + 1 and 1 + 1 tokens: chosen ones first.
SEQUENCE = torch.tensor([0, 1, 1, 2, 3, 3, 4, 5])


def test_pairs_fill_the_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    head = Head(torch.zeros(10, 1))
    monkeypatch.setattr(grouped, "_WORKSPACE_ELEMENTS", {"cpu": 60, "other": 60})
    found = pair_groups(SEQUENCE, 3, head)
    assert found is not None
    assert [group.pairs for group in found] == [slice(0, 2), slice(2, 3)]
    assert [group.tokens.tolist() for group in found] == [[0, 1, 2, 4, 5, 6], [3, 7]]
    for group, expected in zip(found, ([0, 1, 1, 2, 2, 3], [0, 1]), strict=True):
        own, n = sequence_in_group(group, SEQUENCE, 3)
        assert own.tolist() == expected
        assert n == 2 * (group.pairs.stop - group.pairs.start)


def test_a_pair_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "_WORKSPACE_ELEMENTS", {"cpu": 20, "other": 20})
    assert pair_groups(SEQUENCE, 3, Head(torch.zeros(10, 1))) is None
