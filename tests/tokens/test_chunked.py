"""The chunked statistics against the plain ones: values, gradients, memory, precision."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from riskalign.risk import get_risk
from riskalign.tokens import Head, TokenStats, token_stats, token_stats_naive

RISKS = ("mean", "cvar:0.5", "cvar:0.95", "erm:0.7", "paper_code:0.9", "paper_code_halves:0.9")


class LargestTensor(TorchDispatchMode):
    """Remembers the largest number of elements that any operation returned."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return result


class Products(TorchDispatchMode):
    """Remembers the precision of every matrix product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        products = torch.ops.aten.mm.default, torch.ops.aten.mm.out, torch.ops.aten.addmm_.default
        if func in products:
            self.dtypes.append(args[1].dtype)
        return func(*args, **(kwargs or {}))


class Case(NamedTuple):
    """Inputs of `token_stats` with N tokens, V entries and the two models' widths H."""

    hidden: Tensor
    head: Head
    hidden_ref: Tensor
    head_ref: Head
    labels: Tensor


def make_case(
    *,
    tokens: int = 11,
    vocabulary: int = 40,
    width: int = 8,
    width_ref: int = 8,
    bias: bool = True,
    scale: float = 1.0,
    softcap: float | None = None,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Case:
    """Random hidden states and heads; the reference's differ from the policy's."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    head = Head(normal(vocabulary, width), normal(vocabulary) if bias else None, scale, softcap)
    head_ref = Head(
        normal(vocabulary, width_ref), normal(vocabulary) if bias else None, 1.1 * scale, softcap
    )
    labels = torch.randint(vocabulary, (tokens,), generator=generator)
    return Case(normal(tokens, width), head, normal(tokens, width_ref), head_ref, labels)


def leaves(case: Case, *, frozen_head: bool = False) -> list[Tensor]:
    """The policy's differentiable inputs, made leaves."""
    found = [case.hidden] if frozen_head else [case.hidden, case.head.weight, case.head.bias]
    return [tensor.requires_grad_() for tensor in found if tensor is not None]


def outputs_and_gradients(
    function: Callable[..., TokenStats],
    case: Case,
    spec: str,
    chunk_size: int | None,
    frozen_head: bool = False,
) -> tuple[TokenStats, tuple[Tensor, ...]]:
    """The statistics and the gradients of a random combination of the differentiable ones."""
    inputs = leaves(case, frozen_head=frozen_head)
    stats = function(*case, get_risk(spec), chunk_size=chunk_size)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(2, len(case.labels), generator=generator, dtype=torch.float64)
    first, second = weights.to(stats.risk.dtype)
    total = (first * stats.logp_policy + second * stats.risk).sum()
    return stats, torch.autograd.grad(total, inputs)


def assert_same(
    case: Case, spec: str, chunk_size: int | None, tolerance: float, frozen_head: bool = False
) -> None:
    chunked, chunked_grads = outputs_and_gradients(token_stats, case, spec, chunk_size, frozen_head)
    naive, naive_grads = outputs_and_gradients(token_stats_naive, case, spec, None, frozen_head)
    for name, actual, expected in zip(TokenStats._fields, chunked, naive, strict=True):
        difference = (actual - expected).detach().abs().max()
        limit = tolerance * float(expected.detach().abs().max().clamp_min(1.0))
        assert difference <= limit, f"{name} is off by {float(difference):g}"
    for actual, expected in zip(chunked_grads, naive_grads, strict=True):
        assert actual.dtype == expected.dtype
        scale = float(expected.abs().max().clamp_min(1.0))
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("spec", RISKS)
@pytest.mark.parametrize("chunk_size", [1, 4, 11, 64, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_chunked_equals_naive(
    spec: str, chunk_size: int | None, dtype: torch.dtype, tolerance: float
) -> None:
    assert_same(make_case(dtype=dtype), spec, chunk_size, tolerance)


@pytest.mark.parametrize("spec", RISKS)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_chunked_equals_naive_under_a_frozen_head(
    spec: str, softcap: float | None, dtype: torch.dtype, tolerance: float
) -> None:
    case = make_case(scale=0.7, softcap=softcap, dtype=dtype)
    assert_same(case, spec, 4, tolerance, frozen_head=True)


@pytest.mark.parametrize(("frozen_head", "products"), [(True, 4), (False, 6)])
def test_logits_are_computed_twice_only_where_the_head_is_trained(
    frozen_head: bool, products: int
) -> None:
    """One chunk: the two models' logits, and two gradients; twice the logits if trained."""
    case = make_case()
    with Products() as watch:
        outputs_and_gradients(token_stats, case, "cvar:0.9", None, frozen_head)
    assert len(watch.dtypes) == products


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.0625, 3.0])
@pytest.mark.parametrize("softcap", [None, 2.0, 30.0])
@pytest.mark.parametrize("spec", ["cvar:0.8", "erm:0.7"])
def test_chunked_equals_naive_for_every_kind_of_head(
    bias: bool, scale: float, softcap: float | None, spec: str
) -> None:
    assert_same(make_case(bias=bias, scale=scale, softcap=softcap), spec, 4, 1e-10)


@pytest.mark.parametrize(
    ("tokens", "vocabulary", "width", "width_ref"),
    [(1, 1, 1, 1), (1, 300, 5, 5), (70, 2, 3, 3), (33, 1000, 16, 4), (5, 17, 4, 32)],
)
@pytest.mark.parametrize("spec", ["mean", "cvar:0.9"])
def test_chunked_equals_naive_for_every_size(
    tokens: int, vocabulary: int, width: int, width_ref: int, spec: str
) -> None:
    case = make_case(tokens=tokens, vocabulary=vocabulary, width=width, width_ref=width_ref)
    assert_same(case, spec, 16, 1e-10)


def test_values_match_those_derived_by_hand() -> None:
    """One token, logits (0, 0) for the policy and (log 3, 0) for the reference, label 0.

    The policy is (1/2, 1/2), the reference (3/4, 1/4), so logp_policy = log 1/2, logp_ref =
    log 3/4, entropy = log 2, kl = 3/4 log(3/2) + 1/4 log(1/2). The larger loss is log(3/2), on
    mass 3/4; CVaR at 1/4 is exactly that loss.
    """
    log3, log2 = torch.tensor([3.0, 2.0], dtype=torch.float64).log()
    head = Head(torch.eye(2, dtype=torch.float64))
    stats = token_stats(
        torch.zeros(1, 2, dtype=torch.float64),
        head,
        torch.stack([log3, torch.zeros_like(log3)]).unsqueeze(0),
        head,
        torch.tensor([0]),
        get_risk("cvar:0.25"),
    )
    expected = [-log2, log3 - 2 * log2, 0.75 * (log3 - log2) - 0.25 * log2, log3 - log2, log2]
    torch.testing.assert_close(torch.cat(list(stats)), torch.stack(expected))


@pytest.mark.parametrize("spec", ["mean", "cvar:0.6", "erm:1.5"])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_gradcheck(spec: str, softcap: float | None) -> None:
    case = make_case(tokens=5, vocabulary=9, width=3, width_ref=3, scale=0.7, softcap=softcap)

    def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        head = replace(case.head, weight=weight, bias=bias)
        stats = token_stats(hidden, head, *case[2:], get_risk(spec), chunk_size=2)
        return stats.logp_policy, stats.risk

    assert torch.autograd.gradcheck(function, leaves(case))


def test_only_logp_policy_and_risk_carry_gradients() -> None:
    case = make_case()
    leaves(case)
    for function in (token_stats, token_stats_naive):
        stats = function(*case, get_risk("cvar:0.9"))
        assert [value.requires_grad for value in stats] == [True, False, False, True, False]


def test_one_output_alone_can_be_differentiated() -> None:
    case = make_case()
    inputs = leaves(case)
    for field in ("logp_policy", "risk"):
        grads = [
            torch.autograd.grad(getattr(f(*case, get_risk("cvar:0.9")), field).sum(), inputs)
            for f in (token_stats, token_stats_naive)
        ]
        torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("trained", [(True, False), (False, True), (False, False)])
def test_frozen_parts_get_no_gradient(trained: tuple[bool, bool]) -> None:
    case = make_case(bias=False)
    case.hidden.requires_grad_(trained[0])
    case.head.weight.requires_grad_(trained[1])
    stats = token_stats(*case, get_risk("mean"), chunk_size=4)
    if not any(trained):
        assert not stats.risk.requires_grad
        return
    stats.risk.sum().backward()
    assert (case.hidden.grad is not None) == trained[0]
    assert (case.head.weight.grad is not None) == trained[1]


def test_the_reference_gets_no_gradient_even_where_it_shares_the_policys_head() -> None:
    """An adapter's reference has the policy's own head; its part of the gradient is left out."""
    case = make_case()
    shared = case._replace(head_ref=case.head)
    apart = case._replace(
        head_ref=replace(
            case.head,
            weight=case.head.weight.clone(),
            bias=None if case.head.bias is None else case.head.bias.clone(),
        )
    )
    hidden_ref = case.hidden_ref.requires_grad_()
    for function in (token_stats, token_stats_naive):
        grads = [outputs_and_gradients(function, one, "cvar:0.9", 4)[1] for one in (shared, apart)]
        torch.testing.assert_close(grads[0], grads[1])
    assert hidden_ref.grad is None


def test_a_tied_weight_adds_up_both_of_its_gradients() -> None:
    """The embedding that made the hidden states is also the head: both paths must count."""
    case = make_case(bias=False)
    weight = case.head.weight.requires_grad_()
    ids = torch.arange(len(case.labels))
    grads = []
    for function in (token_stats, token_stats_naive):
        hidden = torch.tanh(weight[ids])
        stats = function(hidden, Head(weight), *case[2:], get_risk("erm:0.5"), chunk_size=4)
        grads.append(torch.autograd.grad((stats.risk - stats.logp_policy).sum(), weight))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-10, atol=1e-10)


