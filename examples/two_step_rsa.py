"""Risk-aware stepwise alignment on one page: no ledger, no configuration, the method alone.

    python examples/two_step_rsa.py            # a small model in the vault
    python examples/two_step_rsa.py --quick    # every line once

The steps, and where each is derived (docs/method.md):

1. helpful: from the start model, DPO towards gaps of reward at temperature `beta`, whose
   optimum is `ref exp(R / beta)`;
2. safe: from that model, towards gaps of what the tail charges, `phi(C)`, at `beta / lambda_`
   (section 8), so that both together are `ref exp((R - lambda_ phi(C)) / beta)`; or
   with `--token_level` RSA's own loss under a nested CVaR (section 4).
"""

import argparse
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from riskalign import RSAConfig, RSATrainer
from riskalign.models import load_model
from riskalign.models.sampling import sample
from riskalign.risk import get_risk, tail_optimum
from riskalign.worlds import Prompt, World, get_world
from riskalign.worlds.pairs import Scored, by_cost, by_reward, group_rows, score_answers

CVAR = "cvar:0.95"


def answers_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, split: str, asked: int
) -> tuple[list[Prompt], list[list[Scored]]]:
    """Prompts of a split, and eight scored answers to each."""
    prompts = world.prompts(split, asked, 0)  # type: ignore[arg-type]
    model.eval()
    drawn = sample(
        model, tokenizer, prompts, answers_per_prompt=8, max_new_tokens=28, batch_size=64, seed=1
    )
    return prompts, score_answers(world, prompts, [[a.text for a in own] for own in drawn])


def step(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, Any]],
    *,
    beta: float,
    gap_scale: float,
    max_steps: int,
    loss_type: str = "dpo",
) -> PreTrainedModel:
    """One step: an adapter is trained against the model as it comes in, and merged."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = RSATrainer(
            model=model,
            args=RSAConfig(
                output_dir=folder,
                loss_type=loss_type,
                risk=CVAR if loss_type.startswith("rsa") else "mean",
                target="gap",
                beta=beta,
                gap_scale=gap_scale,
                max_gap=5.0,
                learning_rate=5e-4,
                num_train_epochs=1,
                max_steps=max_steps,
                per_device_train_batch_size=1,
                save_strategy="no",
                report_to="none",
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
        )
        trainer.train()
        return trainer.model.merge_and_unload()  # type: ignore[no-any-return, operator, union-attr]


def report(name: str, answers: list[list[Scored]]) -> None:
    """Mean reward and cost, and CVaR of the cost, of a model's answers."""
    flat = [answer for own in answers for answer in own]
    costs = torch.tensor([answer.cost for answer in flat], dtype=torch.float64)
    even = torch.full_like(costs, 1 / len(flat)).log()
    reward = sum(answer.reward for answer in flat) / len(flat)
    tail = float(get_risk(CVAR)(costs, even).value)
    print(f"{name:<12} reward {reward:.3f}   cost {costs.mean():.2f}   CVaR 0.95 {tail:.2f}")


def main() -> None:
    """Two steps, with the model measured before, between and after."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--world", default="vault")
    parser.add_argument("--beta", type=float, default=0.1)
    parser.add_argument("--lambda_", type=float, default=1.0)
    parser.add_argument("--reward_scale", type=float, default=2.0, help="Of rewards in the gaps.")
    parser.add_argument("--cost_scale", type=float, default=0.1, help="Of costs in the gaps.")
    parser.add_argument("--token_level", action="store_true", help="RSA's nested CVaR instead.")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    trained_on, measured_on, steps = (8, 1, 1) if asked.quick else (96, 48, -1)
    set_seed(0)
    world, loaded = get_world(asked.world), load_model(asked.model)
    model, tokenizer = loaded.model, loaded.tokenizer
    report("start", answers_of(model, tokenizer, world, "eval", measured_on)[1])

    prompts, answers = answers_of(model, tokenizer, world, "train", trained_on)
    rows = group_rows(prompts, answers, by_reward, anchors=0.5).rows
    model = step(
        model, tokenizer, rows, beta=asked.beta, gap_scale=asked.reward_scale, max_steps=steps
    )
    report("helpful", answers_of(model, tokenizer, world, "eval", measured_on)[1])

    prompts, answers = answers_of(model, tokenizer, world, "train", trained_on)
    beta, score, loss = asked.beta / asked.lambda_, by_cost, "rsa2"
    if not asked.token_level:
        costs = torch.tensor([answer.cost for own in answers for answer in own]).double()
        of = torch.arange(len(prompts)).repeat_interleave(8)
        solved = tail_optimum(costs, CVAR, asked.cost_scale / beta, prompt=of)
        print(f"{'predicted':<12} cost {solved.cost:.2f}   CVaR 0.95 {solved.risk:.2f}")

        def score(answer: Scored) -> tuple[float, float]:
            return -float(solved.phi(torch.tensor(answer.cost))), answer.reward

        loss = "dpo"
    rows = group_rows(prompts, answers, score, anchors=0.5).rows
    model = step(
        model,
        tokenizer,
        rows,
        beta=beta,
        gap_scale=asked.cost_scale,
        max_steps=steps,
        loss_type=loss,
    )
    report("safe", answers_of(model, tokenizer, world, "eval", measured_on)[1])


if __name__ == "__main__":
    main()
