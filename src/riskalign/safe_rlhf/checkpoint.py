"""The state of PPO-Lagrangian between two iterations, as safetensors and JSON.

Random numbers need no state: they are made from the seed and the iteration's number.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from riskalign.errors import InputError
from riskalign.files.atomic import new_folder
from riskalign.safe_rlhf.learn import Optimizers, trained_weights
from riskalign.safe_rlhf.rollout import Models

_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class Progress:
    """How far a run is: λ on a logarithmic scale and one entry of the log for each iteration."""

    log_lambda: float
    log: list[dict[str, float]]


def save_checkpoint(
    folder: str | Path,
    models: Models,
    optimizers: Optimizers,
    progress: Progress,
    identity: Mapping[str, Any],
) -> None:
    """Write trained weights, optimizer states and progress; the folder is replaced as a whole.

    `identity` says in JSON's types what a run must share with this one to go on from here.
    """
    tensors: dict[str, Tensor] = {}
    for name, optimizer in vars(optimizers).items():
        for key, weight in trained_weights(getattr(models, name)).items():
            tensors[f"{name}/weights/{key}"] = weight.detach().contiguous()
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                tensors[f"{name}/optimizer/{index}/{key}"] = value.detach().contiguous()
    state = {
        "identity": dict(identity),
        "log_lambda": progress.log_lambda,
        "log": progress.log,
    }
    with new_folder(folder) as temporary:
        save_file(tensors, temporary / _TENSORS)
        (temporary / _STATE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")


def load_checkpoint(
    folder: str | Path, models: Models, optimizers: Optimizers, identity: Mapping[str, Any]
) -> Progress | None:
    """Put a checkpoint's weights and optimizer states into place; None where there is none.

    Raises:
        InputError: the checkpoint is of another run, or cannot be read.
    """
    path = Path(folder)
    if not (path / _STATE).is_file():
        return None
    try:
        state = json.loads((path / _STATE).read_text(encoding="utf-8"))
        tensors = load_file(path / _TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"checkpoint {path}: cannot be read ({error}). Remove the folder to start anew."
        ) from error
    saved = state["identity"]
    wanted = json.loads(json.dumps(dict(identity)))
    if different := sorted(
        name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name)
    ):
        raise InputError(
            f"checkpoint {path}: it is of a run with other {', '.join(different)}. Give the same "
            "as then, or another folder."
        )
    for name, optimizer in vars(optimizers).items():
        _load_weights(trained_weights(getattr(models, name)), f"{name}/weights/", tensors)
        _load_optimizer(optimizer, f"{name}/optimizer/", tensors)
    return Progress(state["log_lambda"], state["log"])


@torch.no_grad()
def _load_weights(
    weights: Mapping[str, Tensor], prefix: str, tensors: Mapping[str, Tensor]
) -> None:
    for key, weight in weights.items():
        found = tensors.get(prefix + key)
        if found is None or found.shape != weight.shape:
            raise InputError(
                f"checkpoint: it has no fitting weight for {key!r}. Give the same model, adapter "
                "and critics as then, or another folder."
            )
        weight.copy_(found)


def _load_optimizer(
    optimizer: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor]
) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, _, key = name[len(prefix) :].partition("/")
            states.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
