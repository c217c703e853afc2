"""Scalar models: where they read, and that a saved one is the same."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from riskalign.errors import InputError
from riskalign.models import fingerprint
from riskalign.scorers.scalar import (
    Sample,
    ScalarModel,
    collate,
    load_scalar_model,
    save_scalar_model,
    scalar_model,
)
from riskalign.tokens import backbone_of
from tests import tiny

SAMPLES = [Sample([5, 6, 7], [9, 1]), Sample([5, 6, 7], [10, 11, 12])]
BATCH = collate(SAMPLES, 2, True, torch.device("cpu"))
LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def _disturb(model: nn.Module) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))


@torch.no_grad()
def _scores(model: ScalarModel) -> torch.Tensor:
    return model.scores(BATCH)


def test_scores_are_at_the_last_token_and_values_before_each() -> None:
    causal = tiny.make_model()
    scalar = scalar_model(causal, seed=1)
    with torch.no_grad():
        states = [
            backbone_of(causal)(input_ids=torch.tensor([[*p, *r]])).last_hidden_state[0]
            for p, r in SAMPLES
        ]
        torch.testing.assert_close(
            scalar.scores(BATCH), torch.cat([scalar.head(own[-1]) for own in states])
        )
        torch.testing.assert_close(
            scalar.values(BATCH),
            torch.cat([scalar.head(own[2:-1]).squeeze(-1) for own in states]),
        )


def test_the_causal_model_stays_as_it_is() -> None:
    causal = tiny.make_model()
    before = fingerprint(causal)
    scalar = scalar_model(causal)
    _disturb(scalar)
    assert fingerprint(causal) == before


def test_heads_depend_on_the_seed_alone_and_may_be_zero() -> None:
    causal = tiny.make_model()
    first, again, other = (scalar_model(causal, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert _scores(scalar_model(causal, head_std=0.0)).tolist() == [0.0, 0.0]
    with pytest.raises(InputError, match="head_std"):
        scalar_model(causal, head_std=-1.0)


def test_a_saved_model_is_bit_equal(tmp_path: Path) -> None:
    scalar = scalar_model(tiny.make_model(), seed=1)
    _disturb(scalar)
    save_scalar_model(scalar, tmp_path / "scorer", tiny.make_tokenizer())
    loaded = load_scalar_model(tmp_path / "scorer")
    assert fingerprint(loaded) == fingerprint(scalar)
    # Weights are equal bit for bit; what a product of them rounds to may depend on where they lie.
    torch.testing.assert_close(_scores(loaded), _scores(scalar), rtol=1e-6, atol=1e-7)
    assert (tmp_path / "scorer" / "tokenizer.json").is_file()
    assert not list(tmp_path.rglob("*.bin"))
    assert [path.name for path in tmp_path.iterdir()] == ["scorer"]  # no temporary is left


def test_an_adapter_trains_alone_and_is_merged_when_saved(tmp_path: Path) -> None:
    plain = scalar_model(tiny.make_model(), seed=1)
    scalar = scalar_model(tiny.make_model(), seed=1, peft_config=LORA)
    assert LORA.task_type == "CAUSAL_LM"  # the caller's object stays as it is
    torch.testing.assert_close(_scores(scalar), _scores(plain), rtol=0, atol=0)
    trained = {name for name, weight in scalar.named_parameters() if weight.requires_grad}
    assert all("lora" in name or name == "head.weight" for name in trained)
    _disturb(scalar)
    save_scalar_model(scalar, tmp_path / "scorer")
    torch.testing.assert_close(_scores(load_scalar_model(tmp_path / "scorer")), _scores(scalar))
    with pytest.raises(InputError, match="merge_adapter"):
        scalar.add_adapter(LORA)
    scalar.merge_adapter()
    merged = fingerprint(scalar)
    assert merged == fingerprint(load_scalar_model(tmp_path / "scorer"))
    assert all(weight.requires_grad for weight in scalar.parameters())


def test_a_policy_with_an_adapter_is_copied_merged() -> None:
    policy = get_peft_model(tiny.make_model(), LORA)
    _disturb(policy)
    scalar = scalar_model(policy, seed=1)
    assert not any("lora" in name for name, _ in scalar.named_parameters())
    with torch.no_grad():
        ids = torch.tensor([[5, 6, 7, 9, 1]])
        state = backbone_of(policy)(input_ids=ids).last_hidden_state[0, -1]
    torch.testing.assert_close(_scores(scalar)[:1], scalar.head(state).detach())


def test_a_folder_without_a_scalar_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scalar model here"):
        load_scalar_model(tmp_path)
    save_scalar_model(scalar_model(tiny.make_model()), tmp_path / "scorer")
    (tmp_path / "scorer" / "head.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_scalar_model(tmp_path / "scorer")
