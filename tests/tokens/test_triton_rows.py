"""The Triton kernels against the plain tile: on a GPU where there is one, else interpreted."""

import importlib.util
from typing import Any

import pytest
import torch

from riskalign.risk import Risk, get_risk
from riskalign.tokens import Head
from riskalign.tokens.head import Comparison
from riskalign.tokens.tile import plain_tile

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


@pytest.fixture
def rows_class() -> Any:
    return importlib.import_module("riskalign.tokens.triton_rows").TritonRows


def exactly(head: Head, risk: Risk) -> Comparison:
    return Comparison(head, head, risk, torch.float64, torch.float64)


def compare(
    rows_class: Any, products: torch.Tensor, ref: torch.Tensor, head: Head, spec: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    n, vocabulary = products.shape
    labels = torch.randint(vocabulary, (n,), generator=generator)
    by_logp, by_risk = torch.randn(2, n, generator=generator)
    risk = get_risk(spec)
    exact = plain_tile(exactly(head, risk), products.double(), ref.double(), labels)
    on_device = Head(
        head.weight, None if head.bias is None else head.bias.to(DEVICE), head.scale, head.softcap
    )
    compared = exactly(on_device, risk)
    rows = rows_class(compared, products.to(DEVICE).clone(), ref.to(DEVICE), labels.to(DEVICE))
    scale = exact.stats.abs().clamp_min(1.0)
    assert float(((rows.statistics().cpu() - exact.stats) / scale).abs().max()) < 1e-5
    weights = by_logp.to(DEVICE), by_risk.to(DEVICE)
    grad = rows.gradient(*weights, True)
    assert grad.dtype == products.dtype
    tolerance = {torch.float32: 0.0, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
    torch.testing.assert_close(
        grad.cpu().double(),
        exact.gradient(by_logp.double(), by_risk.double(), True),
        rtol=tolerance[products.dtype],
        atol=2e-5,
    )
    torch.testing.assert_close(rows.gradient(*weights, False), grad, rtol=0, atol=0)


@pytest.mark.parametrize("spec", ["mean", "cvar:0.0", "cvar:0.5", "cvar:0.99", "erm:0.7"])
@pytest.mark.parametrize("vocabulary", [1, 2, 1023, 1024, 2600])
def test_rows_equal_the_plain_tile(rows_class: Any, spec: str, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    spread = torch.tensor([[0.0], [1.0], [30.0]])  # a row each
    products = spread * torch.randn(3, vocabulary, generator=generator)
    ref = products + 0.3 * torch.randn(3, vocabulary, generator=generator)
    compare(rows_class, products, ref, Head(torch.zeros(vocabulary, 1)), spec)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("spec", ["mean", "cvar:0.8"])
def test_head_with_bias_scale_and_cap(rows_class: Any, kind: torch.dtype, spec: str) -> None:
    generator = torch.Generator().manual_seed(0)
    products, ref = (torch.randn(4, 100, generator=generator).to(kind) for _ in range(2))
    bias = torch.randn(100, generator=generator)
    compare(rows_class, products, ref, Head(torch.zeros(100, 1), bias, 1.7, 2.5), spec)


@pytest.mark.parametrize("spec", ["mean", "cvar:0.8", "erm:0.7"])
def test_forbidden_entries_count_for_nothing(rows_class: Any, spec: str) -> None:
    generator = torch.Generator().manual_seed(0)
    products, ref = torch.randn(2, 3, 50, generator=generator)
    bias = torch.zeros(50)
    bias[7:] = -torch.inf
    labels = torch.tensor([0, 1, 6])
    risk, head = get_risk(spec), Head(torch.zeros(50, 1), bias)
    exact = plain_tile(exactly(head, risk), products.double(), ref.double(), labels)
    tensors = (tensor.to(DEVICE) for tensor in (products, ref))
    moved = Head(head.weight, bias.to(DEVICE))
    rows = rows_class(exactly(moved, risk), *tensors, labels.to(DEVICE))
    torch.testing.assert_close(rows.statistics().cpu().double(), exact.stats, rtol=1e-5, atol=1e-5)
    one = torch.ones(3)
    torch.testing.assert_close(
        rows.gradient(one.to(DEVICE), one.to(DEVICE), True).cpu().double(),
        exact.gradient(one.double(), one.double(), True),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("which", ["policy", "reference"])
def test_nan_stays_nan(rows_class: Any, which: str) -> None:
    products, ref = torch.randn(2, 2, 50)
    (products if which == "policy" else ref)[0, 3] = torch.nan
    head, labels = Head(torch.zeros(50, 1)), torch.tensor([0, 1])
    tensors = (tensor.to(DEVICE) for tensor in (products, ref))
    rows = rows_class(exactly(head, get_risk("cvar:0.9")), *tensors, labels.to(DEVICE))
    stats = rows.statistics().cpu()
    assert bool(stats[2:4, 0].isnan().all())
    assert bool(stats[:, 1].isfinite().all())
