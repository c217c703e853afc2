"""The compiled rows against the plain tile, and what happens where there is no compiler."""

import shutil
from pathlib import Path

import pytest
import torch

from riskalign.risk import get_risk
from riskalign.tokens import Head, native, token_stats
from riskalign.tokens.head import Comparison
from riskalign.tokens.tile import Tile, Tiles, plain_tile
from tests.tokens.test_chunked import make_case

needs_compiler = pytest.mark.skipif(native.library() is None, reason="no C compiler")
SPECS = ("mean", "cvar:0.0", "cvar:0.5", "cvar:0.99", "erm:0.01", "erm:2.0")


def tiles_of(
    products: torch.Tensor, ref: torch.Tensor, head: Head, labels: torch.Tensor, spec: str
) -> tuple[Tile, Tile]:
    """The compiled tile, and the plain one in float64 of the same numbers."""
    compared = Comparison(head, head, get_risk(spec), torch.float64, torch.float64)
    rows = native.Rows(compared, products.clone(), ref.clone(), labels)
    stats = rows.statistics()
    assert stats is not None
    exact = plain_tile(compared, products.double(), ref.double(), labels)
    return Tile(stats, rows.gradient), exact


@needs_compiler
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("vocabulary", [1, 2, 31, 32, 33, 511, 512, 513, 5000])
@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0])
def test_rows_equal_the_plain_tile(spec: str, vocabulary: int, spread: float) -> None:
    """Sizes around the vector's and the block's, flat, ordinary and almost one-hot rows."""
    generator = torch.Generator().manual_seed(vocabulary)
    products = spread * torch.randn(5, vocabulary, generator=generator)
    ref = products + 0.3 * torch.randn(5, vocabulary, generator=generator)
    labels = torch.randint(vocabulary, (5,), generator=generator)
    by_logp, by_risk = torch.randn(2, 5, generator=generator)
    rows, exact = tiles_of(products, ref, Head(torch.zeros(vocabulary, 1)), labels, spec)
    # ERM divides its rounding error by mu (entropic's docstring).
    slack = 1e-5 if spec != "erm:0.01" else 1e-4
    scale = exact.stats.abs().clamp_min(1.0)
    assert float(((rows.stats - exact.stats) / scale).abs().max()) < slack
    grad = rows.gradient(by_logp, by_risk, True)
    torch.testing.assert_close(
        grad.double(), exact.gradient(by_logp.double(), by_risk.double(), True), rtol=0, atol=2e-5
    )
    torch.testing.assert_close(rows.gradient(by_logp, by_risk, False), grad, rtol=0, atol=0)


@needs_compiler
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_head_with_bias_scale_and_cap(kind: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    products, ref = (torch.randn(7, 100, generator=generator).to(kind) for _ in range(2))
    bias = torch.randn(100, generator=generator)
    head = Head(torch.zeros(100, 1), bias, 1.7, 2.5)
    labels = torch.arange(7)
    rows, exact = tiles_of(products, ref, head, labels, "cvar:0.8")
    torch.testing.assert_close(rows.stats.double(), exact.stats, rtol=1e-5, atol=1e-5)
    by_logp, by_risk = torch.randn(2, 7, generator=generator)
    grad = rows.gradient(by_logp, by_risk, False)
    assert grad.dtype == kind
    tolerance = 1e-5 if kind == torch.float32 else 2.0**-8
    torch.testing.assert_close(
        grad.double(),
        exact.gradient(by_logp.double(), by_risk.double(), False),
        rtol=tolerance,
        atol=1e-5,
    )


@needs_compiler
@pytest.mark.parametrize("broken", [float("nan"), float("inf"), float("-inf")])
def test_extraordinary_logits_take_the_plain_path(broken: float) -> None:
    head = Head(torch.eye(3), torch.tensor([0.0, 1.0, broken]))
    compared = Comparison(head, head, get_risk("mean"), torch.float32, torch.float32)
    tiles = Tiles(compared, 2)
    hidden = torch.randn(2, 3)
    labels = torch.tensor([0, 1])
    rows = native.Rows(compared, hidden, hidden.clone(), labels)
    assert rows.statistics() is None
    stats = tiles(hidden, hidden, labels).stats
    if broken == float("-inf"):  # an entry forbidden in both models
        assert bool(stats.isfinite().all())


def test_without_a_compiler_the_values_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    case = make_case(dtype=torch.float32, vocabulary=700)
    first = token_stats(*case, get_risk("cvar:0.9"))
    native.library.cache_clear()
    try:
        monkeypatch.setenv("RISKALIGN_NATIVE", "0")
        assert native.library() is None
        torch.testing.assert_close(
            token_stats(*case, get_risk("cvar:0.9")), first, rtol=1e-5, atol=1e-5
        )
        native.library.cache_clear()
        monkeypatch.delenv("RISKALIGN_NATIVE")
        monkeypatch.setenv("CC", "/no/such/compiler")
        monkeypatch.setenv("RISKALIGN_CACHE", str(tmp_path))
        assert native.library() is None
        assert not list(tmp_path.rglob("*.so"))
    finally:
        native.library.cache_clear()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_compiled_once_into_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RISKALIGN_CACHE", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    native.library.cache_clear()
    try:
        assert native.library() is not None
        [made] = (tmp_path / "native").iterdir()
        written = made.stat().st_mtime_ns
        native.library.cache_clear()
        assert native.library() is not None
        assert made.stat().st_mtime_ns == written
        made.chmod(0o777)  # another user may have written it
        native.library.cache_clear()
        assert native.library() is not None
        assert made.stat().st_mtime_ns != written
        assert not made.stat().st_mode & 0o022
        made.parent.chmod(0o777)
        native.library.cache_clear()
        assert native.library() is None
    finally:
        native.library.cache_clear()


@needs_compiler
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_torchs_default_precision_does_not_matter(default: torch.dtype) -> None:
    case = make_case(dtype=torch.float32)
    expected = token_stats(*case, get_risk("cvar:0.9"))
    torch.set_default_dtype(default)
    try:
        found = token_stats(*case, get_risk("cvar:0.9"))
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
