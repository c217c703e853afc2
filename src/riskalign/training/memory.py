"""How much memory a training step takes on each GPU, from the model's configuration alone.

What the model's body keeps during the passes is rehearsed (`rehearsal.py`); the rest is counted
here. Where the constants of engines come from, and which figures are guesses, is in docs/scale.md.
"""

import bisect
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

import torch
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PreTrainedConfig

from riskalign.errors import FieldError
from riskalign.models.outline import outline
from riskalign.settings import Count, Flag, settings
from riskalign.tokens import Head, tile_tokens
from riskalign.training.modules import repeated_layers
from riskalign.training.rehearsal import Compute, Rehearsal, Rehearsed, rehearse

Method = Literal["full", "lora", "qlora"]
Engine = Literal["one", "ddp", "zero2", "fsdp2", "zero3", "offload"]
#: The simplest first; `offload` is ZeRO-3 with weights and optimizer in main memory.
ENGINES: tuple[Engine, ...] = ("one", "ddp", "fsdp2", "zero2", "zero3", "offload")
_WHOLE = ("one", "ddp")  # weights whole on each GPU, as they are loaded

# Bytes of a weight in NF4: its constants are a byte for 64 weights, and 4 for 64 * 256.
_NF4 = 1 / 2 + 1 / 64 + 4 / (64 * 256)
# DeepSpeed's defaults, in elements: reduce_bucket_size and allgather_bucket_size, then
# stage3_max_live_parameters and sub_group_size.
_BUCKET, _MANY = 5 * 10**8, 10**9
# Guesses: CUDA's context with its libraries' workspaces, NCCL's buffers, gaps between blocks.
_CONTEXT, _NCCL, _GAPS = 1 << 30, 1 << 30, 0.06
_MOST_PAIRS = 4096


@settings
class Setup:
    """What a step trains with, on what."""

    gpus: Count = 1
    """Of all machines together; each has a process."""
    max_length: Count = 512
    """Tokens of a prompt and one response."""
    max_prompt_length: Count | None = None
    """Of them the prompt's; null for half."""
    per_device_train_batch_size: Count = 4
    """Pairs at once on a GPU."""
    gradient_accumulation_steps: Count = 1
    """With more than one, gradients are kept while the next batch is read."""
    lora_r: Count = 16
    """Rank of an adapter on all linear layers."""
    bf16: Flag = True
    """Compute in bfloat16."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights as they are loaded; an adapter's are float32."""
    device: Literal["cuda", "cpu"] = "cuda"
    """On a processor tiles are smaller, and nothing is added for a GPU's own needs."""

    def __post_init__(self) -> None:
        """Refuse pairs without a prompt or a response."""
        if not 0 < self.prompt < self.max_length:
            problem = f"leaves no prompt or no response in max_length {self.max_length}"
            raise FieldError("max_prompt_length", problem)

    @property
    def prompt(self) -> int:
        """Tokens of a prompt."""
        given = self.max_prompt_length
        return self.max_length // 2 if given is None else given


class Sizes(NamedTuple):
    """Elements of a model's parameters, shared ones counted once.

    `linear`: of linear layers below the head, in which products run in bf16 under autocast;
    `largest`: of the largest of these; `root`: outside the decoder layers; `layer`: of the largest
    decoder layer; `head`: of the output layer, `rows` by `hidden`, 0 in `head_trained` if frozen.
    """

    total: int
    trained: int
    linear: int
    largest: int
    root: int
    layer: int
    rows: int
    hidden: int
    head_trained: int

    @property
    def head(self) -> int:
        """Elements of the output layer's weight."""
        return self.rows * self.hidden


def sizes(model: nn.Module) -> Sizes:
    """The sizes of a causal language model or its PEFT wrapper; it may be without content."""

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    head = inner.get_output_embeddings()
    shared = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    linear = [
        module.weight.numel()
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head and id(module.weight) not in shared
    ]
    layers = [count(layer) for layer in repeated_layers(model)]
    rows, hidden = head.weight.shape
    return Sizes(
        total=count(model),
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        linear=sum(linear),
        largest=max(linear, default=0),
        root=count(model) - sum(layers),
        layer=max(layers, default=0),
        rows=rows,
        hidden=hidden,
        head_trained=rows * hidden * head.weight.requires_grad,
    )


