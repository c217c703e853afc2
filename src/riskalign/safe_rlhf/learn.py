"""What one iteration's answers teach the policy and the critics.

Source: Safe RLHF (arXiv 2310.12773), section 3.3; PPO (arXiv 1707.06347).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from riskalign.safe_rlhf.gae import estimate_advantages, explained_variance, whiten
from riskalign.safe_rlhf.logps import token_logps
from riskalign.safe_rlhf.ppo_losses import (
    at_last_token,
    clipped_policy_loss,
    clipped_value_loss,
    combine_advantages,
    ptx_loss,
    token_rewards,
)
from riskalign.safe_rlhf.rollout import Models, Rollout
from riskalign.safe_rlhf.settings import PPOSettings
from riskalign.scorers.batch import Sample, collate
from riskalign.scorers.divergence import refuse_divergence
from riskalign.scorers.machine import Accelerator
from riskalign.scorers.seeds import generator


@dataclass(frozen=True)
class Targets:
    """What PPO learns from: combined advantages and the critics' returns, all [S, T]."""

    advantages: Tensor
    reward_returns: Tensor
    cost_returns: Tensor


@dataclass(frozen=True)
class Optimizers:
    """One for each trained model."""

    policy: torch.optim.Optimizer
    reward_critic: torch.optim.Optimizer
    cost_critic: torch.optim.Optimizer

    def clear(self) -> None:
        """Forget all gradients, those that came with a given model included."""
        for optimizer in vars(self).values():
            optimizer.zero_grad()

    def set_rates(self, policy: float, critic: float) -> None:
        """Set the learning rates."""
        for name, optimizer in vars(self).items():
            for group in optimizer.param_groups:
                group["lr"] = policy if name == "policy" else critic


def targets_of(rollout: Rollout, lambda_: float, settings: PPOSettings) -> Targets:
    """Advantages of the Lagrangian and both critics' returns.

    The KL penalty is part of the rewards alone, and `(A_r - λ A_c) / (1 + λ)` divides it with
    them: the policy's problem stays `max E[R] - kl_coef KL - λ E[C]` for every λ.
    """
    mask = rollout.mask
    rewards = token_rewards(
        rollout.logp, rollout.ref_logp, at_last_token(rollout.reward, mask), settings.kl_coef
    )
    costs = at_last_token(rollout.cost, mask)
    of_reward = estimate_advantages(
        rewards, rollout.reward_values, mask, settings.gamma, settings.lam
    )
    of_cost = estimate_advantages(costs, rollout.cost_values, mask, settings.gamma, settings.lam)
    combined = combine_advantages(of_reward.advantages, of_cost.advantages, lambda_)
    if settings.whiten_advantages:
        combined = whiten(combined, mask)
    return Targets(combined, of_reward.returns, of_cost.returns)


def learn(
    models: Models,
    optimizers: Optimizers,
    rollout: Rollout,
    targets: Targets,
    ptx: Sequence[Sample],
    settings: PPOSettings,
    accelerator: Accelerator,
    *,
    seed: int,
    iteration: int,
) -> dict[str, float]:
    """All PPO epochs over one iteration's answers, in place.

    A mini-batch's losses are means over all of its answer tokens. The models stay in evaluation
    mode: dropout would make the ratio of probabilities noise.

    Returns the losses (means over the steps, each before its update), the share of clipped
    tokens, the critics' explained variance before learning, and the number of steps.

    Raises:
        TrainingDiverged: a loss or gradient is not finite; that step is not taken.
    """
    sums: dict[str, float] = {}
    steps = 0
    n = len(rollout.samples)
    for epoch in range(settings.num_ppo_epochs):
        order = torch.randperm(n, generator=generator(seed, "order", iteration, epoch))
        for mini in order.tensor_split(settings.num_mini_batches):
            rows = sorted(mini.tolist())  # answers to one prompt side by side share its reading
            optimizers.clear()
            step = _Step(models, rollout, targets, settings, accelerator)
            losses = step.answers(rows)
            if settings.ptx_coef > 0:
                picked = generator(seed, "ptx", iteration, steps)
                losses["ptx_loss"] = step.ptx(_draw(ptx, settings, picked))
            when = f"iteration {iteration + 1}, step {steps + 1}"
            _update(models, optimizers, settings.max_grad_norm, losses, when)
            steps += 1
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value)
    mask = rollout.mask
    return {
        **{name: total / steps for name, total in sums.items()},
        "reward_explained_variance": explained_variance(
            targets.reward_returns, rollout.reward_values, mask
        ),
        "cost_explained_variance": explained_variance(
            targets.cost_returns, rollout.cost_values, mask
        ),
        "steps": float(steps),
    }


