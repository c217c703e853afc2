"""The output head of a language model, and where a transformers model keeps body and head."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from riskalign.errors import InputError
from riskalign.models.sharding import plain_class, whole
from riskalign.risk import Risk


@dataclass(frozen=True)
class Head:
    """A linear head, `logits = softcap * tanh(scale * (h @ weight.T + bias) / softcap)`.

    Shapes: `weight` [V, H], `bias` [V] or None. Without `softcap` the tanh is left out.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., H], in the matrix product's precision."""
        logits = hidden @ self.weight.T
        if self.bias is not None:
            logits = logits + self.bias
        return self.finish(logits)

    def finish(self, logits: Tensor) -> Tensor:
        """Logits [..., V] of the linear layer's own output [..., V]."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * (logits / self.softcap).tanh()
        return logits


class OutputLayer(NamedTuple):
    """Where a model computes its logits, before its weights are at hand.

    `modules`: what the model calls its output layer, and where that is PEFT's wrapper of a full
    copy, the linear layer within it. An engine that keeps weights in parts puts them together for
    the forward passes of these modules.
    """

    modules: tuple[nn.Module, ...]
    scale: float = 1.0
    softcap: float | None = None

    def head(self) -> Head:
        """The head, with the weights as they are now; `InputError` for quantised ones."""
        layer: Any = self.modules[-1]
        if not layer.weight.is_floating_point():
            raise _no_plain_layer(layer)
        return Head(layer.weight, layer.bias, self.scale, self.softcap)


class Comparison(NamedTuple):
    """A policy's head against a reference's under a risk.

    Matrix products run in `product_dtype`, everything else in `stats_dtype`.
    """

    head: Head
    head_ref: Head
    risk: Risk
    product_dtype: torch.dtype
    stats_dtype: torch.dtype


# Model types whose logits are the output layer and nothing else; each is checked by a test.
# fmt: off
LINEAR = frozenset({
    "bloom", "deepseek_v3", "falcon", "gemma", "glm4", "gpt2", "gpt_bigcode", "gpt_neox", "gptj",
    "llama", "mamba", "mistral", "mixtral", "mpt", "olmo2", "opt", "phi", "phi3", "qwen2",
    "qwen2_moe", "qwen3", "qwen3_moe", "smollm3", "stablelm", "starcoder2",
})
# fmt: on
# Model types whose logits are multiplied, divided or capped by a field of their configuration.
MULTIPLIED = {
    **dict.fromkeys(("cohere", "cohere2"), "logit_scale"),
    "falcon_h1": "lm_head_multiplier",
    "hyperclovax": "logits_scaling",
}
_GRANITES = ("granite", "granitemoe", "granitemoehybrid", "granitemoeshared")
DIVIDED = dict.fromkeys(_GRANITES, "logits_scaling")
CAPPED = {
    **dict.fromkeys(("gemma2", "gemma3_text", "nanochat", "vaultgemma"), "final_logit_softcapping"),
    "recurrent_gemma": "logits_soft_cap",
}

# Scale and cap of models of other types, as a trial run found them.
_tried_before: WeakKeyDictionary[nn.Module, tuple[float, float | None]] = WeakKeyDictionary()


def backbone_of(model: nn.Module) -> nn.Module:
    """The part of a causal language model, or of its PEFT wrapper, below the output head.

    Its output's `last_hidden_state` is what `head_of(model)` turns into logits. Adapters that
    PEFT put into the layers stay active. Unwrap distributed wrappers first.

    Raises `InputError` for a model of another kind.
    """
    inner = _inner(model)
    backbone = inner.base_model
    if backbone is inner or not isinstance(backbone, nn.Module):
        raise InputError(f"{type(inner).__name__}: no model body found below the output head")
    return backbone


def head_of(model: nn.Module) -> Head:
    """The output head of a transformers causal language model or of its PEFT wrapper.

    The weight and bias are the model's own parameters, tied or not, so gradients reach them.
    Raises `InputError` as `output_layer_of`, and for a head that is quantised.
    """
    return output_layer_of(model).head()


def output_layer_of(model: nn.Module) -> OutputLayer:
    """The output layer of a transformers causal language model or of its PEFT wrapper.

    Known scales and caps of the logits are read from the configuration. A model type that is
    not known, or whose code came with the model, is tried once, on two tokens: what it makes of
    large and of no outputs of its layer shows scale, cap and addends whatever the size of its
    logits. It is refused where no field of its configuration explains them.

    Raises `InputError` for a head that is not linear or carries an adapter.
    """
    inner = _inner(model)
    config = inner.config
    kind = config.model_type
    outer = inner.get_output_embeddings()
    layer = _active_layer(outer)
    scale = float(getattr(config, MULTIPLIED[kind])) if kind in MULTIPLIED else 1.0
    if kind in DIVIDED:
        scale = 1.0 / float(getattr(config, DIVIDED[kind]))
    softcap = getattr(config, CAPPED[kind]) if kind in CAPPED else None
    known = kind in LINEAR | MULTIPLIED.keys() | DIVIDED.keys() | CAPPED.keys()
    if not known or not plain_class(inner).__module__.startswith("transformers."):
        if inner not in _tried_before:
            with whole(inner.parameters()):
                _tried_before[inner] = _tried(inner, layer)
        scale, softcap = _tried_before[inner]
    return OutputLayer((layer,) if outer is layer else (outer, layer), scale, softcap)


def _inner(model: nn.Module) -> Any:
    """The transformers model inside a PEFT wrapper, or `model` itself."""
    inner: Any = model
    if hasattr(inner, "peft_config") and hasattr(inner, "get_base_model"):
        if getattr(inner.active_peft_config, "is_prompt_learning", False):
            raise InputError(
                f"PEFT type {inner.active_peft_config.peft_type} adds virtual tokens, which is "
                "not supported; use an adapter inside the layers, such as LoRA"
            )
        inner = inner.get_base_model()
    if not hasattr(inner, "config") or not hasattr(inner, "get_output_embeddings"):
        raise InputError(f"{type(inner).__name__} is not a transformers causal language model")
    if inner.config.is_encoder_decoder:
        raise InputError(
            f"{type(inner).__name__} is an encoder-decoder; a decoder-only model is needed"
        )
    return inner


def _active_layer(layer: Any) -> nn.Linear:
    """The linear layer that computes the logits, looked up inside PEFT's full-copy wrapper."""
    if hasattr(layer, "modules_to_save"):
        trained = {} if layer.disable_adapters else layer.modules_to_save
        layer = trained[layer.active_adapter] if trained else layer.original_module
    if plain_class(layer) is not nn.Linear:
        raise _no_plain_layer(layer)
    return layer  # type: ignore[no-any-return]


