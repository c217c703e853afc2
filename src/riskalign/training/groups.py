"""Which pairs of a batch have their losses taken together.

Shapes: B pairs, N response tokens, chosen ones of all pairs first, then rejected ones.
"""

import torch
from torch import Tensor

from riskalign.tokens import Group, Head, fits


def pair_groups(sequence: Tensor, n_pairs: int, head: Head) -> list[Group] | None:
    """The batch's pairs in as few groups as the workspace allows; None where one is too long.

    `sequence` [N]: each response token's sequence, in [0, B) for chosen and [B, 2B) for rejected.
    """
    pair = sequence % n_pairs
    lengths = torch.bincount(pair, minlength=n_pairs).tolist()
    if not all(fits(length, head) for length in lengths):
        return None
    groups, first = [], 0
    for last in range(1, n_pairs + 1):
        if last == n_pairs or not fits(sum(lengths[first : last + 1]), head):
            inside = (pair >= first) & (pair < last)
            groups.append(Group(slice(first, last), inside.nonzero().squeeze(-1)))
            first = last
    return groups


def sequence_in_group(group: Group, sequence: Tensor, n_pairs: int) -> tuple[Tensor, int]:
    """`sequence` of a group's tokens as if its pairs were all there are, and their number."""
    n = group.pairs.stop - group.pairs.start
    of = sequence[group.tokens]
    return of % n_pairs - group.pairs.start + of.div(n_pairs, rounding_mode="floor") * n, 2 * n