def _draw(ptx: Sequence[Sample], settings: PPOSettings, picked: torch.Generator) -> list[Sample]:
    size = min(settings.per_device_train_batch_size, len(ptx))
    return [ptx[i] for i in torch.randperm(len(ptx), generator=picked)[:size].tolist()]


@dataclass(frozen=True)
class _Step:
    """Gradients of one mini-batch, added up over passes that fit into memory."""

    models: Models
    rollout: Rollout
    targets: Targets
    settings: PPOSettings
    accelerator: Accelerator

    def answers(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """Of the policy and both critics on the answers `rows`."""
        models, old, targets, settings = self.models, self.rollout, self.targets, self.settings
        tokens = old.mask[list(rows)].sum()
        found: dict[str, Tensor] = {}

        def add(name: str, share: Tensor) -> None:
            found[name] = found.get(name, torch.zeros_like(share)) + share.detach()

        for at in range(0, len(rows), settings.per_device_train_batch_size):
            own = list(rows[at : at + settings.per_device_train_batch_size])
            batch = self._collate([old.samples[i] for i in own])
            mask = old.mask[own]

            def of(values: Tensor, own: list[int] = own, mask: Tensor = mask) -> Tensor:
                return values[own][mask]  # from all answers' [S, T] to these answers' [N]

            with self.accelerator.autocast():
                logp = token_logps(models.policy, batch).logp
            losses, clipped = clipped_policy_loss(
                logp, of(old.logp), of(targets.advantages), settings.cliprange
            )
            loss = losses.sum() / tokens
            self.accelerator.backward(loss)
            add("policy_loss", loss)
            add("clip_fraction", clipped.sum() / tokens)
            for name, critic, before, returns in (
                ("reward", models.reward_critic, old.reward_values, targets.reward_returns),
                ("cost", models.cost_critic, old.cost_values, targets.cost_returns),
            ):
                with self.accelerator.autocast():
                    values = critic.values(batch)
                losses = clipped_value_loss(
                    values, of(before), of(returns), settings.cliprange_value
                )
                loss = losses.sum() / tokens
                self.accelerator.backward(settings.vf_coef * loss)
                add(f"{name}_value_loss", loss)
        return found

    def ptx(self, samples: Sequence[Sample]) -> Tensor:
        """Of the policy on given responses: mean over their tokens, weighed by `ptx_coef`."""
        with self.accelerator.autocast():
            logp = token_logps(self.models.policy, self._collate(samples)).logp
        loss = ptx_loss(logp).mean()
        self.accelerator.backward(self.settings.ptx_coef * loss)
        return loss.detach()

    def _collate(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        models = self.models
        return collate(samples, models.pad_token_id, models.shared_prompt, self.accelerator.device)


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _update(
    models: Models,
    optimizers: Optimizers,
    max_grad_norm: float,
    losses: dict[str, Tensor],
    when: str,
) -> None:
    """Check, shorten and apply the gradients of all three models."""
    for name, loss in losses.items():
        refuse_divergence(loss, name.replace("_", " "), when)
    for name in vars(optimizers):
        weights = trained_weights(getattr(models, name)).values()
        norm = clip_grad_norm_(weights, max_grad_norm)
        refuse_divergence(norm, f"{name.replace('_', ' ')}'s gradient", when)
    for optimizer in vars(optimizers).values():
        optimizer.step()
