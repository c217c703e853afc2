"""The state of PPO-Lagrangian between two iterations: made, saved and loaded.

On disk it is safetensors and JSON. Random numbers need no state: they are made from the seed and
the iteration's number.
"""

import copy
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from riskalign.data import can_share_prompt
from riskalign.errors import InputError
from riskalign.files.atomic import new_folder
from riskalign.files.folder import from_json
from riskalign.safe_rlhf.learn import Optimizers, trained_weights
from riskalign.safe_rlhf.rollout import Models, Scorer, Task
from riskalign.scorers.scalar import ScalarModel, scalar_model
from riskalign.scorers.training_run import Accelerator, derive, seeded
from riskalign.tokens import backbone_of
from riskalign.training.preparation import check_vocabulary, padding_id
from riskalign.training.reference import with_reference

_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass
class State:
    """Models, optimizers, λ on a logarithmic scale, and an entry of the log for each iteration."""

    models: Models
    optimizers: Optimizers
    log_lambda: float
    log: list[dict[str, float]]


def start(
    model: nn.Module,
    task: Task,
    critics: Mapping[str, ScalarModel | None],
    adapter: PeftConfig | None,
    critic_adapter: PeftConfig | None,
    accelerator: Accelerator,
) -> State:
    """Policy, reference and critics on their device, dropout off, with an AdamW for each.

    Raises:
        InputError: a model has no weight to train, or the tokenizer is another model's.
    """
    # Before the policy gets an adapter, which would be copied with its body.
    trained_critics = {
        name: _critic(given, task.scorers[name], model, critic_adapter, derive(task.seed, name))
        for name, given in critics.items()
    }
    with seeded(task.seed, "adapter"):
        # PEFT writes the names it finds into the caller's object.
        policy, reference = with_reference(model, None, copy.deepcopy(adapter))
    with reference.active(policy) as ref:
        check_vocabulary(task.tokenizer, policy, ref)
    if accelerator.mixed_precision == "bf16":
        reference.cast_once(torch.bfloat16)
    scorers = [scorer for scorer in task.scorers.values() if isinstance(scorer, ScalarModel)]
    bodies: list[Any] = [scalar.body for scalar in (*trained_critics.values(), *scorers)]
    shared = all(can_share_prompt(body.config) for body in (backbone_of(policy), *bodies))
    pad = padding_id(task.tokenizer)
    models = Models(policy, reference, trained_critics, pad, shared, accelerator)
    for module in (*models.trained().values(), reference.model, *scorers):
        if module is not None:
            module.to(accelerator.device).eval()
    optimizers = {}
    for name, module in models.trained().items():
        weights = trained_weights(module).values()
        if not weights:
            raise InputError(
                "model: no weight of a policy or critic is to be trained (requires_grad). Call "
                "its requires_grad_(True), or give a peft_config."
            )
        # `_iterate` sets the rates.
        optimizers[name] = torch.optim.AdamW(weights, weight_decay=task.settings.weight_decay)
    return State(models, optimizers, math.log(task.settings.lambda_init), [])


def _critic(
    given: ScalarModel | None,
    scorer: Scorer,
    model: nn.Module,
    peft_config: PeftConfig | None,
    seed: int,
) -> ScalarModel:
    """The one given, or a copy of the trained scorer, or the policy's body with a head of zeros."""
    if given is not None:
        critic = given
    elif isinstance(scorer, ScalarModel):
        critic = copy.deepcopy(scorer)
        critic.merge_adapter()
        critic.requires_grad_(True)
    else:
        critic = scalar_model(model, seed=seed, head_std=0.0)
    if peft_config is not None:
        with seeded(seed, "adapter"):
            critic.add_adapter(peft_config)
    return critic


def save_checkpoint(folder: str | Path, state: State, identity: Mapping[str, Any]) -> None:
    """Write trained weights, optimizer states and progress; the folder is replaced as a whole.

    `identity` says in JSON's types what a run must share with this one to go on from here.
    """
    tensors: dict[str, Tensor] = {}
    for name, model in state.models.trained().items():
        for key, weight in trained_weights(model).items():
            tensors[f"{name}/weights/{key}"] = weight.detach().contiguous()
        for index, moments in state.optimizers[name].state_dict()["state"].items():
            for key, value in moments.items():
                tensors[f"{name}/optimizer/{index}/{key}"] = value.detach().contiguous()
    progress = {"identity": dict(identity), "log_lambda": state.log_lambda, "log": state.log}
    with new_folder(folder) as temporary:
        save_file(tensors, temporary / _TENSORS)
        (temporary / _STATE).write_text(json.dumps(progress, indent=1) + "\n", encoding="utf-8")


def load_checkpoint(folder: str | Path, state: State, identity: Mapping[str, Any]) -> None:
    """Put a checkpoint's weights, optimizer states and progress into place, where there is one.

    Raises:
        InputError: the checkpoint is of another run, or cannot be read.
    """
    path = Path(folder)
    if not (path / _STATE).is_file():
        return
    try:
        progress = from_json((path / _STATE).read_text(encoding="utf-8"))
        tensors = load_file(path / _TENSORS)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"checkpoint {path}: cannot be read ({error}). Remove the folder to start anew."
        ) from error
    saved, wanted = progress["identity"], json.loads(json.dumps(dict(identity)))
    if different := sorted(k for k in saved | wanted if saved.get(k) != wanted.get(k)):
        raise InputError(
            f"checkpoint {path}: it is of a run with other {', '.join(different)}. Give the same "
            "as then, or another folder."
        )
    for name, model in state.models.trained().items():
        _load(model, state.optimizers[name], _below(f"{name}/", tensors))
    state.log_lambda, state.log = progress["log_lambda"], progress["log"]


@torch.no_grad()
def _load(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> None:
    saved = _below("weights/", tensors)
    for key, weight in trained_weights(model).items():
        if key not in saved or saved[key].shape != weight.shape:
            raise InputError(
                f"checkpoint: it has no fitting weight for {key!r}. Give the same model, adapter "
                "and critics as then, or another folder."
            )
        weight.copy_(saved[key])
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below("optimizer/", tensors).items():
        index, _, key = name.partition("/")
        states.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": states, "param_groups": groups})


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): each for n, each in tensors.items() if n.startswith(prefix)}
