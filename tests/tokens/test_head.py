"""The head's formula by hand; `head_of` and `backbone_of` against the logits of every family."""

import math
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, TaskType, get_peft_model
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from riskalign.errors import InputError
from riskalign.tokens import Head, backbone_of, head_of
from riskalign.tokens.head import CAPPED, DIVIDED, LINEAR, MULTIPLIED
from tests.tiny import make_model

IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])

# What some families need to be tiny.
SETTINGS: dict[str, dict[str, Any]] = {
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
    },
    "gemma3n_text": {
        "head_dim": 8,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 304,
        "laurel_rank": 4,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.0, 0.0],
        "layer_types": ["full_attention"] * 2,
        "altup_num_inputs": 2,
    },
    "gemma4_text": {
        "head_dim": 8,
        "global_head_dim": 8,
        "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 304,
        "num_kv_shared_layers": 0,
        "layer_types": ["full_attention"] * 2,
    },
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"mamba_n_heads": 4, "layer_types": ["mamba", "attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3, "block_types": ["recurrent", "attention"]},
}


def logits_through_head(model: nn.Module) -> torch.Tensor:
    return head_of(model).logits(backbone_of(model)(input_ids=IDS).last_hidden_state)


@pytest.mark.parametrize("kind", sorted({*LINEAR, *MULTIPLIED, *DIVIDED, *CAPPED}))
def test_head_and_backbone_give_the_models_own_logits(kind: str) -> None:
    values = {name: 0.3 for name in (MULTIPLIED.get(kind), DIVIDED.get(kind)) if name}
    values |= {name: 2.0 for name in (CAPPED.get(kind),) if name}
    model = make_model(kind, **(SETTINGS.get(kind, {}) | values))
    with torch.no_grad():
        torch.testing.assert_close(logits_through_head(model), model(IDS).logits)


def test_the_head_holds_the_models_own_parameters_tied_or_not() -> None:
    tied = make_model("llama", tie_word_embeddings=True)
    assert head_of(tied).weight is tied.get_input_embeddings().weight
    untied = make_model("llama", tie_word_embeddings=False)
    assert head_of(untied).weight is not untied.get_input_embeddings().weight
    assert head_of(untied).weight is untied.get_output_embeddings().weight


def test_a_lora_adapter_is_followed_on_and_off() -> None:
    config = LoraConfig(target_modules="all-linear", init_lora_weights=False)
    start = make_model("llama")
    plain = start(IDS).logits.detach()
    model = get_peft_model(start, config)
    with torch.no_grad():
        adapted = logits_through_head(model)
        torch.testing.assert_close(adapted, model(IDS).logits)
        assert not torch.allclose(adapted, plain)
        with model.disable_adapter():
            torch.testing.assert_close(logits_through_head(model), plain)


def test_a_head_saved_beside_an_adapter_is_followed_on_and_off() -> None:
    start = make_model("llama", tie_word_embeddings=False)
    plain = start(IDS).logits.detach()
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(start, config)
    with torch.no_grad():
        head_of(model).weight.mul_(2.0)
        torch.testing.assert_close(logits_through_head(model), 2.0 * plain)
        torch.testing.assert_close(model(IDS).logits, 2.0 * plain)
        with model.disable_adapter():
            torch.testing.assert_close(logits_through_head(model), plain)


def test_an_unknown_model_type_is_accepted_when_a_trial_confirms_it() -> None:
    assert "ernie4_5" not in LINEAR
    model = make_model("ernie4_5")
    model.train()
    model.get_submodule("model.layers.0").eval()
    with torch.no_grad():
        torch.testing.assert_close(logits_through_head(model), model(IDS).logits)
    assert model.training
    assert not model.get_submodule("model.layers.0").training


# Small weights: logits so small that a cap does next to nothing to them, or a bias is all of them.
@pytest.mark.parametrize("size", [0.2, 1e-4])
@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("cohere", "logit_scale", 0.5),
        ("granite", "logits_scaling", 8.0),
        ("gemma2", "final_logit_softcapping", 30.0),
        ("gemma3n_text", "final_logit_softcapping", 30.0),
        ("gemma4_text", "final_logit_softcapping", 30.0),
        ("phi", "partial_rotary_factor", 0.5),
    ],
)
def test_what_an_unknown_model_type_does_to_its_logits_is_read(
    kind: str, field: str, value: float, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(kind, initializer_range=size, **(SETTINGS.get(kind, {}) | {field: value}))
    if kind == "phi":
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    monkeypatch.setattr(type(model.config), "model_type", "other")
    head = head_of(model)
    assert head.softcap == (value if "softcap" in field else None)
    assert head.scale == {"logit_scale": 0.5, "logits_scaling": 1 / 8}.get(field, 1.0)
    with torch.no_grad():
        torch.testing.assert_close(logits_through_head(model), model(IDS).logits)


@pytest.mark.parametrize("what", ["bias", "scale", "cap", "states"])
def test_what_no_field_explains_is_refused(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = make_model("llama", initializer_range=1e-4)
    before = type(model).forward

    def forward(self: Any, *inputs: Any, **options: Any) -> Any:
        output = before(self, *inputs, **options)
        if what == "bias":
            output.logits[..., 7] += 1e-3
        elif what == "scale":
            output.logits = output.logits * 1.01
        elif what == "cap":
            output.logits = 50 * (output.logits / 50).tanh()
        return output

    if what == "states":
        layer = model.get_output_embeddings()
        layer.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 1.1,))
    monkeypatch.setattr(type(model), "forward", forward)
    monkeypatch.setattr(type(model.config), "model_type", "other")
    with pytest.raises(InputError, match=r"'other'.*does more to its logits"):
        head_of(model)


def test_a_head_with_an_adapter_is_refused_with_the_remedy() -> None:
    model = get_peft_model(
        make_model("llama", tie_word_embeddings=False), LoraConfig(target_modules=["lm_head"])
    )
    with pytest.raises(InputError, match=r"output head.*modules_to_save"):
        head_of(model)


def test_prompt_tuning_is_refused() -> None:
    config = PromptTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=2)
    model = get_peft_model(make_model("llama"), config)
    with pytest.raises(InputError, match=r"PROMPT_TUNING.*virtual tokens"):
        backbone_of(model)


def test_an_encoder_decoder_is_refused() -> None:
    config = T5Config(
        vocab_size=50, d_model=8, d_ff=8, d_kv=4, num_layers=1, num_heads=2, num_decoder_layers=1
    )
    with pytest.raises(InputError, match="encoder-decoder"):
        head_of(T5ForConditionalGeneration(config))


def test_a_module_that_is_no_language_model_is_refused() -> None:
    with pytest.raises(InputError, match="Linear is not a transformers"):
        head_of(nn.Linear(2, 3))
    body = make_model("llama").get_submodule("model")
    with pytest.raises(InputError, match="no model body"):
        backbone_of(body)


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
