"""One accelerator for one training run."""

from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.state import AcceleratorState  # type: ignore[import-untyped]

from riskalign.errors import InputError

__all__ = ["Accelerator", "make_accelerator"]


def make_accelerator(bf16: bool) -> Accelerator:
    """The accelerator of this process, with or without bfloat16 autocast.

    Raises:
        InputError: there is more than one process.
    """
    wanted = "bf16" if bf16 else "no"
    held = AcceleratorState._shared_state
    if held and held.get("_mixed_precision") != wanted:
        # A run before this one, of another precision, left its state behind.
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=wanted)
    if accelerator.num_processes > 1:
        raise InputError(
            f"baselines run in one process, not {accelerator.num_processes}. Start them without "
            "`accelerate launch`, or with --num_processes 1."
        )
    return accelerator
