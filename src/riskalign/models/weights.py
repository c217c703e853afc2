"""A model's weights: refused where none can work with them, saved whole, named by a hash."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from riskalign.errors import InputError
from riskalign.files.atomic import new_folder
from riskalign.models.sharding import is_partitioned, shape_of, whole

#: Last matrices of attention and of feed-forward layers: of zeros they switch the layer off, and
#: layers that are added to a trained model start so. With them what chooses among experts, and the
#: vectors of a text's kind, which some encoders have no use for.
_MAY_BE_ZERO = {
    "c_proj", "dense", "dense_4h_to_h", "down_proj", "fc2", "fc_out", "ffn_output", "lin2", "o",
    "o_proj", "out_lin", "out_proj", "output_linear", "w2", "wo",
    "gate", "router", "shared_expert_gate",
    "token_type_embeddings",
}  # fmt: skip


def check_weights(model: nn.Module, whose: str) -> None:
    """Raise `InputError` for weights that are not finite, or 0 throughout where none may be.

    A number that is not finite spreads over all logits, and a drawn token or a distance made of
    them looks like a good one. With an embedding, a norm or a matrix of zeros every text is like
    any other. May be 0: biases, what `_MAY_BE_ZERO` says, norms that add 1, an adapter's weights.
    `whose` begins the message.
    """
    seen: set[int] = set()
    parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            continue
        with whole([tensor]):
            if tensor.data_ptr() in seen:
                continue
            if not is_partitioned(tensor):  # whose memory is another's soon
                seen.add(tensor.data_ptr())  # tied weights have several names
            _check(model, name, tensor, name in parameters, whose)


@torch.no_grad()
def _check(model: nn.Module, name: str, tensor: Tensor, parameter: bool, whose: str) -> None:
    check_tensor(tensor, name, whose)
    if parameter and _is_zero(tensor) and not _may_be_zero(model, name, tensor):
        raise InputError(
            f"{whose}: every number of its weight {name!r} is 0, so it was never trained or "
            "the file is broken. Fetch or train the model again."
        )


@torch.no_grad()
def check_tensor(tensor: Tensor, name: str, whose: str) -> None:
    """Raise `InputError` naming the tensor where one of its numbers is not finite."""
    # Least and largest carry NaN along and need no copy.
    if _has_numbers(tensor) and not all(bool(end.isfinite()) for end in _wide(tensor).aminmax()):
        raise InputError(
            f"{whose}: its weight {name!r} holds NaN or infinity, so the file is broken or "
            "training diverged. Fetch or train the model again."
        )


def _has_numbers(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.numel() > 0 and not tensor.is_meta


def _wide(tensor: Tensor) -> Tensor:
    """8-bit floats have no functions of their own."""
    return tensor if tensor.element_size() > 1 else tensor.float()


def _is_zero(tensor: Tensor) -> bool:
    if not _has_numbers(tensor) or bool(tensor.reshape(-1)[:1].float().any()):
        return False  # nearly always
    return not bool(_wide(tensor).any())


def _may_be_zero(model: nn.Module, name: str, tensor: Tensor) -> bool:
    parts = name.split(".")
    adapters = getattr(model, "peft_config", None) or {}
    if name.endswith("bias") or not {*adapters}.isdisjoint(parts):
        return True
    if max(tensor.shape, default=1) < tensor.numel():
        own = next(p for p in reversed(parts) if p not in ("weight", "base_layer"))
        return own.lower() in _MAY_BE_ZERO
    owner = model.get_submodule(".".join(parts[:-1]))
    is_norm = parts[-1] == "weight" and "norm" in type(owner).__name__.lower()
    return not (is_norm and _forgets(owner, tensor))


@torch.no_grad()
def _forgets(norm: nn.Module, weight: Tensor) -> bool:
    """Whether what comes out of a layer does not depend on what goes in; some scale by 1 + w."""
    rows = torch.eye(2, weight.numel(), dtype=weight.dtype, device=weight.device)
    try:
        first, second = norm(rows)
    except (TypeError, AttributeError):
        return True  # norms with a gate need a second input; theirs is a plain factor
    return bool(torch.equal(first, second))


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: str | Path
) -> None:
    """Write model (safetensors), configurations, tokenizer and chat template to `folder`.

    An existing folder is replaced as a whole; an interruption leaves the old one. A PEFT model is
    written as its adapter. Raises `InputError` for weights that are not finite; nothing is
    written then.
    """
    check_weights(model, f"model for {str(folder)!r}")
    with new_folder(folder) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def fingerprint(model: nn.Module) -> str:
    """Hex SHA-256 of names, dtypes, shapes and bytes of the state dict, on whatever device.

    Of a process that waits for another's weights (they are on `meta`) the bytes are left out.
    """
    return states_fingerprint(model.state_dict(keep_vars=True))


@torch.no_grad()
def states_fingerprint(states: Mapping[str, Tensor]) -> str:
    """As `fingerprint`, of a state dict."""
    digest = hashlib.sha256()
    for name, tensor in sorted(states.items()):
        digest.update(f"{name}|{tensor.dtype}|{tuple(shape_of(tensor))}\n".encode())
        if not tensor.is_meta:
            with whole([tensor]):
                # Not every dtype exists in NumPy (bfloat16 does not), bytes do.
                plain = tensor.detach().cpu().contiguous().reshape(-1)
                digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()
