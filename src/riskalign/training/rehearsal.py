"""What a training step keeps in memory, found by a step on tensors without content.

The model is the real one, layer for layer, and so are its forward and backward pass; its tensors
have shapes and no storage (torch's fake tensors). What would be allocated is counted, operator by
operator: activations, copies that autocast makes, what checkpoints compute again.

Of a model whose layers are all alike two and three layers are rehearsed: what is kept grows along a
straight line with their number.
"""

import contextlib
import copy
import itertools
import logging
import weakref
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig

from riskalign.data import RowCollator, response_hidden
from riskalign.data.attention import can_share_prompt
from riskalign.errors import door
from riskalign.models.outline import outline
from riskalign.tokens import backbone_of
from riskalign.training.modules import repeated_layers, switch_off_noise

Floats = NDArray[np.float64]
#: fp32: as loaded; autocast: as loaded, products in bf16; engine: all weights bf16.
Compute = Literal["fp32", "autocast", "engine"]
_MORE = 16


class Rehearsed(NamedTuple):
    """Bytes beside weights and gradients, below the output layer.

    `forward`: the most during the forward pass; `held`: at its end. Before the k-th gradient of a
    parameter is complete there are up to `backward[k]` bytes, beside the gradients of `done[k]`
    parameters' elements.
    """

    forward: float
    held: float
    backward: Floats
    done: Floats


class _Live(TorchDispatchMode):
    """Counts the bytes of all storages made while it is on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: set[int] = set()
        self.now = self.most = 0

    def leave_out(self, tensor: Tensor) -> None:
        """Count nothing for a tensor that was there before."""
        self._known.add(tensor.untyped_storage()._cdata)

    def since_last(self) -> int:
        """The most since this was last asked."""
        most, self.most = self.most, self.now
        return most

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._known:
                self._known.add(key)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, key, size)
        return out


class Rehearsal(NamedTuple):
    """What `pairs` pairs at once keep, and what `_MORE` times as many do."""

    pairs: int
    few: Rehearsed
    many: Rehearsed

    def at(self, pairs: int) -> Rehearsed:
        """What so many pairs keep, along a straight line.

        The most of several operators' needs is no straight line: between the two numbers this is
        too much, if anything.
        """
        share = (pairs - self.pairs) / (self.pairs * (_MORE - 1))

        def line(a: Any, b: Any) -> Any:
            return a + (b - a) * share

        forward, held, backward, _ = map(line, self.few, self.many)
        return Rehearsed(forward, held, backward, self.few.done)


def rehearse(
    config: PreTrainedConfig,
    lengths: tuple[int, int, int],
    compute: Compute,
    *,
    dtype: torch.dtype = torch.float32,
    adapter: LoraConfig | None = None,
    checkpointing: bool = False,
) -> Rehearsal:
    """What a step keeps on so many pairs, of a prompt and two responses of so many tokens each.

    The model is of this configuration, loaded in `dtype`. A mixture of experts is rehearsed in
    bf16, which is all that torch knows without content, and what it keeps counted twice where it
    computes in float32.

    Raises `InputError` as `outline` does, and for layers that do not run without content.
    """
    pairs, prompt, response = lengths
    whole = outline(config)
    depth = len(repeated_layers(whole))
    depths = [2, 3] if depth > 3 and _layers_alike(whole, config, depth) else [depth]
    experts = any(parameter.ndim == 3 for parameter in whole.parameters())
    factor = 2.0 if experts and compute != "engine" else 1.0
    del whole

    def at(pairs: int) -> Rehearsed:
        runs = []
        for layers in depths:
            shallow = config if layers == depth else _cut(config, layers, depth)
            model = outline(shallow, torch.bfloat16 if experts else dtype, adapter)
            if compute == "engine":
                model = model.to(torch.bfloat16)
            casts = compute == "autocast" and not experts
            runs.append(_run(model, (pairs, prompt, response), casts, checkpointing))
        kept = runs[0].kept if len(runs) == 1 else _deeper(runs[0], runs[1], depth)
        grown = (factor * kept.forward, factor * kept.held, factor * kept.backward)
        return Rehearsed(*grown, kept.done)

    return Rehearsal(pairs, at(pairs), at(_MORE * pairs))


def _layers_alike(whole: nn.Module, config: PreTrainedConfig, depth: int) -> bool:
    """Whether a model's layers are of one kind, by their parameters and by the configuration."""
    kinds = {
        tuple((name, tuple(parameter.shape)) for name, parameter in layer.named_parameters())
        for layer in repeated_layers(whole)
    }
    lists = [v for v in vars(config).values() if isinstance(v, list) and len(v) == depth]
    return len(kinds) == 1 and all(len({str(each) for each in own}) == 1 for own in lists)


