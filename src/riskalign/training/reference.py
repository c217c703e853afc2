"""The frozen reference: a copy of the model in memory, the adapter switched off, or a given one."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from riskalign.errors import InputError
from riskalign.models import check_weights
from riskalign.training.noise import evaluating

# Ways of starting a LoRA adapter that leave the base weights alone and the model's function
# unchanged, so that the model with the adapter off is the model as it was given.
_NEUTRAL_INITS = (True, "gaussian")


def _leaves_base_alone(config: PeftConfig) -> bool:
    """Whether neither the adapter's start nor its training changes the base model's weights."""
    starts_neutral = getattr(config, "init_lora_weights", True) in _NEUTRAL_INITS
    # The base's own biases, trained beside the adapter, stay as trained when it is off.
    return starts_neutral and getattr(config, "bias", "none") == "none"


class Reference:
    """Gives the reference model, for as long as `active()` lasts, without gradients.

    `model` is a module of its own, or None where the reference is the policy with its adapter
    off. `own` says that it is a copy made here.
    """

    def __init__(self, model: nn.Module | None, own: bool = False) -> None:
        self.model = model
        self.own = own

    def cast_once(self, dtype: torch.dtype) -> None:
        """Keep a copy's linear layers in the precision that autocast would cast them to each time.

        The values are the same to the last bit. The output layer, and weights shared with an
        embedding, which autocast leaves alone, stay as they are; so does a reference that was
        given.
        """
        if self.model is None or not self.own:
            return
        model: Any = self.model
        embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        head = model.get_output_embeddings()  # whose bias is added in float32
        for module in model.modules():
            plain = isinstance(module, nn.Linear) and module is not head
            if plain and id(module.weight) not in embedded:
                module.to(dtype)

    @contextlib.contextmanager
    def active(self, policy: nn.Module) -> Iterator[nn.Module]:
        """Yield the reference; `policy` is the unwrapped policy."""
        with torch.no_grad():
            if self.model is not None:
                yield self.model
            else:
                assert isinstance(policy, PeftModel)
                with policy.disable_adapter(), evaluating(policy):
                    yield policy


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of the weights in memory, in evaluation mode, without gradients."""
    return freeze(copy.deepcopy(model))


def freeze(model: nn.Module) -> nn.Module:
    """The same model, in evaluation mode, without gradients."""
    return model.eval().requires_grad_(False)


def with_reference(
    model: nn.Module, ref_model: nn.Module | None, peft_config: PeftConfig | None
) -> tuple[nn.Module, Reference]:
    """Add the adapter, if any, and fix the reference: the model **as given**.

    A reference is never loaded again by name: the weights in memory may long have changed.

    Args:
        model: the policy to train.
        ref_model: an explicit reference; it is frozen in place.
        peft_config: an adapter to add to `model`.

    Returns:
        The policy and its reference. Without `ref_model` the reference is the adapter switched
        off where that is the model as given, else a frozen deep copy.

    Raises:
        InputError: `ref_model` is `model` or has weights that are not finite, or an adapter would
            be put upon an adapter.
    """
    if ref_model is model:
        raise InputError(
            "ref_model is the same object as model and would be trained with it. "
            "Leave ref_model out: a frozen copy is made."
        )
    if ref_model is not None:
        check_weights(ref_model, "ref_model")
    copied = freeze(ref_model) if ref_model is not None else None
    if peft_config is None:
        own = copied is None and not (isinstance(model, PeftModel) and _is_neutral(model))
        return model, Reference(frozen_copy(model) if own else copied, own)
    # transformers puts an adapter's layers into a plain model, where a new one takes their place.
    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise InputError(
            "The model already has an adapter and peft_config asks for another. Merge the first "
            "(a PeftModel's merge_and_unload(), or give its folder's name, which is loaded so), or "
            "leave peft_config out."
        )
    if getattr(peft_config, "is_prompt_learning", False):
        raise InputError(
            f"PEFT type {peft_config.peft_type} adds virtual tokens, which is not supported. "
            "Use an adapter such as LoRA."
        )
    own = copied is None and not _leaves_base_alone(peft_config)
    reference = Reference(frozen_copy(model) if own else copied, own)
    return get_peft_model(model, peft_config), reference


def _is_neutral(model: PeftModel) -> bool:
    """Whether a LoRA adapter, not yet trained, leaves the model's function unchanged."""
    config = model.peft_config[model.active_adapter]
    if not hasattr(config, "init_lora_weights") or not _leaves_base_alone(config):
        return False
    if getattr(config, "use_dora", False) or getattr(config, "modules_to_save", None):
        return False
    second = [
        p for name, p in model.named_parameters() if "lora_B" in name or "embedding_B" in name
    ]
    return bool(second) and not any(bool(p.any()) for p in second)
