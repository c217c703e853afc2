"""PPO-Lagrangian where the constrained optimum is known exactly: all answers of three tokens."""

import dataclasses

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from riskalign.models.sampling import prompt_token_ids
from riskalign.safe_rlhf import PPOResult, PPOSettings, train_ppo_lagrangian
from riskalign.theory import TokenMDP, accumulate, evaluate, over_responses
from riskalign.worlds import Prompt
from tests.safe_rlhf import toy

KL_COEF = 0.5
TOKENS = 3
SETTINGS = PPOSettings(
    kl_coef=KL_COEF,
    iterations=40,
    prompts_per_iteration=1,
    answers_per_prompt=256,
    per_device_train_batch_size=256,
    sampling_batch_size=256,
    num_mini_batches=4,
    num_ppo_epochs=2,
    learning_rate=1e-3,
    critic_learning_rate=5e-3,
    max_new_tokens=TOKENS,
    threshold=0.3,
    lambda_init=0.3,
    lambda_lr=0.3,
)


@torch.no_grad()
def _tree_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: Prompt, depth: int
) -> TokenMDP:
    """All answers of at most `depth` tokens: the model's probabilities, reward and cost.

    Below an end token nothing is paid any more; probabilities there are even, for any policy.
    """
    start = prompt_token_ids(tokenizer, prompt)
    v = len(toy.WORDS)
    beginnings: list[list[int]] = [[]]
    log_probs, rewards, costs = [], [], []
    for level in range(depth):
        ids = torch.tensor([start + beginning for beginning in beginnings])
        logs = model(input_ids=ids).logits[:, -1].double().log_softmax(-1)
        pay, charge = torch.zeros(2, len(beginnings), v, dtype=torch.float64)
        for i, beginning in enumerate(beginnings):
            if toy.END in beginning:
                logs[i] = torch.full((v,), -torch.tensor(float(v)).log().item())
                continue
            for token in range(v):
                if token == toy.END or level == depth - 1:
                    answer = [*beginning, token]
                    text = str(tokenizer.decode(answer, skip_special_tokens=True)).strip()
                    pay[i, token], charge[i, token] = (
                        toy.reward(prompt, text),
                        toy.cost(prompt, text),
                    )
        log_probs.append(logs.log_softmax(-1))
        rewards.append(pay)
        costs.append(charge)
        beginnings = [[*beginning, token] for beginning in beginnings for token in range(v)]
    return TokenMDP(tuple(log_probs), tuple(rewards), tuple(costs))


def _train(settings: PPOSettings) -> tuple[PPOResult, TokenMDP, TokenMDP]:
    """The result, and all answers under the reference and under the trained policy."""
    model, tokenizer = toy.make_model(), toy.make_tokenizer()
    ref = _tree_of(model, tokenizer, toy.PROMPT, TOKENS)
    result = train_ppo_lagrangian(
        (model, tokenizer), [toy.PROMPT], toy.reward, toy.cost, settings, seed=0
    )
    return result, ref, _tree_of(model, tokenizer, toy.PROMPT, TOKENS)


def test_the_constrained_optimum_is_found() -> None:
    result, ref, got = _train(SETTINGS)
    limit = torch.tensor(SETTINGS.threshold, dtype=torch.float64)
    best = over_responses(ref, KL_COEF, limit)
    # The case is one worth solving: without the limit the optimum costs more than the reference,
    # which costs too much already.
    free = evaluate(ref, over_responses(ref, KL_COEF, limit + 100).log_policy)
    assert free.cost > evaluate(ref, ref.log_ref).cost > 1.5 * limit
    assert 1.2 < best.multiplier < 1.7

    found, exact = evaluate(ref, got.log_ref), evaluate(ref, best.log_policy)
    assert abs(found.cost - limit) < 0.1 * limit
    objective, optimum = (float(e.reward - KL_COEF * e.kl) for e in (found, exact))
    assert abs(objective - optimum) < 0.05 * optimum
    assert abs(result.lambda_ - best.multiplier) < 0.1 * best.multiplier
    # KL(policy || optimum): what the Lagrangian's value falls short by, in units of kl_coef.
    own, wanted = accumulate(got.log_ref), accumulate(best.log_policy)
    assert float((own.exp() * (own - wanted)).sum()) < 0.02

    # Each critic has learnt its own returns.
    assert result.log[-1]["reward_explained_variance"] > 0.1
    assert result.log[-1]["cost_explained_variance"] > 0.1

    lambdas = [entry["lambda"] for entry in result.log]
    costs = [entry["cost"] for entry in result.log]
    for before, after, cost in zip(lambdas, lambdas[1:], costs[1:], strict=False):
        assert (after > before) == (cost > SETTINGS.threshold)
    assert costs[0] > SETTINGS.threshold
    assert lambdas[5] > lambdas[0] > SETTINGS.lambda_init


def test_a_slack_limit_lets_the_multiplier_fall() -> None:
    """The limit 2 is above what the unconstrained optimum costs."""
    settings = dataclasses.replace(SETTINGS, threshold=2.0, iterations=15, lambda_init=0.2)
    result, ref, got = _train(settings)
    lambdas = [entry["lambda"] for entry in result.log]
    assert lambdas == sorted(lambdas, reverse=True)
    assert lambdas[-1] < 0.7 * settings.lambda_init
    start, found = evaluate(ref, ref.log_ref), evaluate(ref, got.log_ref)
    assert start.cost < found.cost < 2.0
    free = evaluate(ref, over_responses(ref, KL_COEF, torch.tensor(2.0).double()).log_policy)
    gain, possible = (float(e.reward - KL_COEF * e.kl - start.reward) for e in (found, free))
    assert gain > 0.9 * possible
