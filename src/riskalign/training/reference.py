"""The frozen reference: a copy, the adapter switched off, or a given model; its states kept."""

import contextlib
import tempfile
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import gather  # type: ignore[import-untyped]
from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from riskalign.errors import InputError
from riskalign.models import check_weights
from riskalign.models.sharding import is_partitioned, whole
from riskalign.training import engines
from riskalign.training.modules import evaluating

# Ways of starting a LoRA adapter that leave the base weights alone and the model's function
# unchanged, so that the model with the adapter off is the model as it was given.
_NEUTRAL_INITS = (True, "gaussian")


class Reference:
    """Gives the reference model, for as long as `active()` lasts, without gradients.

    `model` is a module of its own, or None where the reference is the policy with its adapter
    off. `own` says that it is a copy made here.
    """

    def __init__(self, model: nn.Module | None, own: bool = False) -> None:
        self.model = model
        self.own = own
        self._engine: Any = None  # which must live as long as the model

    def cast_once(self, dtype: torch.dtype) -> None:
        """Keep a copy's linear layers in the precision that autocast would cast them to each time.

        The values are the same to the last bit. The output layer, and weights shared with an
        embedding, which autocast leaves alone, stay as they are; so does a reference that was
        given.
        """
        model: Any = self.model
        if model is None or not self.own:
            return
        embedded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        head = model.get_output_embeddings()  # whose bias is added in float32
        for module in model.modules():
            plain = isinstance(module, nn.Linear) and module is not head
            if plain and id(module.weight) not in embedded:
                module.to(dtype)

    def place(self, accelerator: Accelerator) -> None:
        """Give a model of its own the policy's engine, device and precision, once."""
        if self.model is not None and self._engine is None:
            self._engine = engines.place(self.model, accelerator)

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


def with_reference(
    model: nn.Module, ref_model: nn.Module | None, peft_config: PeftConfig | None
) -> tuple[nn.Module, Reference]:
    """Add the adapter, if any, and fix the reference: the model **as given**.

    A reference is never loaded again by name: the weights in memory may long have changed. It is
    `ref_model`, frozen in place; without one the adapter switched off where that is the model as
    given, else a frozen deep copy. Raises `InputError` for `ref_model` being `model` or not
    finite, or an adapter upon an adapter.
    """
    if ref_model is model:
        raise InputError(
            "ref_model is the same object as model and would be trained with it. "
            "Leave ref_model out: a frozen copy is made."
        )
    if ref_model is not None:
        check_weights(ref_model, "ref_model")
    if peft_config is not None:
        # transformers puts adapters' layers into a plain model, where a new one takes their place.
        if any(isinstance(m, BaseTunerLayer) for m in model.modules()):
            raise InputError(
                "The model already has an adapter and peft_config asks for another. Merge the "
                "first (merge_and_unload()), give its folder's name, or leave peft_config out."
            )
        if getattr(peft_config, "is_prompt_learning", False):
            raise InputError(
                f"PEFT type {peft_config.peft_type} adds virtual tokens, which is not supported. "
                "Use an adapter such as LoRA."
            )
    if ref_model is not None:
        reference = Reference(ref_model.eval().requires_grad_(False))
    elif _leaves_base_alone(peft_config) if peft_config is not None else _is_neutral(model):
        reference = Reference(None)
    else:
        reference = Reference(engines.frozen_copy(model), own=True)
    if peft_config is None:
        return model, reference
    # Parts of one precision only can be trained together.
    whole_weights = not any(map(is_partitioned, model.parameters()))
    model = get_peft_model(model, peft_config, autocast_adapter_dtype=whole_weights)
    return model, reference


def _leaves_base_alone(config: PeftConfig) -> bool:
    """Whether neither the adapter's start nor its training changes the base model's weights."""
    starts_neutral = getattr(config, "init_lora_weights", True) in _NEUTRAL_INITS
    # The base's own biases, trained beside the adapter, stay as trained when it is off.
    return starts_neutral and getattr(config, "bias", "none") == "none"