class Parts(NamedTuple):
    """Bytes on each GPU; `host` is what an offload takes of all machines' main memory.

    `activations` are the body's, `loss` what the output layer needs at once. `buffers` are the
    engine's: buckets, and weights that are whole for a while. Gradients, activations and the loss
    are not all held at once: `total` is what is held when most is.
    """

    weights: float
    gradients: float
    optimizer: float
    reference: float
    activations: float
    loss: float
    buffers: float
    spare: float
    total: float
    host: float = 0.0


class _Held(NamedTuple):
    """What is there all along, in bytes; `gradient` and `step` are a trained element's.

    `step`: of copies that only the optimizer's step makes, up to `step_most` elements of them.
    """

    weights: float
    optimizer: float
    reference: float
    buffers: float
    gradient: float
    step: float = 0.0
    host: float = 0.0


def _whole(method: Method, engine: Engine, base: Sizes, own: Sizes, setup: Setup) -> _Held:
    """Weights whole on every GPU, as they are loaded: one GPU, and DDP."""
    loaded = 2 if setup.dtype == "bfloat16" else 4
    trained = loaded if method == "full" else 4
    weights: float = trained * own.trained + loaded * (own.total - own.trained)
    if method == "qlora":
        weights += (_NF4 - 2) * base.linear + (2 - loaded) * (own.total - own.trained)
    cast = (loaded - 2) * own.linear if setup.bf16 else 0
    reference = loaded * own.total - cast if method == "full" else 0
    buckets = trained * own.trained if engine == "ddp" else 0
    unpacked = 2 * base.largest if method == "qlora" else 0
    return _Held(weights, 2 * trained * own.trained, reference, buckets + unpacked, trained)


def _in_parts(method: Method, base: Sizes, own: Sizes, setup: Setup) -> _Held:
    """FSDP2: float32 parts; the root, two layers and a layer's gradients are whole for a while."""
    n, compute = setup.gpus, 2 if setup.bf16 else 4
    whole = own.root + 2 * own.layer
    reference = 0.0
    if method == "full":
        whole += own.root + own.layer + base.root  # gradients; the reference's root
        reference = 4 * own.total
    held = 4 * own.total / n, 8 * own.trained / n, reference / n, float(compute * whole)
    return _Held(*held, 4 / n)


def _zero(method: Method, engine: Engine, base: Sizes, own: Sizes, setup: Setup) -> _Held:
    """DeepSpeed: weights and gradients as computed with, float32 weights and moments in parts."""
    n, compute = setup.gpus, 2 if setup.bf16 else 4
    full = method == "full"
    bucket = compute * min(_BUCKET, own.trained)
    reference = compute * own.total if full else 0
    if engine == "zero2":
        moments = 12 * own.trained / n
        return _Held(compute * own.total, moments, reference, 2 * bucket, compute / n, 4 / n)
    live = compute * (min(_MANY, own.total) + (min(_MANY, base.total) if full else 0))
    part = min(1.0, _MANY * n / own.trained)
    if engine == "zero3":
        held = compute * own.total / n, 12 * own.trained / n, reference / n, live + bucket
        return _Held(*held, compute / n, 4 / n * part)
    host = compute * own.total + 16 * own.trained + reference
    return _Held(0, 0, 0, live + bucket, 0, host=host)