def _no_plain_layer(layer: nn.Module) -> InputError:
    return InputError(
        f"the output head is a {type(layer).__name__}, not a plain linear layer; keep adapters "
        "(target_modules) and quantisation away from it. To train it beside an adapter, name it "
        "in modules_to_save"
    )


def _tried(inner: Any, layer: nn.Linear) -> tuple[float, float | None]:
    """Scale and cap of a model's logits, from what it makes of given outputs of its layer."""
    if layer.weight.is_meta:
        raise InputError(
            f"{type(inner).__name__}: its kind of logits is not known and must be tried, but its "
            "weights are not here yet. Set cpu_ram_efficient_loading: false"
        )
    modes = {module: module.training for module in inner.modules()}
    inner.eval()
    size = layer.weight.shape[0]
    # Large and small ones, and none at all, which only an addend turns into something.
    probe = torch.stack([torch.linspace(-1, 1, size) ** 3 * 1e4, torch.zeros(size)])
    probe = probe.to(layer.weight)
    states: list[Tensor] = []

    def stand_in(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        states.append(inputs[0])
        return probe.to(output).expand_as(output).clone()  # it may be changed in place

    handle = layer.register_forward_hook(stand_in)
    try:
        ids = torch.tensor([[0, 1]], device=layer.weight.device)
        with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
            logits = inner(input_ids=ids, use_cache=False).logits
            hidden = backbone_of(inner)(input_ids=ids, use_cache=False).last_hidden_state
    finally:
        handle.remove()
        for module, mode in modes.items():
            module.training = mode
    if len(states) == 1 and states[0].shape == hidden.shape and logits.shape[1:] == probe.shape:
        rtol = 1e-4 if layer.weight.dtype in (torch.float32, torch.float64) else 2e-2
        atol = rtol * float(hidden.abs().max())
        same = torch.allclose(states[0].float(), hidden.float(), rtol=rtol, atol=atol)
        for head in _candidates(inner, layer) if same else ():
            if torch.allclose(logits[0].float(), head.finish(probe.float()), rtol=rtol, atol=1e-6):
                return head.scale, head.softcap
    raise InputError(
        f"{type(inner).__name__} (model type {inner.config.model_type!r}) does more to its "
        "logits than its output layer; riskalign does not know how to follow it"
    )


def _candidates(inner: Any, layer: nn.Linear) -> Iterator[Head]:
    """The heads that fields of the configuration could mean."""
    config = inner.config.get_text_config()

    def numbers(*tables: dict[str, str]) -> list[float]:
        names = sorted({name for table in tables for name in table.values()})
        found = [getattr(config, name, None) for name in names]
        return [float(value) for value in found if isinstance(value, int | float) and value]

    factors = numbers(MULTIPLIED, DIVIDED)
    for cap in (None, *numbers(CAPPED)):
        for scale in (1.0, *factors, *(1 / factor for factor in factors)):
            yield Head(layer.weight, layer.bias, scale, cap)
