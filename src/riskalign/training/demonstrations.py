"""Supervised tuning on demonstrated answers, by transformers' `Trainer`, each prompt read once.

Shapes: N tokens of answers, their end tokens included.
"""

from collections.abc import Sequence
from typing import Any

from datasets import Dataset
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from riskalign.data import (
    Batch,
    Message,
    RowCollator,
    can_share_prompt,
    response_hidden,
    tokenize_responses,
)
from riskalign.errors import InputError, TrainingDiverged
from riskalign.tokens import backbone_of, output_layer_of
from riskalign.training import engines
from riskalign.training.modules import call_through, call_within, switch_off_noise
from riskalign.training.preparation import padding_id
from riskalign.training.rows import counting, real_rows


def demonstration_rows(
    prompts: Sequence[Sequence[Message]],
    answers: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> Dataset:
    """Rows for `RowCollator`, a prompt and its answers each, end tokens included.

    Raises `InputError` for none at all, no chat template, or more than `max_length` tokens.
    """
    rows: list[dict[str, Any]] = []
    for i, (prompt, texts) in enumerate(zip(prompts, answers, strict=True)):
        responses = tuple([{"role": "assistant", "content": text}] for text in texts)
        prompt_ids, answer_ids = tokenize_responses(list(prompt), responses, tokenizer)
        longest = len(prompt_ids) + max(map(len, answer_ids), default=0)
        if not answer_ids or longest > max_length:
            raise InputError(
                f"demonstration {i + 1}: has {len(answer_ids)} answers and {longest} tokens. Give "
                f"at least one answer, and at most {max_length} tokens; shorten the world's texts."
            )
        rows.append({"prompt_ids": prompt_ids, "completions_ids": answer_ids})
    if not rows:
        raise InputError("demonstrations: there are none; give the step sft some to train on")
    return Dataset.from_list(rows)


def _real_tokens(batch: Batch) -> int:
    """How many of a batch's answer tokens, the first ones, belong to rows that count."""
    return int((batch["row"][batch["sequence"]] < real_rows(batch)).sum())


class DemonstrationTrainer(Trainer):
    """Minimises the mean cross-entropy of the answers' tokens over the global batch."""

    quiet: tuple[nn.Module, ...] = ()  # modules whose noise is off in training

    get_batch_samples = counting(_real_tokens)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Sum over these inputs' answer tokens, divided by the global batch's number of them."""
        switch_off_noise(self.quiet)
        policy = self.accelerator.unwrap_model(model)

        def answer_logits() -> Tensor:
            hidden, layer = response_hidden(backbone_of(policy), inputs), output_layer_of(policy)
            logits = call_within(layer.modules, lambda states: layer.head().logits(states), hidden)
            return logits.float()

        logits = call_through(model, policy, answer_logits)
        real = _real_tokens(inputs)
        total = cross_entropy(logits[:real], inputs["target_ids"][:real], reduction="sum")
        if engines.any_process(self.accelerator, ~total.detach().isfinite()):
            raise TrainingDiverged(
                f"The loss became NaN or infinite at step {self.state.global_step + 1}; nothing "
                "was saved from it. Lower sft.learning_rate or set sft.max_grad_norm."
            )
        n = real if num_items_in_batch is None else num_items_in_batch
        loss = total * (self.accelerator.num_processes / n)
        return (loss, logits) if return_outputs else loss


def train_on_demonstrations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    args: TrainingArguments,
    *,
    peft_config: PeftConfig | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> DemonstrationTrainer:
    """Train on `rows` as `demonstration_rows` makes them; return the trainer, with its model.

    Raises `TrainingDiverged` where the loss is no longer finite.
    """
    quiet = tuple(model.modules())
    set_seed(args.seed)  # before a new adapter's weights are drawn
    policy: Any = model if peft_config is None else get_peft_model(model, peft_config)
    backbone: Any = backbone_of(policy)
    trainer = DemonstrationTrainer(
        model=policy,
        args=args,
        train_dataset=rows,
        data_collator=RowCollator(padding_id(tokenizer), can_share_prompt(backbone.config)),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    engines.settle(trainer.accelerator, args)
    trainer.quiet = quiet
    trainer.model_accepts_loss_kwargs = True
    # Without tqdm, Trainer prints its logs; they go to the caller instead.
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return trainer
