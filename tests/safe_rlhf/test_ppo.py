"""The loop: what it leaves, adapters, PTX, checkpoints, refusals."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from torch import nn

from riskalign.errors import InputError, TrainingDiverged
from riskalign.models import LoadedModel, fingerprint
from riskalign.models.sampling import prompt_token_ids
from riskalign.safe_rlhf import PPOResult, PPOSettings, train_ppo_lagrangian
from riskalign.safe_rlhf.ppo import pick_prompts
from riskalign.safe_rlhf.rollout import Models, Task, roll_out, score_answers, token_logps
from riskalign.scorers.scalar import Sample, collate, scalar_model
from riskalign.scorers.training_run import make_accelerator
from riskalign.training.reference import with_reference
from tests.safe_rlhf import toy

SETTINGS = PPOSettings(
    kl_coef=0.1,
    threshold=0.2,
    iterations=3,
    prompts_per_iteration=2,
    answers_per_prompt=8,
    num_mini_batches=2,
    num_ppo_epochs=2,
    per_device_train_batch_size=4,
    learning_rate=3e-3,
    critic_learning_rate=3e-3,
    max_new_tokens=4,
)
LORA = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
PROMPTS = [toy.PROMPT, toy.OTHER]
CPU = torch.device("cpu")


def _train(settings: PPOSettings = SETTINGS, **options: Any) -> PPOResult:
    given = options.pop("loaded", None) or (toy.make_model(), toy.make_tokenizer())
    reward, cost = options.pop("reward", toy.reward), options.pop("cost", toy.cost)
    return train_ppo_lagrangian(given, PROMPTS, reward, cost, settings, **options)


def _logps(model: nn.Module) -> torch.Tensor:
    samples = [Sample([2, 4, 7, 3], [5, 4, 0]), Sample([2, 6, 3], [6, 0])]
    with torch.no_grad():
        return token_logps(model, collate(samples, 1, True, CPU))[0]


def test_the_log_and_the_counts() -> None:
    told: list[tuple[int, int]] = []
    model, tokenizer = toy.make_model(), toy.make_tokenizer()
    loaded = LoadedModel(model, tokenizer, "toy", "")
    result = _train(loaded=loaded, update=lambda n, total, _: told.append((n, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert result.model is model
    assert result.sampled_answers == 48
    assert 48 <= result.sampled_tokens <= 4 * 48
    assert result.learning_steps == 3 * 2 * 2
    assert result.lambda_ == result.log[-1]["lambda"]
    assert set(result.log[0]) == {
        "iteration", "lambda", "reward", "cost", "unsafe_rate", "kl", "entropy", "finished_rate",
        "answers", "tokens", "policy_loss", "clip_fraction", "reward_value_loss",
        "cost_value_loss", "reward_explained_variance", "cost_explained_variance", "steps",
    }  # fmt: skip
    # The policy is the reference at first and moves away: the reference is no live view of it.
    assert result.log[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert abs(result.log[-1]["kl"]) > 1e-4
    assert all(isinstance(value, float) for entry in result.log for value in entry.values())


def test_nothing_has_moved_before_the_first_step() -> None:
    """Ratios are 1 and nothing is clipped: old and new probabilities are computed alike."""
    one = dataclasses.replace(SETTINGS, iterations=1, num_ppo_epochs=1, num_mini_batches=1)
    result = _train(dataclasses.replace(one, cliprange=1e-5))
    assert result.log[0]["clip_fraction"] == 0.0
    # The old probabilities stay those of the sampling policy: later steps do get clipped.
    narrow = _train(dataclasses.replace(one, cliprange=1e-3, num_ppo_epochs=3))
    assert narrow.log[0]["clip_fraction"] > 0.1


def test_the_seed_decides_everything_and_the_callers_generator_goes_on() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    models = [toy.make_model() for _ in range(3)]  # makes its own seed the caller's
    tokenizer = toy.make_tokenizer()
    torch.manual_seed(5)
    first = _train(loaded=(models[0], tokenizer), peft_config=LORA, seed=1)
    assert torch.equal(torch.rand(3), wanted)
    again = _train(loaded=(models[1], tokenizer), peft_config=LORA, seed=1)
    assert first.log == again.log
    assert fingerprint(first.model) == fingerprint(again.model)
    assert first.log != _train(loaded=(models[2], tokenizer), peft_config=LORA, seed=2).log


def test_an_adapters_reference_is_the_adapter_switched_off() -> None:
    start = toy.make_model()
    before = _logps(start)
    result = _train(peft_config=LORA, critic_peft_config=LORA)
    assert isinstance(result.model, PeftModel)
    assert LORA.target_modules == "all-linear"  # the caller's object stays as it is
    assert not torch.equal(_logps(result.model), before)
    with result.model.disable_adapter():
        assert torch.equal(_logps(result.model), before)
    for critic in (result.reward_critic, result.cost_critic):
        assert isinstance(critic.backbone, PeftModel)
    assert result.log[-1]["kl"] != 0.0


def test_small_batches_add_up_to_large_ones() -> None:
    one = dataclasses.replace(SETTINGS, iterations=1, num_ppo_epochs=1, num_mini_batches=1)
    whole = _train(dataclasses.replace(one, per_device_train_batch_size=16))
    parts = _train(dataclasses.replace(one, per_device_train_batch_size=3))
    for name, value in whole.log[0].items():
        assert parts.log[0][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    # Adam divides by the gradient's size: rounding of a gradient near 0 may turn its step round.
    torch.testing.assert_close(_logps(parts.model), _logps(whole.model), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("peft_config", [None, LORA])
def test_a_resumed_run_is_the_uninterrupted_one(
    peft_config: LoraConfig | None, tmp_path: Path
) -> None:
    whole = _train(peft_config=peft_config, seed=3)

    def stop(n: int, total: int, note: str) -> None:
        if n == 2:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"peft_config": peft_config, "seed": 3, "checkpoint": tmp_path / "c"}
    with pytest.raises(KeyboardInterrupt):
        _train(update=stop, **options)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == [
        "state.json",
        "tensors.safetensors",
    ]
    torch.manual_seed(99)
    resumed = _train(**options)
    assert resumed.log == whole.log
    assert fingerprint(resumed.model) == fingerprint(whole.model)
    assert fingerprint(resumed.cost_critic) == fingerprint(whole.cost_critic)
    assert _train(**options).log == whole.log  # nothing is left to do
    with pytest.raises(InputError, match="other learning_rate"):
        _train(dataclasses.replace(SETTINGS, learning_rate=1.0), **options)
    if peft_config is not None:
        with pytest.raises(InputError, match="other adapters"):
            _train(**options | {"peft_config": LoraConfig(r=3, target_modules="all-linear")})
    with pytest.raises(InputError, match="other model"):
        _train(loaded=(toy.make_model(1), toy.make_tokenizer()), **options)
    (tmp_path / "c" / "tensors.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="cannot be read"):
        _train(**options)


def test_ptx_makes_given_answers_likelier() -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": "dull"}],
            "chosen": [{"role": "assistant", "content": "odd dull"}],
            "rejected": [{"role": "assistant", "content": "risky"}],
        }
    ]
    tokenizer = toy.make_tokenizer()
    given = Sample(prompt_token_ids(tokenizer, toy.OTHER), [7, 6, 0])

    def nll(model: nn.Module) -> float:
        with torch.no_grad():
            return -float(token_logps(model, collate([given], 1, True, CPU))[0].mean())

    settings = dataclasses.replace(
        SETTINGS, ptx_coef=1.0, iterations=5, lr_scheduler_type="constant"
    )
    result = _train(settings, ptx_pairs=rows)
    plain = _train(dataclasses.replace(settings, ptx_coef=0.0))
    assert result.log[0]["ptx_loss"] > result.log[-1]["ptx_loss"]
    assert nll(result.model) < nll(toy.make_model()) - 0.2
    assert nll(result.model) < nll(plain.model) - 0.2
    assert "ptx_loss" not in plain.log[0]


def test_trained_models_score_and_start_the_critics() -> None:
    model = toy.make_model()
    reward, cost = scalar_model(model, seed=1), scalar_model(model, seed=2)
    before = fingerprint(reward), fingerprint(cost)
    result = _train(reward=reward, cost=cost)
    assert (fingerprint(reward), fingerprint(cost)) == before
    assert fingerprint(result.reward_critic) not in before
    own = scalar_model(model, seed=3, head_std=0.0)
    assert _train(reward=reward, cost=cost, reward_critic=own).reward_critic is own


def test_a_models_score_is_read_at_the_last_token_and_a_programs_from_the_text() -> None:
    model, tokenizer = toy.make_model(), toy.make_tokenizer()
    policy, reference = with_reference(model, None, None)
    reward, critic = scalar_model(model, seed=1, head_std=1.0), scalar_model(model)
    critics = {"reward": critic, "cost": critic}
    models = Models(policy, reference, critics, 1, True, make_accelerator(False))
    ids = [prompt_token_ids(tokenizer, prompt) for prompt in PROMPTS]
    scorers: dict[str, Any] = {"reward": reward, "cost": toy.cost}
    task = Task(tokenizer, PROMPTS, ids, scorers, [], SETTINGS, seed=0)
    rollout = roll_out(models, task, [1, 0], 0)
    assert len(rollout.samples) == 16
    for i, sample in enumerate(rollout.samples):
        assert list(sample.prompt_ids) == ids[1 if i < 8 else 0]
        tokens = list(sample.response_ids)
        assert rollout.finished[i] == (tokens[-1] == toy.END)
        assert toy.END not in tokens[:-1]
        assert float(rollout.scores["cost"][i]) == tokens.count(toy.WORDS.index("risky"))
        with torch.no_grad():
            body = reward.body(input_ids=torch.tensor([[*sample.prompt_ids, *tokens]]))
            expected = float(reward.head(body.last_hidden_state[0, -1]))
        assert float(rollout.scores["reward"][i]) == pytest.approx(expected, abs=1e-4)
        assert rollout.mask[i].sum() == len(tokens)
    assert not all(rollout.finished)
    for values in (rollout.logp, rollout.ref_logp, rollout.entropy, rollout.values["cost"]):
        assert not values[~rollout.mask].any()
    with pytest.raises(InputError, match=r"reward: is nan for prompt 'only'"):
        score_answers(
            lambda prompt, text: float("nan"), "reward", [(toy.PROMPT, "odd")],
            rollout.samples[:1], models, 4,
        )  # fmt: skip


def test_each_critic_learns_its_own_returns() -> None:
    settings = dataclasses.replace(SETTINGS, iterations=10, critic_learning_rate=3e-2)
    result = _train(settings, reward=lambda prompt, text: 2.0, cost=lambda prompt, text: -1.0)
    batch = collate([Sample([2, 4, 7, 3], [5, 4, 0]), Sample([2, 6, 3], [6, 0])], 1, True, CPU)
    with torch.no_grad():
        rewards, costs = result.reward_critic.values(batch), result.cost_critic.values(batch)
    torch.testing.assert_close(rewards, torch.full_like(rewards, 2.0), rtol=0, atol=0.5)
    torch.testing.assert_close(costs, torch.full_like(costs, -1.0), rtol=0, atol=0.5)
    assert all(entry["unsafe_rate"] == 0 for entry in result.log)


def test_bf16_and_whitening_run() -> None:
    settings = dataclasses.replace(SETTINGS, iterations=2, whiten_advantages=True)
    result = _train(settings, bf16=True, peft_config=LORA)
    assert len(result.log) == 2
    assert next(result.model.parameters()).dtype == torch.float32
    assert _train(settings, bf16=True).learning_steps == 8


def test_prompts_come_round_before_one_comes_again() -> None:
    picked = [pick_prompts(5, 3, iteration, seed=0) for iteration in range(10)]
    together = [i for own in picked for i in own]
    for at in range(0, 30, 5):
        assert sorted(together[at : at + 5]) == [0, 1, 2, 3, 4]
    assert picked == [pick_prompts(5, 3, iteration, seed=0) for iteration in range(10)]
    assert len(pick_prompts(2, 7, 0, seed=0)) == 7


def test_what_does_not_fit_is_refused() -> None:
    model, tokenizer = toy.make_model(), toy.make_tokenizer()
    with pytest.raises(InputError, match="prompts"):
        train_ppo_lagrangian((model, tokenizer), [], toy.reward, toy.cost, SETTINGS)
    with pytest.raises(InputError, match="ptx_coef"):
        _train(dataclasses.replace(SETTINGS, ptx_coef=1.0))
    with pytest.raises(InputError, match="ptx_coef"):
        _train(ptx_pairs=[{"chosen": "a", "rejected": "b"}])
    turns = [{"role": "assistant", "content": text} for text in ("odd", "dull")]
    pair = {"prompt": [{"role": "user", "content": "dull"}], "chosen": turns, "rejected": turns[:1]}
    with pytest.raises(InputError, match="ptx_pairs: a chosen response has several turns"):
        _train(dataclasses.replace(SETTINGS, ptx_coef=1.0), ptx_pairs=[pair])
    with pytest.raises(InputError, match="save_steps"):
        _train(save_steps=0)
    with pytest.raises(InputError, match="more than the"):
        _train(dataclasses.replace(SETTINGS, max_new_tokens=600))
    critic = scalar_model(model)
    with pytest.raises(InputError, match="same object"):
        _train(reward_critic=critic, cost_critic=critic)
    with pytest.raises(InputError, match="reward: is inf"):
        _train(reward=lambda prompt, text: float("inf"))
    frozen = toy.make_model().requires_grad_(False)
    with pytest.raises(InputError, match="requires_grad"):
        _train(loaded=(frozen, tokenizer))
    with torch.no_grad():
        critic.head.weight.fill_(float("nan"))
    with pytest.raises(TrainingDiverged, match="iteration 1, step 1"):
        _train(reward_critic=critic)