def _cut(config: PreTrainedConfig, layers: int, depth: int) -> PreTrainedConfig:
    """The configuration with fewer layers."""
    shallow: Any = copy.deepcopy(config)
    for name, value in vars(shallow).items():
        if isinstance(value, list) and len(value) == depth:
            setattr(shallow, name, value[:layers])
    shallow.num_hidden_layers = layers
    return shallow  # type: ignore[no-any-return]


class _Run(NamedTuple):
    """What was kept, and how many gradients were complete before the first of a layer's."""

    kept: Rehearsed
    before: int


def _deeper(two: _Run, three: _Run, depth: int) -> Rehearsed:
    """From two and three layers to `depth`.

    The gradients down to the uppermost layer's are counted from above, the others from below: in
    between a straight line has no peak.
    """
    n = len(two.kept.done)
    each = len(three.kept.done) - n
    place = np.arange(n)
    place[two.before + each :] += each

    def line(a: Any, b: Any) -> Any:
        return a + (b - a) * (depth - 2)

    (forward, held, *lists), others = two.kept, three.kept
    grown = (line(a, b[place]) for a, b in zip(lists, others[2:], strict=True))
    return Rehearsed(line(forward, others.forward), line(held, others.held), *grown)


@contextlib.contextmanager
def _quietly() -> Iterator[FakeTensorMode]:
    """Fake tensors; operators without a rule for them say so by an exception alone."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            yield fake
    finally:
        logger.setLevel(level)


def _run(
    given: nn.Module, asked: tuple[int, int, int], autocast: bool, checkpointing: bool
) -> _Run:
    """One step of the model's body on tensors without content."""
    model: Any = given
    if checkpointing:
        new = getattr(model, "activation_checkpointing_enable", None)
        (new or model.gradient_checkpointing_enable)()
    model.train()
    switch_off_noise(list(model.modules()))
    config: Any = backbone_of(model).config
    pairs, prompt, response = asked
    row: dict[str, Any] = {"prompt_ids": [0] * prompt, "gap": 1.0}
    row |= {f"{side}_ids": [0] * response for side in ("chosen", "rejected")}
    batch = RowCollator(0, can_share_prompt(config))([row] * pairs)
    live = _Live()
    backward: list[int] = []
    done: list[int] = []
    before: list[int] = []
    with _quietly() as fake:
        _fill(model)
        in_layers = {id(p) for layer in repeated_layers(model) for p in layer.parameters()}

        def complete(parameter: Tensor) -> None:
            parameter.grad = None
            if id(parameter) in in_layers and not before:
                before.append(len(done))
            backward.append(live.since_last())
            done.append(sum(done[-1:]) + parameter.numel())

        for tensor in itertools.chain(model.parameters(), model.buffers()):
            live.leave_out(tensor)
            if tensor.requires_grad:
                tensor.register_post_accumulate_grad_hook(complete)
        tensors = {name: fake.from_tensor(value) for name, value in batch.items()}
        what = f"model type {config.model_type!r}: its layers do not run on tensors without content"
        with door(what, "Its memory cannot be planned; try it on a GPU."), live:
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                hidden = response_hidden(backbone_of(model), tensors)
            forward, held = live.since_last(), live.now
            hidden.backward(torch.ones_like(hidden))
    first = np.array([0, *done[:-1]], dtype=np.float64)
    return _Run(Rehearsed(forward, held, np.array(backward, np.float64), first), *before)


def _fill(model: nn.Module) -> None:
    """Put fake tensors on a processor in the place of those of the meta device."""
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:  # tied ones stay so
                    new = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = (
                        nn.Parameter(new, tensor.requires_grad) if is_parameter else new
                    )
                kept[name] = made[id(tensor)]  # type: ignore[assignment]
