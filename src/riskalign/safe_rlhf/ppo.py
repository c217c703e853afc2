"""PPO-Lagrangian: the loop of Safe RLHF's third stage.

**The problem solved.** `max E[R] - kl_coef KL(π || ref)` subject to `E[C] <= threshold`, over
whole answers. Each token is paid `-kl_coef (log π - log ref)` and the last one the answer's reward
beside; costs fall due at the last token. At the multiplier λ the optimum is
`π ∝ ref exp((R - λ C) / kl_coef)`, and λ is the one at which the constraint just holds (0 where it
holds anyway): `riskalign.theory.over_responses` computes both on a tree.

**How this differs from the authors' code.** There the KL penalty goes to the reward and, with the
opposite sign, to the cost, so that `(A_r - λ A_c) / (1 + λ)` keeps the KL's weight while it divides
reward and cost: the temperature, in units of the reward, grows with λ. Here the whole penalty is
the reward's and is divided with it, so that λ is a Lagrange multiplier and the temperature stays
`kl_coef`. λ moves once an iteration, by that iteration's mean cost, before the policy learns; there
by an average over a window of answers.

Source: Safe RLHF (arXiv 2310.12773), section 3.3.
"""

import copy
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from riskalign.data import Source, can_share_prompt
from riskalign.errors import InputError
from riskalign.files.atomic import new_folder
from riskalign.files.folder import from_json
from riskalign.models import LoadedModel, fingerprint
from riskalign.models.sampling import checked_prompts
from riskalign.safe_rlhf.learn import Optimizers, learn, trained_weights
from riskalign.safe_rlhf.objective import next_log_multiplier
from riskalign.safe_rlhf.rollout import Models, Rollout, Scorer, Task, roll_out
from riskalign.safe_rlhf.settings import PPOSettings
from riskalign.scorers.scalar import Sample, ScalarModel, scalar_model
from riskalign.scorers.train import prepare_pairs
from riskalign.scorers.training_run import Update, derive, generator, make_accelerator, seeded
from riskalign.tokens import backbone_of
from riskalign.training.preparation import check_vocabulary, padding_id
from riskalign.training.reference import with_reference
from riskalign.worlds import Prompt

_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass
class State:
    """Models, optimizers, λ on a logarithmic scale, and an entry of the log for each iteration.

    On disk it is safetensors and JSON. Random numbers need no state: they are made from the seed
    and the iteration's number.
    """

    models: Models
    optimizers: Optimizers
    log_lambda: float
    log: list[dict[str, float]]


@dataclass(frozen=True)
class PPOResult:
    """What PPO-Lagrangian leaves.

    `model` is the trained policy, its adapter not merged, and the critics are as trained. `log` has
    an entry of floats for each iteration; `lambda_` is the last multiplier; counts are the run's.
    """

    model: nn.Module
    reward_critic: ScalarModel
    cost_critic: ScalarModel
    log: list[dict[str, float]]
    lambda_: float
    sampled_answers: int
    sampled_tokens: int
    learning_steps: int


