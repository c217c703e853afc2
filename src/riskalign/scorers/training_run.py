"""One training run: its random numbers, its accelerator, and what it does not go on from."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

import torch
from accelerate import Accelerator as Accelerator  # type: ignore[import-untyped]
from accelerate.state import AcceleratorState  # type: ignore[import-untyped]
from torch import Tensor

from riskalign.errors import InputError, TrainingDiverged

#: Called with how much is done, of how much, and what it is, in a word or two.
Update: TypeAlias = Callable[[int, int, str], None]


def derive(*parts: int | str) -> int:
    """A seed below 2**31 from a path of names and numbers, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator with the seed `derive(*parts)`."""
    return torch.Generator().manual_seed(derive(*parts))


@contextlib.contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Seed torch for the block; afterwards its generators go on as if nothing had been."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(*parts))
        yield


def make_accelerator(bf16: bool) -> Accelerator:
    """The accelerator of this process, with or without bfloat16 autocast.

    Raises `InputError`: there is more than one process.
    """
    wanted = "bf16" if bf16 else "no"
    held = AcceleratorState._shared_state
    if held and held.get("_mixed_precision") != wanted:
        # A run before this one, of another precision, left its state behind.
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=wanted)
    if accelerator.num_processes > 1:
        raise InputError(
            f"scorers and PPO are trained in one process, not {accelerator.num_processes}. Start "
            "them without `accelerate launch`, or with --num_processes 1."
        )
    return accelerator


def refuse_divergence(value: Tensor, what: str, when: str) -> None:
    """Raise `TrainingDiverged` where a loss or a gradient's norm is not finite."""
    if not bool(torch.isfinite(value.detach()).all()):
        raise TrainingDiverged(
            f"The {what} became NaN or infinite at {when}. Lower learning_rate or set "
            "max_grad_norm, or train in float32."
        )