def parts(
    method: Method, engine: Engine, base: Sizes, own: Sizes, setup: Setup, kept: Rehearsed
) -> Parts:
    """What a step takes on each GPU.

    `own` are the trained model's sizes, `base` those without its adapter, and `kept` the rehearsal
    of as many pairs as the setup has.
    """
    if engine in _WHOLE:
        held = _whole(method, engine, base, own, setup)
        stored = 2 if setup.dtype == "bfloat16" or method == "qlora" else 4
    elif engine == "fsdp2":
        held, stored = _in_parts(method, base, own, setup), 2 if setup.bf16 else 4
    else:
        held = _zero(method, engine, base, own, setup)
        stored = 2 if setup.bf16 else 4
    pairs, compute = setup.per_device_train_batch_size, 2 if setup.bf16 else 4
    response = setup.max_length - setup.prompt
    head = Head(torch.empty(own.rows, 0, device="meta" if setup.device == "cuda" else "cpu"))
    tile = tile_tokens(pairs, 2 * response, head) * own.rows
    states = pairs * 2 * response * own.hidden * compute
    loss = 2 * tile * compute + 2 * states  # of the reference, and the gradients by the policy's
    if stored != compute:
        loss += 2 * own.head * compute  # both heads in the products' precision
    if own.head_trained:
        loss += own.head * (4 if compute == 4 else 6)  # a float32 sum of bf16 products
    gradients = held.gradient * own.trained
    kept_before = gradients if setup.gradient_accumulation_steps > 1 else 0.0
    new = 0.0 if kept_before else held.gradient
    after_head = states + stored * own.head_trained
    passes = max(
        kept.forward + states + kept_before,
        kept.held + loss + kept_before,
        float((kept.backward + new * kept.done).max()) + after_head + kept_before,
        gradients + held.step * own.trained,
    )
    whole = held.weights + held.optimizer + held.reference + held.buffers + passes
    spare = 0.0
    if setup.device == "cuda":
        spare = _CONTEXT + (_NCCL if setup.gpus > 1 else 0) + _GAPS * whole
    activations = max(kept.forward, kept.held, float(kept.backward.max()))
    return Parts(
        *(held.weights, gradients, held.optimizer, held.reference, activations, loss),
        *(held.buffers, spare, whole + spare, held.host),
    )


class Plan(NamedTuple):
    """One way to train: what it takes, and how many pairs a GPU fit at most (0: none)."""

    method: Method
    engine: Engine
    checkpointing: bool
    parts: Parts
    most_pairs: int


def plans(
    config: PreTrainedConfig,
    setup: Setup,
    gpu_memory: float,
    checkpointing: bool | None = None,
    rehearsing: Callable[..., Rehearsal] = rehearse,
) -> list[Plan]:
    """Every way to train a model of this configuration on GPUs of so many bytes.

    With and without activation checkpointing unless one is asked for. Four bits go with whole
    weights alone, and one GPU needs no engine but for an offload. Rehearsals do not depend on the
    number of GPUs: `rehearsing` may remember them.

    Raises `InputError` for a configuration that no causal language model can be made of.
    """
    adapter = LoraConfig(r=setup.lora_r, target_modules="all-linear", task_type="CAUSAL_LM")
    base = sizes(outline(config))
    adapted = sizes(outline(config, adapter=adapter))

    @cache
    def rehearsed(compute: Compute, dtype: torch.dtype, adapts: bool, again: bool) -> Rehearsal:
        pairs = setup.per_device_train_batch_size
        lengths = pairs, setup.prompt, setup.max_length - setup.prompt
        given = adapter if adapts else None
        return rehearse(config, lengths, compute, dtype=dtype, adapter=given, checkpointing=again)

    def plan(method: Method, engine: Engine, again: bool) -> Plan:
        own = base if method == "full" else adapted
        compute: Compute = "fp32"
        if setup.bf16:
            compute = "autocast" if engine in _WHOLE else "engine"
        loaded = "bfloat16" if method == "qlora" else setup.dtype
        dtype = getattr(torch, loaded) if engine in _WHOLE else torch.float32
        kept = rehearsed(compute, dtype, method != "full", again)

        def taken(pairs: int) -> Parts:
            asked = replace(setup, per_device_train_batch_size=pairs)
            return parts(method, engine, base, own, asked, kept.at(pairs))

        fits = bisect.bisect_left(
            range(1, _MOST_PAIRS), True, key=lambda n: taken(n).total > gpu_memory
        )
        return Plan(method, engine, again, taken(setup.per_device_train_batch_size), fits)

    ways = (False, True) if checkpointing is None else (checkpointing,)
    return [
        plan(method, engine, again)
        for again in ways
        for method in get_args(Method)
        for engine in (("one", "offload") if setup.gpus == 1 else ENGINES[1:])
        if method != "qlora" or engine in _WHOLE
    ]


def simplest(found: Iterable[Plan], gpu_memory: float) -> dict[Method, Plan]:
    """Of each method that fits at all, the way to recommend.

    The first of `ENGINES` that fits; without checkpointing where that fits too, for it is quicker.
    """
    fitting = [plan for plan in found if plan.parts.total <= gpu_memory]
    fitting.sort(key=lambda plan: (ENGINES.index(plan.engine), plan.checkpointing), reverse=True)
    return {plan.method: plan for plan in fitting}
