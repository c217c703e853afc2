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

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from riskalign.data import Source
from riskalign.errors import InputError
from riskalign.models import LoadedModel, fingerprint
from riskalign.models.sampling import checked_prompts
from riskalign.safe_rlhf.learn import learn
from riskalign.safe_rlhf.objective import next_log_multiplier
from riskalign.safe_rlhf.rollout import Rollout, Scorer, Task, roll_out
from riskalign.safe_rlhf.settings import PPOSettings
from riskalign.safe_rlhf.state import State, load_checkpoint, save_checkpoint, start
from riskalign.scorers.scalar import Sample, ScalarModel
from riskalign.scorers.train import prepare_pairs
from riskalign.scorers.training_run import Update, derive, generator, make_accelerator
from riskalign.worlds import Prompt


@dataclass(frozen=True)
class PPOResult:
    """What PPO-Lagrangian leaves.

    `model` is the trained policy, its adapter not merged, and the critics are as trained. `log` has
    an entry of floats for each iteration; `lambda_` is the last multiplier; the counts are of the
    whole run.
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
    accelerator = make_accelerator(bf16)
    prompt_ids = checked_prompts(model, tokenizer, prompts, settings.max_new_tokens)
    ptx = _ptx_samples(ptx_pairs, tokenizer, model, settings)
    scorers = {"reward": reward, "cost": cost}
    task = Task(tokenizer, prompts, prompt_ids, scorers, ptx, settings, seed)
    identity: dict[str, Any] = {}
    if checkpoint is not None:  # of the model as it is given
        identity = _identity(model, task, bf16, peft_config, critic_peft_config)
    critics = {"reward": reward_critic, "cost": cost_critic}
    state = start(model, task, critics, peft_config, critic_peft_config, accelerator)
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
    answers, tokens, steps = (
        int(sum(entry[name] for entry in state.log)) for name in ("answers", "tokens", "steps")
    )
    return PPOResult(
        model=state.models.policy,
        reward_critic=state.models.critics["reward"],
        cost_critic=state.models.critics["cost"],
        log=state.log,
        lambda_=math.exp(state.log_lambda),
        sampled_answers=answers,
        sampled_tokens=tokens,
        learning_steps=steps,
    )


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