def train_ppo_lagrangian(
    loaded: LoadedModel | tuple[PreTrainedModel, PreTrainedTokenizerBase],
    prompts: Sequence[Prompt],
    reward: Scorer,
    cost: Scorer,
    settings: PPOSettings,
    *,
    peft_config: PeftConfig | None = None,
    critic_peft_config: PeftConfig | None = None,
    ptx_pairs: Source | None = None,
    seed: int = 0,
    bf16: bool = False,
    reward_critic: ScalarModel | None = None,
    cost_critic: ScalarModel | None = None,
    checkpoint: str | Path | None = None,
    save_steps: int = 1,
    update: Update | None = None,
) -> PPOResult:
    """Train a policy by PPO on reward and cost, with the multiplier learnt beside it.

    The log's entries: `iteration`, `reward`, `cost`, `unsafe_rate` (cost above 0), `kl` (mean
    `log π/ref` of the answers, nats), `lambda` (the one that the iteration learnt with),
    `entropy` (nats a token), `policy_loss`, `reward_value_loss`, `cost_value_loss`, `ptx_loss`
    where there is one, `clip_fraction`, `reward_explained_variance`, `cost_explained_variance`,
    `finished_rate`, `answers`, `tokens` and `steps` (optimizer steps of the policy).

    Args:
        loaded: the policy and its tokenizer; trained in place. The reference is the policy as
            given: its adapter switched off, or a frozen copy.
        prompts: what is answered, in a new random order each time all have been.
        reward: `(prompt, answer text) -> float`, or a trained reward model with the policy's own
            tokenizer.
        cost: likewise; above 0 is unsafe.
        peft_config: trains an adapter in the policy instead of all weights.
        critic_peft_config: the same in both critics.
        ptx_pairs: preference rows whose chosen answers the policy is to keep likely.
        seed: decides every random number.
        bf16: compute in bfloat16 where that is safe; weights stay as they are.
        reward_critic: trained in place; without it a copy of the reward model, or of the policy's
            body with a head of zeros where the reward is a program.
        cost_critic: likewise.
        checkpoint: a folder for the state between iterations. Where it holds one of the same run,
            the run goes on from there, given the same models, reward and cost as at its start:
            settings, policy and prompts are compared, programs cannot be.
        save_steps: iterations between two checkpoints.
        update: called with (iteration, iterations, note) after each.

    Raises:
        InputError: settings, models, prompts or rewards that do not fit.
        TrainingDiverged: a loss or gradient is not finite.
    """
    if isinstance(loaded, LoadedModel):
        model, tokenizer = loaded.model, loaded.tokenizer
    else:
        model, tokenizer = loaded
    if not prompts:
        raise InputError("prompts: there are none. Give at least one.")
    if save_steps < 1:
        raise InputError(f"save_steps is {save_steps}. Give an integer of at least 1.")
    if reward_critic is not None and reward_critic is cost_critic:
        raise InputError("cost_critic is the same object as reward_critic. Give two models.")
    prompt_ids = checked_prompts(model, tokenizer, prompts, settings.max_new_tokens)
    ptx = _ptx_samples(ptx_pairs, tokenizer, model, settings)
    scorers = {"reward": reward, "cost": cost}
    task = Task(tokenizer, prompts, prompt_ids, scorers, ptx, settings, seed)
    identity: dict[str, Any] = {}
    if checkpoint is not None:  # of the model as it is given
        identity = _identity(model, task, bf16, peft_config, critic_peft_config)
    critics = {"reward": reward_critic, "cost": cost_critic}
    state = start(model, task, critics, peft_config, critic_peft_config, bf16)
    if checkpoint is not None:
        load_checkpoint(checkpoint, state, identity)
    for done in range(len(state.log) + 1, settings.iterations + 1):
        _iterate(state, task)
        if checkpoint is not None and done % save_steps == 0 and done < settings.iterations:
            save_checkpoint(checkpoint, state, identity)
        if update is not None:
            last = state.log[-1]
            note = f"reward {last['reward']:.3g}, cost {last['cost']:.3g}, λ {last['lambda']:.3g}"
            update(done, settings.iterations, note)
    return PPOResult(
        state.models.policy,
        state.models.critics["reward"],
        state.models.critics["cost"],
        state.log,
        math.exp(state.log_lambda),
        *(int(sum(entry[name] for entry in state.log)) for name in ("answers", "tokens", "steps")),
    )


def start(
    model: nn.Module,
    task: Task,
    critics: Mapping[str, ScalarModel | None],
    adapter: PeftConfig | None,
    critic_adapter: PeftConfig | None,
    bf16: bool,
) -> State:
    """Policy, reference and critics on their device, dropout off, with an AdamW for each.

    Raises `InputError`: a model has no weight to train, or the tokenizer is another model's.
    """
    accelerator = make_accelerator(bf16)
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


def _iterate(state: State, task: Task) -> None:
    """Sample, move the multiplier, learn: one iteration, its number being the log's length."""
    settings, seed, iteration = task.settings, task.seed, len(state.log)
    left = 1.0 - iteration / settings.iterations
    factor = left if settings.lr_scheduler_type == "linear" else 1.0
    for name, optimizer in state.optimizers.items():
        policy = name == "policy"
        rate = settings.learning_rate if policy else settings.critic_learning_rate
        for group in optimizer.param_groups:
            group["lr"] = factor * rate
    chosen = pick_prompts(len(task.prompts), settings.prompts_per_iteration, iteration, seed)
    rollout = roll_out(state.models, task, chosen, derive(seed, "answers", iteration))
    state.log_lambda = next_log_multiplier(
        state.log_lambda,
        float(rollout.scores["cost"].mean()),
        settings.threshold,
        settings.lambda_lr,
        settings.lambda_max,
    )
    lambda_ = math.exp(state.log_lambda)
    learnt = learn(state.models, state.optimizers, task, rollout, lambda_, iteration)
    about = {"iteration": float(iteration), "lambda": lambda_, **_summary(rollout)}
    state.log.append(about | learnt)