def _is_neutral(model: nn.Module) -> bool:
    """Whether a model has a LoRA adapter, not yet trained, that leaves its function unchanged."""
    if not isinstance(model, PeftModel):
        return False
    config = model.peft_config[model.active_adapter]
    if not hasattr(config, "init_lora_weights") or not _leaves_base_alone(config):
        return False
    if getattr(config, "use_dora", False) or getattr(config, "modules_to_save", None):
        return False
    names = ("lora_B", "embedding_B")
    second = [p for name, p in model.named_parameters() if any(part in name for part in names)]
    with whole(second):
        return bool(second) and not any(bool(p.any()) for p in second)


class HiddenCache:
    """Keeps the reference's hidden states of each row's response tokens.

    In main memory, or with `folder` in a file there that goes with the process; `4 * H` bytes a
    response token in float32. Saves the reference's forward pass, about a quarter of a step's
    arithmetic, whenever every row of a batch has been seen before. What comes back then is bit by
    bit what was computed first; another batch's products may round otherwise in the last bit.

    Of several processes each keeps what it computed itself, so that together they keep each row
    once, and sends it to the one that needs it, on whatever machine that is. They compute all or
    none: a reference that is spread over them needs them all.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._kept: dict[int, Any] = {}  # states, or their place in the file, shape and type
        self._keeper: dict[int, int] = {}  # which process keeps a row's
        self._none = torch.empty(0)  # no states, [0, H], of their type and device
        self._file: IO[bytes] | None = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            weakref.finalize(self, self._file.close)

    def get(self, batch: Mapping[str, Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """Hidden states [N, H] of a batch of `RowCollator`; `compute` gives what is missing.

        All processes call it together, with equally many rows.
        """
        n = dist.get_world_size() if dist.is_initialized() else 1
        me = dist.get_rank() if n > 1 else 0
        keys: list[list[int]] = gather(batch["index"]).view(n, -1).tolist()  # of each process
        lengths = torch.bincount(batch["row"][batch["sequence"]], minlength=len(keys[me])).tolist()
        if all(key in self._keeper for own in keys for key in own):
            return self._fetch(keys, me, lengths)
        hidden = compute()
        self._none = hidden.detach()[:0]
        for process, own in enumerate(keys):
            for key in own:
                self._keeper.setdefault(key, process)
        for key, states in zip(keys[me], hidden.detach().cpu().split(lengths), strict=True):
            if self._keeper[key] == me:
                self._write(key, states)
        return hidden

    def _fetch(self, keys: list[list[int]], me: int, lengths: list[int]) -> Tensor:
        """This process's states [N, H], while it sends the others theirs."""
        device = self._none.device
        parts = [[self._read(k) for k in own if self._keeper[k] == me] for own in keys]
        if len(keys) == 1:
            return torch.cat(parts[0]).to(device)
        sent = torch.cat([self._none, *(part.to(device) for own in parts for part in own)])
        sizes = [sum(map(len, own)) for own in parts]
        # In the order of their keepers, and for each in the batch's.
        order = sorted(range(len(lengths)), key=lambda i: self._keeper[keys[me][i]])
        incoming = [0] * len(keys)
        for key, length in zip(keys[me], lengths, strict=True):
            incoming[self._keeper[key]] += length
        found = sent.new_empty(sum(lengths), sent.shape[1])
        octets = (found.view(torch.uint8), sent.view(torch.uint8))  # what every backend takes
        dist.all_to_all_single(*octets, incoming, sizes)
        arrived = found.split([lengths[i] for i in order])
        return torch.cat([arrived[order.index(i)] for i in range(len(order))])

    def _write(self, key: int, states: Tensor) -> None:
        if key in self._kept:
            return
        if self._file is None:
            self._kept[key] = states.clone()
        else:
            self._kept[key] = (self._file.seek(0, 2), *states.shape, states.dtype)
            self._file.write(states.contiguous().view(torch.uint8).numpy().tobytes())

    def _read(self, key: int) -> Tensor:
        kept: Any = self._kept[key]
        if self._file is None:
            return kept  # type: ignore[no-any-return]
        at, length, width, dtype = kept
        self._file.seek(at)
        content = bytearray(self._file.read(length * width * dtype.itemsize))
        return torch.frombuffer(content, dtype=dtype).view(-1, width)