def test_a_policy_equal_to_its_reference_has_no_risk_and_no_risk_gradient() -> None:
    case = make_case()
    same = case._replace(hidden_ref=case.hidden.clone(), head_ref=case.head)
    inputs = leaves(same)
    for spec in ("mean", "cvar:0.0"):
        stats = token_stats(*same, get_risk(spec))
        assert bool((stats.risk == 0).all())
        assert bool((stats.kl == 0).all())
        torch.testing.assert_close(stats.logp_policy, stats.logp_ref)
        for grad in torch.autograd.grad(stats.risk.sum(), inputs):
            torch.testing.assert_close(grad, torch.zeros_like(grad))


def test_no_tokens_give_empty_statistics_and_zero_gradients() -> None:
    case = make_case(tokens=0)
    inputs = leaves(case)
    stats = token_stats(*case, get_risk("cvar:0.9"))
    assert all(value.shape == (0,) for value in stats)
    for tensor, grad in zip(
        inputs, torch.autograd.grad(stats.risk.sum() + stats.logp_policy.sum(), inputs), strict=True
    ):
        assert grad.shape == tensor.shape
        assert not bool(grad.any())


@pytest.mark.parametrize("spec", RISKS)
def test_forbidden_entries_count_for_nothing(spec: str) -> None:
    """A bias of -inf on both models forbids an entry; it must not turn anything into NaN."""
    case = make_case()
    assert case.head.bias is not None
    assert case.head_ref.bias is not None
    case.labels.fill_(0)
    case.head.bias[3] = case.head_ref.bias[3] = -torch.inf
    assert_same(case, spec, 4, 1e-10)
    if spec.startswith("paper"):
        return
    kept = [i for i in range(40) if i != 3]
    small = case._replace(
        head=replace(case.head, weight=case.head.weight[kept], bias=case.head.bias[kept]),
        head_ref=replace(
            case.head_ref, weight=case.head_ref.weight[kept], bias=case.head_ref.bias[kept]
        ),
    )
    with torch.no_grad():
        actual = token_stats(*case, get_risk(spec))
        expected = token_stats(*small, get_risk(spec))
    torch.testing.assert_close(actual, expected)


