"""`RSATrainer`: one step of Risk-aware Stepwise Alignment on transformers' `Trainer`."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from riskalign.data import (
    Batch,
    PairCounts,
    RowCollator,
    Source,
    Tokenized,
    UnpairedCollator,
    response_hidden,
    with_mismatched,
)
from riskalign.errors import InputError, TrainingDiverged
from riskalign.losses import (
    ORDERED,
    UNPAIRED,
    LossOutput,
    SequenceStats,
    kto,
    pair_loss,
    reference_point,
    sum_by_sequence,
)
from riskalign.risk import get_risk
from riskalign.tokens import (
    Group,
    Head,
    TokenStats,
    backbone_of,
    grouped_losses,
    output_layer_of,
    token_stats,
)
from riskalign.training import checkpoints, engines, modules, preparation
from riskalign.training.config import RSAConfig
from riskalign.training.reference import HiddenCache, with_reference
from riskalign.training.rows import (
    MetricSums,
    Rows,
    counting,
    mark_repeats,
    mean_by_row,
    real_rows,
    row_groups,
    rows_of,
)

logger = logging.getLogger(__name__)


class RSATrainer(Trainer):
    """Trains a policy on preference pairs, or groups of scored answers, against a frozen reference.

    The loss is the mean over all rows of the global batch, however that is split over devices and
    accumulation steps; a group's is the mean over all pairs of its answers. Logged as averages
    since the last log, with the prefix `eval_` in evaluation: `loss`, `rewards/*`, `logps/*`,
    `risk/*` (sequential risk ratio), `kl/*`, `margin`; sums over response tokens in nats, rewards
    in units of the margin.

    Args:
        model: a causal language model (full fine-tuning, or a PEFT model), or its name as
            `riskalign.models.load_model` takes it; an adapter's folder is merged into its base.
        ref_model: the reference; without it the reference is `model` as given: with a new
            adapter, the adapter switched off; else a frozen copy of the weights in memory.
        args: settings.
        data_collator: replaces `riskalign.data.RowCollator`; must return the same fields.
        train_dataset: rows as `riskalign.data.load_pairs` takes them, or groups as `load_groups`
            does (for KTO also as `load_unpaired`); of a source with splits, the split `train`.
        eval_dataset: the same with the split `test`, or a dict of such data sets.
        processing_class: the tokenizer; without it, the one of the model's name.
        callbacks, optimizers: as for `Trainer`.
        peft_config: adds an adapter; only the adapter is trained and saved.

    `data_counts` says for each data set what was kept, dropped and cut.

    Raises `InputError` for settings, data, model or tokenizer that do not fit together; `train`
    raises `TrainingDiverged` before a step with a non-finite loss or gradient.
    """

    args: RSAConfig

    def __init__(
        self,
        model: PreTrainedModel | PeftModel | nn.Module | str | Path,
        ref_model: PreTrainedModel | PeftModel | nn.Module | None = None,
        args: RSAConfig | None = None,
        data_collator: Callable[[list[Any]], Batch] | None = None,
        train_dataset: Source | Tokenized | None = None,
        eval_dataset: Source | Tokenized | dict[str, Source | Tokenized] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        peft_config: PeftConfig | None = None,
    ) -> None:
        args = args if args is not None else RSAConfig()
        if not isinstance(args, RSAConfig):
            raise InputError(f"args is a {type(args).__name__}. Give a riskalign RSAConfig.")
        engines.check_engine(args)
        policy, tokenizer = preparation.load_policy(model, processing_class, args)
        preparation.check_experts(policy)
        # A new adapter, added below, keeps the dropout that it is asked for.
        self._quiet = list(policy.modules()) if args.disable_dropout else []
        # `Trainer` seeds later, when a new adapter's weights are drawn already.
        set_seed(args.seed)
        policy, self.reference = with_reference(policy, ref_model, peft_config)
        if train_dataset is not None:
            preparation.check_trainable(policy)
        with self.reference.active(policy) as ref:
            preparation.check_vocabulary(tokenizer, policy, ref)
            engines.check_models(args, policy, ref)
            self.shared_prompt = preparation.decide_shared_prompt(args.shared_prompt, policy, ref)
        if args.bf16 and not (args.deepspeed_plugin or engines.in_parts(args)):
            self.reference.cast_once(torch.bfloat16)
        self.risk = get_risk(args.risk)
        self.data_counts: dict[str, PairCounts] = {}
        self._indexed = 0  # rows that have an index
        folder = Path(str(args.output_dir)) if args.cache_reference == "disk" else None
        self._ref_cache = HiddenCache(folder) if args.cache_reference else None

        def prepared(data: Any, name: str, keep: bool = True) -> Dataset:
            split = "train" if name == "train_dataset" else "test"
            pairs, counts = preparation.prepare_rows(data, name, tokenizer, policy, args, split)
            if args.loss_type in UNPAIRED:
                pairs = with_mismatched(pairs, name)
            if "index" in pairs.column_names:  # another trainer's, or another set's
                pairs = pairs.remove_columns("index")
            if keep and args.cache_reference:
                pairs = pairs.add_column("index", np.arange(len(pairs)) + self._indexed)
                self._indexed += len(pairs)
            self.data_counts[name] = counts
            return pairs

        self._prepared = prepared

        train_pairs = None if train_dataset is None else prepared(train_dataset, "train_dataset")
        eval_pairs: Any = None if eval_dataset is None else {}
        if isinstance(eval_dataset, dict):
            for name, data in eval_dataset.items():
                eval_pairs[name] = prepared(data, f"eval_dataset[{name!r}]")
        elif eval_dataset is not None:
            eval_pairs = prepared(eval_dataset, "eval_dataset")
        if args.n_gpu > 1:
            # Several GPUs in one process would need nn.DataParallel; `accelerate launch` is faster.
            args._n_gpu = 1
        config: Any = getattr(policy, "config", None)
        use_cache = getattr(config, "use_cache", None)
        super().__init__(
            model=policy,
            args=args,
            data_collator=data_collator or _collator(args, tokenizer, policy, self.shared_prompt),
            train_dataset=train_pairs,
            eval_dataset=eval_pairs,
            processing_class=tokenizer,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        if use_cache is not None:
            config.use_cache = use_cache  # `Trainer` turns it off, which slows later generation
        # The loss is divided by the global batch's pairs, so Trainer must not divide it again.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        engines.settle(self.accelerator, args)
        if args.bf16 and args.device.type == "cpu" and not modules.bf16_is_fast("cpu"):
            logger.warning(
                "bf16 is set, but this processor has no bf16 arithmetic and computes it about ten "
                "times slower than float32."
            )
        self._train_sums, self._eval_sums = MetricSums(), MetricSums()

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer`'s, with `compile_layers` where it is set."""
        engines.check_start(self.accelerator)
        if resume_from_checkpoint:
            resume_from_checkpoint = checkpoints.resumable(self, resume_from_checkpoint)
        models = (self.model, self.reference.model) if self.args.compile_layers else ()
        with modules.compiled_layers([model for model in models if model is not None]):
            return super().train(resume_from_checkpoint, *args, **kwargs)

    save_model = checkpoints.save_model
    _save = checkpoints.save
    _save_optimizer_and_scheduler = checkpoints.save_states
    _load_optimizer_and_scheduler = checkpoints.load_states
    _load_from_checkpoint = checkpoints.load_from_checkpoint
    get_batch_samples = counting(real_rows)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Mean loss over the rows of the global batch (of these inputs, without a count)."""
        output = self.row_losses(model, inputs)
        self._refuse_divergence(output.loss, "loss")
        self._train_sums.add(output.metrics)
        if num_items_in_batch is None:
            loss = output.loss.mean()
        else:
            # Processes' gradients are averaged, and this is one process's share of a sum.
            loss = output.loss.sum() * (self.accelerator.num_processes / num_items_in_batch)
        return (loss, output) if return_outputs else loss

    def row_losses(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Loss and metrics of each row of a collated batch that counts; `model` may be wrapped."""
        policy = self.accelerator.unwrap_model(model)
        self.reference.place(self.accelerator)
        own = [] if self.reference.model is None else [self.reference.model]

        def losses() -> LossOutput:
            # Engines put a model's weights together within its own forward pass.
            return modules.call_within(own, lambda: self._row_losses(policy, batch))

        found = modules.call_through(model, policy, losses)
        n = real_rows(batch)
        return LossOutput(found.loss[:n], {name: of[:n] for name, of in found.metrics.items()})

    def _row_losses(self, policy: nn.Module, batch: Batch) -> LossOutput:
        modules.switch_off_noise(self._quiet)

        def hidden_of(model: nn.Module) -> Tensor:
            return response_hidden(backbone_of(model), batch)

        with self.accelerator.autocast():
            with self.reference.active(policy) as ref:
                if self._ref_cache is None or "index" not in batch:
                    hidden_ref = hidden_of(ref)
                else:
                    hidden_ref = self._ref_cache.get(batch, lambda: hidden_of(ref))
                layer_ref = output_layer_of(ref)
            hidden, layer = hidden_of(policy), output_layer_of(policy)

            def losses(hidden: Tensor, hidden_ref: Tensor) -> LossOutput:
                heads = layer.head(), layer_ref.head()
                return self._losses(batch, hidden, heads[0], hidden_ref, heads[1])

            # The reference's layer outermost: its weights are needed in the policy's backward pass.
            within = list(dict.fromkeys((*layer_ref.modules, *layer.modules)))
            return modules.call_within(within, losses, hidden, hidden_ref)

    def _losses(
        self, batch: Batch, hidden: Tensor, head: Head, hidden_ref: Tensor, head_ref: Head
    ) -> LossOutput:
        inputs = (hidden, head, hidden_ref, head_ref, batch["target_ids"], self.risk)
        # Gradients taken in the forward pass would miss the factor that fp16 needs.
        at_once = torch.is_grad_enabled() and not self.args.fp16
        # KTO's loss of one response depends on the whole batch's KL.
        at_once = at_once and self.args.loss_type not in UNPAIRED
        groups = row_groups(batch, head) if at_once else None
        if groups is None or self.args.chunk_size is not None:
            stats = token_stats(*inputs, chunk_size=self.args.chunk_size)
            return self._loss(stats, rows_of(batch), real_rows(batch))
        outputs: list[LossOutput] = []

        def loss(group: Group, stats: TokenStats) -> Tensor:
            outputs.append(self._loss(stats, rows_of(batch, group)))
            return outputs[-1].loss

        losses = grouped_losses(*inputs, groups=groups, loss=loss)
        metrics = {
            name: torch.cat([output.metrics[name] for output in outputs])
            for name in outputs[0].metrics
        }
        return LossOutput(losses, metrics)

    def _loss(self, stats: TokenStats, rows: Rows, real: int | None = None) -> LossOutput:
        """Of R rows, of which the first `real` count, from their responses' tokens' statistics."""
        by_response = sum_by_sequence(stats, rows.sequence, rows.n_responses)
        first, second = (SequenceStats(*(v[of] for v in by_response)) for of in rows.pairs)
        if self.args.loss_type in UNPAIRED:  # see `UnpairedCollator` for what the two are
            others = SequenceStats(*(values[:real] for values in second))
            return kto(
                first,
                beta=self.args.beta,
                desirable=rows.gap > 0,
                kl=reference_point(others, self.accelerator.reduce).clamp(min=0),
                desirable_weight=self.args.desirable_weight,
                undesirable_weight=self.args.undesirable_weight,
            )
        output = pair_loss(
            self.args.loss_type,
            first,
            second,
            beta=self.args.beta,
            alpha=self.args.alpha,
            target=self.args.target,
            gap=None if self.args.target == "hard" else rows.gap * self.args.gap_scale,
            label_smoothing=self.args.label_smoothing,
            options=self.args.loss_options,  # type: ignore[arg-type]
        )
        return mean_by_row(output, rows)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """As `Trainer`'s, on data as at the start; a text that names a held data set means it."""
        held = self.eval_dataset if isinstance(self.eval_dataset, dict) else {}
        named = isinstance(eval_dataset, str) and eval_dataset in held
        # A dict's sets come back here one by one.
        if eval_dataset is not None and not named and not isinstance(eval_dataset, dict):
            eval_dataset = self._prepared(eval_dataset, f"{metric_key_prefix}_dataset", keep=False)
        return dict(super().evaluate(eval_dataset, ignore_keys, metric_key_prefix))

    def predict(
        self,
        test_dataset: Any,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
    ) -> PredictionOutput:
        """As `Trainer`'s, on rows as `evaluate` takes them: metrics, and no predictions."""
        pairs = self._prepared(test_dataset, f"{metric_key_prefix}_dataset", keep=False)
        return super().predict(pairs, ignore_keys, metric_key_prefix)

    def _prepare_input(self, data: Any) -> Any:
        """As `Trainer`'s, but that under DeepSpeed rounds targets to the model's precision."""
        if isinstance(data, Tensor):
            return data.to(self.args.device)
        return super()._prepare_input(data)

    def prediction_step(
        self, model: nn.Module, inputs: Batch, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, None, None]:
        """Add one batch to the evaluation's averages; there are no predictions to return."""
        inputs = self._prepare_inputs(inputs)
        mark_repeats(inputs, self.accelerator)
        with torch.no_grad():
            output = self.row_losses(model, inputs)
        self._refuse_divergence(output.loss, "loss")
        self._eval_sums.add({"loss": output.loss, **output.metrics})
        return output.loss.mean(), None, None

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As `Trainer`'s, with the averages over all rows and processes as metrics."""
        if self.is_fsdp_enabled and not self.accelerator._models:
            # Before any training; `Trainer` would have accelerate ask for an optimizer.
            self.accelerator._models.append(engines.place(self.model, self.accelerator))
        output = super().evaluation_loop(*args, **kwargs)
        engines.part(self.model)
        prefix = kwargs.get("metric_key_prefix", "eval")
        averages = self._eval_sums.averages(self.accelerator.reduce)
        metrics = {f"{prefix}_{name}": value for name, value in averages.items()}
        return output._replace(metrics={**(output.metrics or {}), **metrics})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer`'s; a training log also gets the averages since the one before."""
        if "loss" in logs:
            logs |= self._train_sums.averages(self.accelerator.reduce)
        super().log(logs, start_time)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        if norm is not None and not self.args.fp16:  # fp16's scaler skips such steps by itself
            norm = engines.whole_tensor(norm)
            self._refuse_divergence(torch.as_tensor(norm), "gradient norm")
        return norm

    def _refuse_divergence(self, values: Tensor, what: str) -> None:
        if engines.any_process(self.accelerator, ~values.detach().isfinite().all()):
            raise TrainingDiverged(
                f"The {what} became NaN or infinite at step {self.state.global_step + 1}; nothing "
                "was saved from it. Lower learning_rate or gap_scale, set max_grad_norm, add "
                "warmup_steps, or train in float32."
            )


def _collator(
    args: RSAConfig, tokenizer: PreTrainedTokenizerBase, policy: nn.Module, shared_prompt: bool
) -> Callable[[list[Any]], Batch]:
    padding = preparation.padding_id(tokenizer)
    if args.loss_type in UNPAIRED:
        positions = getattr(policy.config, "max_position_embeddings", None)
        limits = [n for n in (args.max_length, positions) if isinstance(n, int)]
        return UnpairedCollator(padding, shared_prompt, min(limits, default=None))
    return RowCollator(padding, shared_prompt, ties=args.target not in ORDERED)
