"""The reference is the model as given, and its states are kept as they were."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from torch import Tensor, nn

from riskalign.data import PairCounts, RowCollator, Tokenized
from riskalign.errors import InputError
from riskalign.training.reference import HiddenCache, with_reference
from tests import tiny

IDS = torch.tensor([[0, 5, 9, 20, 7]])


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", **settings)


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(IDS).logits
    return found


def shake(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def test_full_fine_tuning_copies_the_weights_in_memory(tmp_path: Any) -> None:
    tiny.make_model().save_pretrained(tmp_path)
    model = type(tiny.make_model()).from_pretrained(tmp_path)
    on_disk = logits(model)
    shake(model)  # what is in memory is no longer what the name stands for
    in_memory = logits(model)
    policy, reference = with_reference(model, None, None)
    assert policy is model
    shake(policy)
    with reference.active(policy) as ref:
        torch.testing.assert_close(logits(ref), in_memory, rtol=0, atol=0)
        assert not torch.allclose(logits(ref), on_disk)
        assert not any(p.requires_grad for p in ref.parameters())
    assert not torch.allclose(logits(policy), in_memory)


def test_new_adapter_is_switched_off(tiny_model: Any) -> None:
    model = tiny_model()
    start = logits(model)
    policy, reference = with_reference(model, None, lora())
    assert isinstance(policy, PeftModel)
    assert reference.model is None  # no second copy of the weights
    shake(policy)
    with reference.active(policy) as ref:
        torch.testing.assert_close(logits(ref), start, rtol=0, atol=0)
    assert not torch.allclose(logits(policy), start)


@pytest.mark.parametrize("trained", [False, True])
def test_adapter_that_came_with_the_model_is_part_of_the_reference(
    tiny_model: Any, trained: bool
) -> None:
    model = get_peft_model(tiny_model(), lora())
    if trained:
        shake(model)
    start = logits(model)
    policy, reference = with_reference(model, None, None)
    assert (reference.model is None) == (not trained)
    shake(policy)
    with reference.active(policy) as ref:
        torch.testing.assert_close(logits(ref), start, rtol=0, atol=0)


def test_adapter_that_rewrites_the_base_is_copied_first(tiny_model: Any) -> None:
    model = tiny_model()
    start = logits(model)
    policy, reference = with_reference(model, None, lora(init_lora_weights="pissa"))
    with reference.active(policy) as ref:
        torch.testing.assert_close(logits(ref), start, rtol=0, atol=0)


@pytest.mark.parametrize("new", [True, False])
def test_biases_trained_beside_an_adapter_are_copied_first(tiny_model: Any, new: bool) -> None:
    model = tiny_model(attention_bias=True)
    start = logits(model)
    if new:
        policy, reference = with_reference(model, None, lora(bias="all"))
    else:
        policy, reference = with_reference(get_peft_model(model, lora(bias="all")), None, None)
    shake(policy)
    with reference.active(policy) as ref:
        torch.testing.assert_close(logits(ref), start, rtol=0, atol=0)


def test_given_reference_is_frozen(tiny_model: Any) -> None:
    given = tiny_model(seed=1).train()
    policy, reference = with_reference(tiny_model(), given, None)
    with reference.active(policy) as ref:
        assert ref is given
    assert not given.training
    assert not any(p.requires_grad for p in given.parameters())
    assert all(p.requires_grad for p in policy.parameters())


def test_what_cannot_be_a_reference_is_refused(tiny_model: Any) -> None:
    model = tiny_model()
    with pytest.raises(InputError, match="same object"):
        with_reference(model, model, None)
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(InputError, match="virtual tokens"):
        with_reference(model, None, prompts)
    with pytest.raises(InputError, match="already has an adapter"):
        with_reference(get_peft_model(model, lora()), None, lora())


def test_linear_layers_cast_once_have_the_values_of_autocast() -> None:
    model = tiny.make_model()
    _, reference = with_reference(model, None, None)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(ids).logits
        reference.cast_once(torch.bfloat16)
        assert reference.model is not None
        assert torch.equal(reference.model(ids).logits, expected)
    kinds = {name: p.dtype for name, p in reference.model.named_parameters()}
    assert kinds["model.layers.0.mlp.up_proj.weight"] == torch.bfloat16
    assert kinds["model.norm.weight"] == torch.float32
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    given = tiny.make_model(seed=1)
    _, reference = with_reference(model, given, None)
    reference.cast_once(torch.bfloat16)
    assert {p.dtype for p in given.parameters()} == {torch.float32}


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


def test_the_rows_of_every_set_have_an_index_of_their_own(
    make_trainer: Callable[..., Any],
) -> None:
    rows = make_trainer(n_pairs=8).train_dataset
    trainer = make_trainer(
        # Counts may be those of other rows, as where these are a part or a repetition.
        trainer={
            "train_dataset": Tokenized(rows, PairCounts(rows=9, kept=3)),
            "eval_dataset": {"a": rows, "b": tiny.make_pairs(4)},
        },
        cache_reference="memory",
    )
    sets = (trainer.train_dataset, trainer.eval_dataset["a"], trainer.eval_dataset["b"])
    assert sorted(i for each in sets for i in each["index"]) == [*range(8 + 8 + 4)]
