"""What PPO-Lagrangian starts from: policy, reference, critics and their optimizers."""

import copy
from typing import Any

import torch
from peft import PeftConfig
from torch import nn
from transformers import PreTrainedTokenizerBase

from riskalign.data import can_share_prompt
from riskalign.errors import InputError
from riskalign.safe_rlhf.learn import Optimizers, trained_weights
from riskalign.safe_rlhf.rollout import Models, Scorer
from riskalign.safe_rlhf.settings import PPOSettings
from riskalign.scorers.batch import shares_prompts
from riskalign.scorers.scalar import ScalarModel, scalar_model
from riskalign.scorers.seeds import derive, seeded
from riskalign.training.preparation import check_vocabulary, padding_id
from riskalign.training.reference import with_reference


def make_models(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    scorers: tuple[Scorer, Scorer],
    critics: tuple[ScalarModel | None, ScalarModel | None],
    adapters: tuple[PeftConfig | None, PeftConfig | None],
    seed: int,
    bf16: bool,
) -> Models:
    """Policy, reference and critics; `adapters` are the policy's and the critics'."""
    # Before the policy gets an adapter, which would be copied with its body.
    reward_critic, cost_critic = (
        _critic(given, scorer, model, adapters[1], derive(seed, name))
        for given, scorer, name in zip(critics, scorers, ("reward", "cost"), strict=True)
    )
    own = copy.deepcopy(adapters[0])  # PEFT writes the names it finds into the caller's object
    with seeded(seed, "adapter"):
        policy, reference = with_reference(model, None, own)
    with reference.active(policy) as ref:
        check_vocabulary(tokenizer, policy, ref)
    if bf16:
        reference.cast_once(torch.bfloat16)
    given_models = [scorer for scorer in scorers if isinstance(scorer, ScalarModel)]
    bodies: list[Any] = [scalar.body for scalar in (reward_critic, cost_critic, *given_models)]
    shared = shares_prompts(policy) and all(can_share_prompt(body.config) for body in bodies)
    return Models(policy, reference, reward_critic, cost_critic, padding_id(tokenizer), shared)


def place_models(models: Models, scorers: tuple[Scorer, Scorer], device: torch.device) -> None:
    """Move everything to the device, and keep dropout off."""
    modules = (models.policy, models.reference.model, models.reward_critic, models.cost_critic)
    for module in (*modules, *scorers):
        if isinstance(module, nn.Module):
            module.to(device).eval()


def make_optimizers(models: Models, settings: PPOSettings) -> Optimizers:
    """AdamW for each model's trained weights, once the models are on their device.

    Raises:
        InputError: a model has no weight to train.
    """

    def adam(model: nn.Module, rate: float) -> torch.optim.Optimizer:
        weights = trained_weights(model).values()
        if not weights:
            raise InputError(
                "model: no weight of a policy or critic is to be trained (requires_grad). Call "
                "its requires_grad_(True), or give a peft_config."
            )
        return torch.optim.AdamW(weights, lr=rate, weight_decay=settings.weight_decay)

    return Optimizers(
        policy=adam(models.policy, settings.learning_rate),
        reward_critic=adam(models.reward_critic, settings.critic_learning_rate),
        cost_critic=adam(models.cost_critic, settings.critic_learning_rate),
    )


def _critic(
    given: ScalarModel | None,
    scorer: Scorer,
    model: nn.Module,
    peft_config: PeftConfig | None,
    seed: int,
) -> ScalarModel:
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
