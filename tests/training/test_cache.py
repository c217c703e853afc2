"""Cached reference states are the computed ones, in whatever order pairs come back."""

from pathlib import Path

import pytest
import torch

from riskalign.data import RowCollator
from riskalign.training.reference import HiddenCache

PAIRS = [
    {
        "prompt_ids": [1],
        "chosen_ids": [10 * i] * i,
        "rejected_ids": [10 * i + 1] * 2,
        "gap": 0.0,
        "index": i,
    }
    for i in (1, 2, 3, 4)
]


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_known_pairs_come_from_the_cache(where: str, kind: torch.dtype, tmp_path: Path) -> None:
    cache = HiddenCache(tmp_path / "new" if where == "disk" else None)
    collate = RowCollator(0)
    computed = []

    def get(*which: int) -> torch.Tensor:
        batch = collate([PAIRS[i - 1] for i in which])
        # A state that tells which token it belongs to.
        states = batch["target_ids"][:, None].expand(-1, 3).to(kind)

        def compute() -> torch.Tensor:
            computed.append(which)
            return states

        found = cache.get(batch, compute)
        torch.testing.assert_close(found, states, rtol=0, atol=0)
        return found

    get(1, 2)
    get(3, 1)
    get(3, 2)
    get(2, 1, 3)
    assert computed == [(1, 2), (3, 1)]
    get(4, 1)
    assert computed[-1] == (4, 1)
