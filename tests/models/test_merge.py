"""Averaged weights: ends, middle, extrapolation, tied weights, adapters by effective weights."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel

from riskalign.errors import InputError
from riskalign.models import fingerprint
from riskalign.models.merge import merge, plain_copy
from tests import tiny


def _lora(seed: int) -> Any:
    adapted = get_peft_model(tiny.make_model(), LoraConfig(r=2, target_modules="all-linear"))
    torch.manual_seed(seed)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return adapted


def test_ends_are_exact_and_inputs_stay_as_they_were() -> None:
    one, two = tiny.make_model(seed=1), tiny.make_model(seed=2)
    names = fingerprint(one), fingerprint(two)
    assert fingerprint(merge(one, two, 0.0)) == names[0]
    assert fingerprint(merge(one, two, 1.0)) == names[1]
    assert fingerprint(merge(one, one, 0.5)) == names[0]
    assert (fingerprint(one), fingerprint(two)) == names


@pytest.mark.parametrize("w", [0.25, 1.5, -0.5])
def test_average_by_hand(w: float) -> None:
    one, two = tiny.make_model(seed=1), tiny.make_model(seed=2)
    merged = dict(merge(one, two, w).named_parameters())
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(merged[name], a + w * (b - a), rtol=1e-5, atol=1e-6)


def test_tied_head_is_averaged_once() -> None:
    one, two = (tiny.make_model(seed=seed, tie_word_embeddings=True) for seed in (1, 2))
    merged: Any = merge(one, two, 0.5)
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    torch.testing.assert_close(
        merged.lm_head.weight,
        (one.lm_head.weight + two.lm_head.weight) / 2,
    )


def test_bfloat16_is_averaged_in_float32() -> None:
    one, two = (tiny.make_model(seed=seed, dtype=torch.bfloat16) for seed in (1, 2))
    merged = dict(merge(one, two, 0.3).named_parameters())
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert merged[name].dtype == torch.bfloat16
        assert merged[name].equal((0.7 * a.float() + 0.3 * b.float()).bfloat16())


def test_adapters_count_by_their_effective_weights() -> None:
    one, two = _lora(1), _lora(2)
    merged = merge(one, two, 0.5)
    assert isinstance(merged, PreTrainedModel)
    assert not any("lora" in name for name in merged.state_dict())
    states = [plain_copy(model).state_dict() for model in (one, two)]
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(weight, (states[0][name] + states[1][name]) / 2)
    # Averaging the factors A and B apart would give another model: mean(BA) != mean(B) mean(A).
    name = "model.layers.0.mlp.up_proj"
    base = tiny.make_model().state_dict()[f"{name}.weight"]
    factors = [
        torch.stack([_factor(model, name, part) for model in (one, two)]).mean(dim=0)
        for part in ("lora_B", "lora_A")
    ]
    scaling = 8 / 2  # lora_alpha / r
    wrong = base + scaling * factors[0] @ factors[1]
    assert (merged.state_dict()[f"{name}.weight"] - wrong).abs().max() > 0.01
    # An adapter and a plain model mix as well.
    assert fingerprint(merge(one, tiny.make_model(), 1.0)) == fingerprint(tiny.make_model())


def _factor(model: Any, name: str, part: str) -> torch.Tensor:
    weight: torch.Tensor = model.get_parameter(f"base_model.model.{name}.{part}.default.weight")
    return weight.detach()


def test_models_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="differ in architecture or size"):
        merge(tiny.make_model(), tiny.make_model(hidden_size=64), 0.5)
    with pytest.raises(InputError, match="differ in architecture or size"):
        merge(tiny.make_model(), tiny.make_model("gpt2"), 0.5)
    with pytest.raises(InputError, match="w: nan"):
        merge(tiny.make_model(), tiny.make_model(), float("nan"))


def test_sums_that_are_not_finite_are_refused() -> None:
    """Finite weights of bfloat16's or float32's size can leave float16's range."""
    one, two = (tiny.make_model(seed=seed, dtype=torch.float16) for seed in (0, 1))
    with torch.no_grad():
        two.get_parameter("model.norm.weight").fill_(6e4)
    merge(one, two, 1.0)
    with pytest.raises(InputError, match=r"merge at w = 2: its weight 'model\.norm\.weight' holds"):
        merge(one, two, 2.0)
    for w in (1e30, -101.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"^w: \S+ is not in \[-100, 100\]"):
            merge(one, two, w)
