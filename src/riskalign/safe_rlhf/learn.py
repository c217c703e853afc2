"""What one iteration's answers teach the policy and the critics.

Source: Safe RLHF (arXiv 2310.12773), section 3.3; PPO (arXiv 1707.06347).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from riskalign.safe_rlhf.objective import (
    at_last_token,
    clipped_policy_loss,
    clipped_value_loss,
    combine_advantages,
    estimate_advantages,
    explained_variance,
    token_rewards,
    whiten,
)
from riskalign.safe_rlhf.rollout import Models, Rollout, Task, token_logps
from riskalign.safe_rlhf.settings import PPOSettings
from riskalign.scorers.scalar import Sample
from riskalign.scorers.training_run import generator, refuse_divergence

Optimizers = Mapping[str, torch.optim.Optimizer]


def learn(
    models: Models,
    optimizers: Optimizers,
    task: Task,
    rollout: Rollout,
    lambda_: float,
    iteration: int,
) -> dict[str, float]:
    """All PPO epochs over one iteration's answers, in place.

    A mini-batch's losses are means over all of its answer tokens. The models stay in evaluation
    mode: dropout would make the ratio of probabilities noise.

    Returns the losses (means over the steps, each before its update), the share of clipped
    tokens, the critics' explained variance before learning, and the number of steps.

    Raises `TrainingDiverged`: a loss or gradient is not finite; that step is not taken.
    """
    settings, seed, mask = task.settings, task.seed, rollout.mask
    advantages, returns = _targets(rollout, lambda_, settings)
    sums: dict[str, float] = {}
    steps = 0
    for epoch in range(settings.num_ppo_epochs):
        order = generator(seed, "order", iteration, epoch)
        shuffled = torch.randperm(len(rollout.samples), generator=order)
        for mini in shuffled.tensor_split(settings.num_mini_batches):
            for optimizer in optimizers.values():  # gradients of a given model's own included
                optimizer.zero_grad()
            rows = sorted(mini.tolist())  # answers to one prompt side by side share its reading
            losses = _on_answers(models, settings, rollout, advantages, returns, rows)
            if settings.ptx_coef > 0:
                picked = generator(seed, "ptx", iteration, steps)
                drawn = torch.randperm(len(task.ptx), generator=picked).tolist()
                some = [task.ptx[i] for i in drawn[: settings.per_device_train_batch_size]]
                losses["ptx_loss"] = _on_ptx(models, some, settings.ptx_coef)
            when = f"iteration {iteration + 1}, step {steps + 1}"
            _update(models, optimizers, settings.max_grad_norm, losses, when)
            steps += 1
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value)
    explained = {
        f"{name}_explained_variance": explained_variance(of, rollout.values[name], mask)
        for name, of in returns.items()
    }
    means = {name: total / steps for name, total in sums.items()}
    return {**means, **explained, "steps": float(steps)}


def _targets(
    rollout: Rollout, lambda_: float, settings: PPOSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """Advantages of the Lagrangian and both critics' returns, all [S, T].

    The KL penalty is part of the rewards alone, and `(A_r - λ A_c) / (1 + λ)` divides it with
    them: the policy's problem stays `max E[R] - kl_coef KL - λ E[C]` for every λ.
    """
    mask = rollout.mask
    paid = {name: at_last_token(scores, mask) for name, scores in rollout.scores.items()}
    paid["reward"] = token_rewards(rollout.logp, rollout.ref_logp, paid["reward"], settings.kl_coef)
    found = {
        name: estimate_advantages(of, rollout.values[name], mask, settings.gamma, settings.lam)
        for name, of in paid.items()
    }
    combined = combine_advantages(found["reward"][0], found["cost"][0], lambda_)
    if settings.whiten_advantages:
        combined = whiten(combined, mask)
    return combined, {name: returns for name, (_, returns) in found.items()}


def _on_answers(
    models: Models,
    settings: PPOSettings,
    old: Rollout,
    advantages: Tensor,
    returns: Mapping[str, Tensor],
    rows: Sequence[int],
) -> dict[str, Tensor]:
    """Losses of the policy and both critics on the answers `rows`; adds their gradients up."""
    tokens = old.mask[list(rows)].sum()
    found: dict[str, Tensor] = {}

    def add(name: str, values: Tensor, factor: float = 0.0) -> None:
        share = values.sum() / tokens
        if factor:
            models.accelerator.backward(factor * share)
        found[name] = found.get(name, torch.zeros_like(share)) + share.detach()

    for at in range(0, len(rows), settings.per_device_train_batch_size):
        part = list(rows[at : at + settings.per_device_train_batch_size])
        batch = models.batch([old.samples[i] for i in part])

        def of(values: Tensor, part: list[int] = part) -> Tensor:
            return values[part][old.mask[part]]  # from all [S, T] to these answers' [N]

        with models.accelerator.autocast():
            logp, _ = token_logps(models.policy, batch)
        losses, clipped = clipped_policy_loss(
            logp, of(old.logp), of(advantages), settings.cliprange
        )
        add("policy_loss", losses, 1.0)
        add("clip_fraction", clipped)
        for name, critic in models.critics.items():
            with models.accelerator.autocast():
                values = critic.values(batch)
            losses = clipped_value_loss(
                values, of(old.values[name]), of(returns[name]), settings.cliprange_value
            )
            add(f"{name}_value_loss", losses, settings.vf_coef)
    return found


def _on_ptx(models: Models, samples: Sequence[Sample], weight: float) -> Tensor:
    """Mean negative log-likelihood in nats of given answers' tokens; adds its weighed gradient up.

    It is InstructGPT's pretraining term. Source: Ouyang et al. (arXiv 2203.02155), equation 2.
    """
    with models.accelerator.autocast():
        logp, _ = token_logps(models.policy, models.batch(samples))
    loss = (-logp).mean()
    models.accelerator.backward(weight * loss)
    return loss.detach()


def trained_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _update(
    models: Models,
    optimizers: Optimizers,
    max_grad_norm: float,
    losses: Mapping[str, Tensor],
    when: str,
) -> None:
    """Check, shorten and apply the gradients of all three models."""
    for name, loss in losses.items():
        refuse_divergence(loss, name.replace("_", " "), when)
    for name, model in models.trained().items():
        norm = clip_grad_norm_(trained_weights(model).values(), max_grad_norm)
        refuse_divergence(norm, f"{name.replace('_', ' ')}'s gradient", when)
    for optimizer in optimizers.values():
        optimizer.step()