def pick_prompts(n: int, per_iteration: int, iteration: int, seed: int) -> list[int]:
    """Numbers of an iteration's prompts: the next ones of endless shuffled passes over all n.

    No prompt comes up again before every other one has, within a pass. It depends on its arguments
    only, so that a resumed run meets the same prompts.
    """
    picked: list[int] = []
    at = iteration * per_iteration
    while len(picked) < per_iteration:
        turn, place = divmod(at + len(picked), n)
        order = torch.randperm(n, generator=generator(seed, "prompts", turn)).tolist()
        picked += order[place : place + per_iteration - len(picked)]
    return picked


def _summary(rollout: Rollout) -> dict[str, float]:
    tokens = rollout.mask.sum()
    return {
        "reward": float(rollout.scores["reward"].mean()),
        "cost": float(rollout.scores["cost"].mean()),
        "unsafe_rate": float((rollout.scores["cost"] > 0).float().mean()),
        "kl": float((rollout.logp - rollout.ref_logp).sum(-1).mean()),
        "entropy": float(rollout.entropy.sum() / tokens),
        "finished_rate": sum(rollout.finished) / len(rollout.finished),
        "answers": float(len(rollout.samples)),
        "tokens": float(tokens),
    }


def _ptx_samples(
    pairs: Source | None, tokenizer: PreTrainedTokenizerBase, model: Any, settings: PPOSettings
) -> list[Sample]:
    if (settings.ptx_coef > 0) != (pairs is not None):
        raise InputError(
            f"ptx_coef is {settings.ptx_coef} and ptx_pairs are "
            f"{'missing' if pairs is None else 'given'}. Give both or neither."
        )
    if pairs is None:
        return []
    positions = getattr(model.config, "max_position_embeddings", None)
    prepared, _ = prepare_pairs(
        pairs, "ptx_pairs", tokenizer, model, signs=False, max_length=positions
    )
    if any(pair.chosen_gaps for pair in prepared):
        raise InputError(
            "ptx_pairs: a chosen response has several turns, and what the template writes between "
            "them would be learnt. Give what comes before the last turn as 'prompt'."
        )
    return [pair.chosen for pair in prepared]


def _identity(
    model: nn.Module, task: Task, bf16: bool, *adapters: PeftConfig | None
) -> dict[str, Any]:
    """What a run must share with a checkpoint's to go on from it."""
    text = json.dumps([[prompt.id, *prompt.messages] for prompt in task.prompts])

    def simple(value: object) -> object:
        return sorted(value) if isinstance(value, set) else str(value)  # a set's order varies

    plain = [adapter and json.dumps(adapter.to_dict(), default=simple) for adapter in adapters]
    return {
        **asdict(task.settings),
        "seed": task.seed,
        "bf16": bf16,
        "model": fingerprint(model),
        "prompts": hashlib.sha256(text.encode()).hexdigest(),
        "adapters": [adapter and json.loads(adapter) for adapter in plain],
    }


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


@torch.no_grad()
def load_checkpoint(folder: str | Path, state: State, identity: Mapping[str, Any]) -> None:
    """Put a checkpoint's weights, optimizer states and progress into place, where there is one.

    Raises `InputError` where the checkpoint is of another run, or cannot be read.
    """
    path = Path(folder)
    if not os.path.isfile(path / _STATE):
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
    moments: dict[str, dict[int, dict[str, Tensor]]] = {name: {} for name in state.optimizers}
    for place, tensor in tensors.items():
        name, part, key = place.split("/", 2)
        if part == "optimizer":
            index, _, key = key.partition("/")
            moments[name].setdefault(int(index), {})[key] = tensor
    for name, model in state.models.trained().items():
        for key, weight in trained_weights(model).items():
            kept = tensors.get(f"{name}/weights/{key}")
            if kept is None or kept.shape != weight.shape:
                raise InputError(
                    f"checkpoint: it has no fitting weight for {key!r}. Give the same model, "
                    "adapter and critics as then, or another folder."
                )
            weight.copy_(kept)
        optimizer = state.optimizers[name]
        optimizer.load_state_dict({**optimizer.state_dict(), "state": moments[name]})
    state.log_lambda, state.log = progress["log_lambda"], progress["log"]
