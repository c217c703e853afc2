"""`riskalign plan --model`: the memory that training takes on each GPU, and what fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from riskalign.errors import FieldError, InputError

if TYPE_CHECKING:
    from riskalign.training.memory import Parts, Plan

_GIB = 2**30
_WAYS = {
    "one": "one GPU",
    "ddp": "DDP",
    "fsdp2": "FSDP2",
    "zero2": "ZeRO-2",
    "zero3": "ZeRO-3",
    "offload": "ZeRO-3 with offload",
}
_COLUMNS = {
    "weights": "weights",
    "gradients": "grads",
    "optimizer": "AdamW",
    "reference": "ref",
    "activations": "activ",
    "loss": "loss",
    "buffers": "engine",
    "total": "total",
}


class Shown(NamedTuple):
    """A table of rows whose cells are parted by spaces, and what it means."""

    title: str
    names: tuple[str, ...]
    rows: list[str]
    meaning: str


def memory_tables(
    model: str, gpu_memory: float, checkpointing: bool | None, given: Mapping[str, Any]
) -> Iterator[Shown]:
    """What training of a model takes, as tables; `gpu_memory` in GiB, `given` a `Setup`'s fields.

    Raises `InputError` for a model without a usable configuration, and for fields out of range.
    """
    from riskalign.models.outline import outline, read_config
    from riskalign.training.memory import Setup, plans, simplest, sizes

    try:
        setup = Setup(**given)
    except FieldError as error:
        raise InputError(f"plan: --{error.field} {error.problem}") from None
    if not 0 < gpu_memory < 1e6:
        raise InputError(f"plan: --gpu-memory is {gpu_memory:g}; give a GPU's GiB, such as 80")
    config = read_config(model)
    count = sizes(outline(config)).total
    found = plans(config, setup, gpu_memory * _GIB, checkpointing)
    pairs = setup.per_device_train_batch_size
    what = (
        f"{config.model_type}, {count / 1e9:.3g} billion parameters: GiB on each of {setup.gpus} "
        f"GPU{'s' * (setup.gpus > 1)}, {pairs} pair{'s' * (pairs > 1)} at once of "
        f"{setup.prompt} + {setup.max_length - setup.prompt} tokens"
    )
    for again in (False, True):
        own = [plan for plan in found if plan.checkpointing is again]
        rows = [f"{_name(each)} {_cells(each.parts)} {each.most_pairs}" for each in own]
        if rows:
            title = f"{what}, {'with' if again else 'without'} checkpointing"
            yield Shown(title, ("way", *_COLUMNS.values(), "pairs"), rows, "")
    best = simplest(found, gpu_memory * _GIB)
    methods = dict.fromkeys(plan.method for plan in found)
    lines = [f"{method}: {_line(best.get(method), gpu_memory)}" for method in methods]
    yield Shown("", (), [], "\n".join(lines) + f"\n\n{_meaning(found)}")


def _name(plan: Plan) -> str:
    return f"{plan.method},{plan.engine}"


def _cells(parts: Parts) -> str:
    return " ".join(f"{getattr(parts, name) / _GIB:.1f}" for name in _COLUMNS)


def _line(plan: Plan | None, gpu_memory: float) -> str:
    """What to set, in words."""
    if plan is None:
        return f"nothing fits into {gpu_memory:g} GiB; take more GPUs, fewer pairs or shorter ones"
    again = ", gradient_checkpointing: true" if plan.checkpointing else ""
    host = f", and {plan.parts.host / _GIB:,.0f} of main memory" if plan.parts.host else ""
    return (
        f"{_WAYS[plan.engine]}{again}: {plan.parts.total / _GIB:.1f} of {gpu_memory:g} GiB{host}, "
        f"with up to {plan.most_pairs} pairs at once"
    )


def _meaning(found: list[Plan]) -> str:
    hosts = {plan.method: plan.parts.host / _GIB for plan in found if plan.parts.host}
    spare, most = (pick(plan.parts.spare / _GIB for plan in found) for pick in (min, max))
    memory = ", ".join(f"{method} {host:,.0f}" for method, host in hosts.items())
    return (
        "pairs: as many at once fit; 0 for none.\n"
        "total: the largest sum of what is held at one time, for gradients, activations and the "
        "loss's workspace come and go; and a guess for CUDA, NCCL and gaps between blocks, here "
        f"{spare:.1f} to {most:.1f} GiB.\n"
        "offload: ZeRO-3 with weights and AdamW in main memory, in GiB of all machines together: "
        f"{memory}.\n"
        "No engine was measured on GPUs: docs/scale.md."
    )
