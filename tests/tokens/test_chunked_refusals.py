"""What the chunked statistics refuse: second derivatives and inputs that do not fit."""

from typing import Any

import pytest
import torch

from riskalign.risk import get_risk
from riskalign.tokens import Head, token_stats
from tests.tokens.test_chunked import leaves, make_case


def test_a_second_derivative_is_refused() -> None:
    case = make_case()
    (hidden, *_) = leaves(case)
    weights = torch.ones(len(case.labels), dtype=torch.float64, requires_grad=True)
    stats = token_stats(*case, get_risk("mean"))
    (grad,) = torch.autograd.grad((weights * stats.risk).sum(), hidden, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": torch.zeros(3, dtype=torch.long)}, "policy: hidden states"),
        ({"labels": torch.zeros(11, 1, dtype=torch.long)}, "policy: hidden states"),
        ({"hidden_ref": torch.zeros(11, 9)}, "reference: hidden states"),
        ({"head_ref": Head(torch.zeros(41, 8))}, "differ in vocabulary: 40 and 41"),
        ({"labels": torch.full((11,), 40)}, r"labels must lie in \[0, 40\)"),
        ({"labels": torch.zeros(11, dtype=torch.int32)}, "labels must be int64"),
        ({"labels": torch.full((11,), -100)}, r"labels must lie in \[0, 40\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    case = make_case()._replace(**change)
    with pytest.raises(ValueError, match=words):
        token_stats(*case, get_risk("mean"))


def test_a_chunk_size_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk_size must be at least 1, not 0"):
        token_stats(*make_case(), get_risk("mean"), chunk_size=0)
