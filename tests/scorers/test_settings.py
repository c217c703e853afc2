"""Settings refuse what makes no sense, by name."""

from typing import Any

import pytest

from riskalign.errors import InputError
from riskalign.safe_rlhf import PPOSettings
from riskalign.scorers import ScorerSettings


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kl_coef", -0.1), ("gamma", 0.0), ("gamma", 1.1), ("lam", -0.1), ("cliprange", 0.0),
        ("cliprange_value", 0.0), ("vf_coef", 0.0), ("num_ppo_epochs", 0), ("iterations", 1.5),
        ("num_mini_batches", 65), ("learning_rate", 0.0), ("critic_learning_rate", -1.0),
        ("lr_scheduler_type", "cosine"), ("ptx_coef", -1.0), ("threshold", float("nan")),
        ("lambda_init", 0.0), ("lambda_lr", -0.1), ("lambda_max", 0.5), ("max_new_tokens", 0),
        ("temperature", 0.7), ("top_p", 0.9), ("max_grad_norm", 0.0), ("answers_per_prompt", True),
        ("kl_coef", float("nan")), ("learning_rate", float("inf")),
    ],
)  # fmt: skip
def test_ppo_settings_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{field}: "):
        PPOSettings(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0), ("num_train_epochs", 0), ("per_device_train_batch_size", 0),
        ("weight_decay", -1.0), ("warmup_ratio", 1.5), ("max_grad_norm", 0.0), ("max_length", 1),
        ("max_prompt_length", 0), ("head_std", -1.0),
    ],
)  # fmt: skip
def test_scorer_settings_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{field}: "):
        ScorerSettings(**{field: value})


def test_defaults_hold() -> None:
    assert PPOSettings().gamma == 1.0
    assert ScorerSettings().safety_signs