def test_probabilities_that_underflow_stay_finite() -> None:
    """Logits 500 apart underflow in float32; the label's log probability must not become -inf."""
    case = make_case(dtype=torch.float32)
    case = case._replace(head=replace(case.head, weight=case.head.weight * 60))
    stats, grads = outputs_and_gradients(token_stats, case, "cvar:0.9", 4)
    assert all(bool(value.isfinite().all()) for value in (*stats, *grads))
    assert float(stats.logp_policy.detach().min()) < -104


@pytest.mark.parametrize("spec", RISKS)
@pytest.mark.parametrize("frozen_head", [False, True])
def test_no_tensor_of_all_tokens_by_vocabulary_is_made_or_kept(
    spec: str, frozen_head: bool
) -> None:
    tokens, vocabulary, chunk_size = 48, 500, 8
    case = make_case(tokens=tokens, vocabulary=vocabulary)
    inputs = leaves(case, frozen_head=frozen_head)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with LargestTensor() as watch, torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        stats = token_stats(*case, get_risk(spec), chunk_size=chunk_size)
        torch.autograd.grad((stats.risk + stats.logp_policy).sum(), inputs)
    assert watch.largest <= max(chunk_size * vocabulary, vocabulary * 8)
    assert max(kept) <= max(2 * tokens * 8, vocabulary * 8)
    with LargestTensor() as watch:
        token_stats_naive(*case, get_risk(spec))
    assert watch.largest >= tokens * vocabulary


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_have_float32_statistics(kind: torch.dtype) -> None:
    case = make_case(dtype=kind, scale=0.5)
    stats, grads = outputs_and_gradients(token_stats, case, "cvar:0.9", 4)
    assert {value.dtype for value in stats} == {torch.float32}
    assert {grad.dtype for grad in grads} == {kind}
    exact = Case(
        case.hidden.detach().double(),
        replace(case.head, weight=case.head.weight.detach().double()),
        case.hidden_ref.double(),
        replace(case.head_ref, weight=case.head_ref.weight.double()),
        case.labels,
    )
    expected = token_stats(*exact, get_risk("cvar:0.9"))
    for value, wanted in zip(stats, expected, strict=True):
        torch.testing.assert_close(value.double(), wanted, rtol=0.02, atol=0.05)


def test_autocast_multiplies_in_bfloat16_and_accumulates_in_float32() -> None:
    case = make_case(tokens=64, dtype=torch.float32, scale=0.5)
    inputs = leaves(case)
    risk = get_risk("cvar:0.9")
    with torch.autocast("cpu", torch.bfloat16), Products() as watch:
        stats = token_stats(*case, risk, chunk_size=8)
        grads = torch.autograd.grad((stats.risk + stats.logp_policy).sum(), inputs)
    assert set(watch.dtypes) == {torch.bfloat16}
    assert {value.dtype for value in stats} == {torch.float32}
    assert {grad.dtype for grad in grads} == {torch.float32}
    exact = token_stats(*case, risk, chunk_size=8)
    exact_grads = torch.autograd.grad((exact.risk + exact.logp_policy).sum(), inputs)
    for value, wanted in zip(stats, exact, strict=True):
        torch.testing.assert_close(value, wanted, rtol=0.02, atol=0.05)
    for grad, wanted in zip(grads, exact_grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=0.05, atol=0.05 * float(wanted.abs().max()))
