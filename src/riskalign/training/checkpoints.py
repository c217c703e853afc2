"""What `Trainer` saves and loads under an engine; its methods, to be set in a class of its kind.

Weights are safetensors, and FSDP2's states are saved whole, as one process saves them: what any
number of processes saved any other can resume. DeepSpeed's states are its own.
"""

import importlib
import os
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType  # type: ignore[import-untyped]
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from riskalign.errors import InputError
from riskalign.models import check_weights
from riskalign.training.engines import check_parts, whole_tensor


def resumable(trainer: Any, given: Any) -> str:
    """The checkpoint's folder, checked; FSDP2's weights are loaded while they are whole.

    `given` is the folder, or True for the last one. Raises `InputError` where there is none, or it
    needs another engine or number of processes.
    """
    folder = get_last_checkpoint(str(trainer.args.output_dir)) if given is True else given
    if folder is None or not Path(folder).is_dir():
        where = folder or trainer.args.output_dir
        raise InputError(f"{where}: no checkpoint here to resume from.")
    zero = trainer.accelerator.distributed_type == DistributedType.DEEPSPEED
    shards, processes = len({*Path(folder).glob("*/*_optim_states.pt")}), trainer.args.world_size
    if bool(shards) != zero:
        owner = "DeepSpeed" if shards else "an engine other than DeepSpeed"
        raise InputError(f"{folder}: {owner} wrote this checkpoint; resume it with the same.")
    if zero and shards != processes:
        raise InputError(
            f"{folder}: DeepSpeed wrote this checkpoint with {shards} processes, and this run has "
            f"{processes}. Resume it with {shards}, or start anew from its weights."
        )
    if trainer.is_fsdp_enabled:
        if not (Path(folder) / "optimizer.pt").is_file():
            raise InputError(f"{folder}: no optimizer.pt here, without which nothing is resumed.")
        if any(hasattr(weight, "full_tensor") for weight in trainer.model.parameters()):
            raise InputError(f"{folder}: the model is in parts already; resume with a new trainer.")
        trainer.is_fsdp_enabled = False
        Trainer._load_from_checkpoint(trainer, str(folder))
        trainer.is_fsdp_enabled = True
    return str(folder)


def load_from_checkpoint(self: Any, *args: Any, **kwargs: Any) -> None:
    """As `Trainer`'s, but not again what `resumable` has loaded."""
    if not self.is_fsdp_enabled:
        Trainer._load_from_checkpoint(self, *args, **kwargs)


def save_model(self: Any, output_dir: str | None = None, _internal_call: bool = False) -> None:
    """As `Trainer`'s, settings as JSON, no pickle; `InputError` for weights not finite."""
    folder = Path(output_dir or str(self.args.output_dir))
    unwrapped, whose = self.accelerator.unwrap_model(self.model), f"model for {str(folder)!r}"
    if self.is_fsdp_enabled or self.is_deepspeed_enabled:
        check_parts(unwrapped, self.accelerator, whose)
    else:
        check_weights(unwrapped, whose)
    Trainer.save_model(self, output_dir, _internal_call)
    if self.args.should_save:
        (folder / "training_args.bin").unlink(missing_ok=True)
        unfinished = folder / "training_args.json.tmp"
        unfinished.write_text(self.args.to_json_string(), encoding="utf-8")
        os.replace(unfinished, folder / "training_args.json")


def save(self: Any, output_dir: str | None = None, state_dict: Any = None) -> None:
    """As `Trainer`'s; of shared (tied) weights, of which engines make copies, one is saved."""
    model: nn.Module = self.accelerator.unwrap_model(self.model)
    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if state_dict and name in state_dict and known in state_dict:
            state_dict[name] = state_dict[known]
    Trainer._save(self, output_dir, state_dict)


def save_states(self: Any, output_dir: str) -> None:
    """As `Trainer`'s; FSDP2's states whole, and not the weights again, in another format."""
    if not self.is_fsdp_enabled:
        Trainer._save_optimizer_and_scheduler(self, output_dir)
        return
    made = self.optimizer.state_dict()
    for index, state in made["state"].items():
        found = {name: whole_tensor(value) for name, value in state.items()}  # by all processes
        kept = found if self.args.should_save else {}
        made["state"][index] = {n: v.cpu() if isinstance(v, Tensor) else v for n, v in kept.items()}
    if self.args.should_save:
        torch.save(made, Path(output_dir) / "optimizer.pt")
        torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")


def load_states(self: Any, checkpoint: str | None) -> None:
    """As `Trainer`'s; every process takes its parts of FSDP2's states out of whole ones."""
    if checkpoint is None or not self.is_fsdp_enabled:
        Trainer._load_optimizer_and_scheduler(self, checkpoint)
        return
    distribute: Any = importlib.import_module("torch.distributed.tensor").distribute_tensor
    how: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    made = torch.load(Path(checkpoint) / "optimizer.pt", mmap=True, **how)
    weights: list[Any] = [p for group in self.optimizer.param_groups for p in group["params"]]
    for index, state in made["state"].items():
        own = weights[index]
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == own.shape:
                value = value.to(own.device_mesh.device_type)
                state[name] = distribute(value, own.device_mesh, own.placements)
    self.optimizer.load_state_dict(made)
    self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / "scheduler.pt", **how))
