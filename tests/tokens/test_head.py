"""The head's formula against a value derived by hand."""

import math

import torch

from riskalign.tokens import Head


def test_logits_match_a_value_derived_by_hand() -> None:
    """h = (1, 2), W = ((1, 0), (0, 1), (1, 1)), b = (0, 1, 0): products (1, 3, 3).

    Scaled by 1/2 they are (0.5, 1.5, 1.5), and capped at 2: 2 tanh(0.25), 2 tanh(0.75) twice.
    """
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    head = Head(weight, torch.tensor([0.0, 1.0, 0.0]), scale=0.5, softcap=2.0)
    capped = [2 * math.tanh(0.25), 2 * math.tanh(0.75), 2 * math.tanh(0.75)]
    torch.testing.assert_close(
        head.logits(torch.tensor([[1.0, 2.0]])), torch.tensor([capped]), rtol=1e-6, atol=0
    )
    plain = Head(weight).logits(torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(plain, torch.tensor([1.0, 2.0, 3.0]))
