"""The dial: `π_w ∝ π_1^(1-w) π_2^w`, sampled token by token without retraining.

With π_1 the helpful step's result and π_2 the safe step's result from it, π_w is the optimum for
`w` times the cost multiplier (docs/method.md derives it from SACPO's and RSA's factorisation).

Shapes: B rows, L tokens so far, V vocabulary.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.modeling_outputs import CausalLMOutput
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from riskalign.errors import InputError
from riskalign.models.companion import Reader
from riskalign.models.loading import LoadedModel, load_model, read_object
from riskalign.models.merge import refuse_weight
from riskalign.models.weights import fingerprint


def combine_logits(logits_1: Tensor, logits_2: Tensor, w: float) -> Tensor:
    """Normalised log probabilities of `π_1^(1-w) π_2^w`, [..., V], in float32 at least.

    A token that either model excludes (logit -inf) stays excluded. Raises `InputError` for logits
    that are NaN or +inf, which have no distribution.
    """
    wide = torch.promote_types(logits_1.dtype, torch.float32)
    log_1 = logits_1.to(wide).log_softmax(dim=-1)
    log_2 = logits_2.to(wide).log_softmax(dim=-1)
    if bool(log_1.isnan().any() | log_2.isnan().any()):
        raise InputError(
            "dial: a model's logits are NaN or infinite. Its weights are too large for their "
            "precision or broken; try float32 (bf16: false), or fetch or train the model again."
        )
    excluded = log_1.isneginf() | log_2.isneginf()
    # 0 * -inf is NaN, and at w > 1 a token that model_1 excludes would even be forced.
    mixed = (1 - w) * log_1.masked_fill(excluded, 0.0) + w * log_2.masked_fill(excluded, 0.0)
    return mixed.masked_fill(excluded, -torch.inf).log_softmax(dim=-1)


class DialLogitsProcessor(LogitsProcessor):
    """Turns model_1's scores into those of `π_w`; hand it to `model_1.generate`.

    model_2 reads along with a cache of its own. Rows that are not a continuation of what it has
    read (a new prompt, or beams that changed places) are read from the start, equal rows once.
    `generate` does not pass its attention mask on, so left padding is recognised by leading
    `pad_token_id`s, or taken from `attention_mask` [B, prompt length] when that is given.
    Processors that `generate` makes from its settings (penalties, forbidden words) come before
    this one and act on model_1; temperature, top-k and top-p come after it and act on `π_w`.
    """

    def __init__(
        self,
        model_2: nn.Module,
        w: float,
        *,
        pad_token_id: int | None = None,
        attention_mask: Tensor | None = None,
    ) -> None:
        refuse_weight(w)
        self.model_2: Any = model_2
        self.w = w
        self.pad_token_id = pad_token_id
        self.prompt_mask = attention_mask
        self._reader = Reader(model_2)
        self._read: tuple[Tensor, Tensor, Any] | None = None  # ids, mask and cache so far

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] of the next token after `input_ids` [B, L]."""
        if self.w == 0:
            return combine_logits(scores, scores, 0.0)
        was_training = self.model_2.training
        self.model_2.eval()
        logits = self._next_logits(input_ids.to(self.model_2.device)).to(scores.device)
        self.model_2.train(was_training)
        if logits.shape != scores.shape:
            raise differ(scores.shape[-1], logits.shape[-1])
        return combine_logits(scores, logits, self.w)

    def _next_logits(self, input_ids: Tensor) -> Tensor:
        ids, mask, cache = self._read or (input_ids, input_ids, None)
        if cache is not None and ids.equal(input_ids[:, :-1]):
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            logits, cache = self._reader.more(input_ids[:, -1:], mask, cache)
        else:
            mask = self._prompt_mask(input_ids)
            logits, cache = self._reader.anew(input_ids, mask)
        self._read = input_ids.clone(), mask, cache
        return logits

    def _prompt_mask(self, input_ids: Tensor) -> Tensor:
        rows, length = input_ids.shape
        if self.prompt_mask is not None:
            given = self.prompt_mask.to(input_ids.device)
            # `generate` repeats each prompt for its beams or returned sequences.
            given = given.repeat_interleave(rows // len(given), dim=0)
            return torch.cat([given, given.new_ones(rows, length - given.shape[1])], dim=1)
        if self.pad_token_id is None:
            return torch.ones_like(input_ids)
        return (input_ids != self.pad_token_id).long().cummax(dim=1).values


class DialModel(nn.Module):
    """Two models as one: `generate` samples from `π_w`, `forward` gives its log probabilities."""

    def __init__(self, model_1: nn.Module, model_2: nn.Module, w: float) -> None:
        super().__init__()
        self.model_1: Any = model_1
        self.model_2: Any = model_2
        self.w = w

    @property
    def config(self) -> Any:
        """model_1's configuration."""
        return self.model_1.config

    @property
    def generation_config(self) -> Any:
        """model_1's generation settings, the defaults of `generate`."""
        return self.model_1.generation_config

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return torch.device(self.model_1.device)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **inputs: Any
    ) -> CausalLMOutput:
        """Log probabilities of `π_w` at every position, as `logits` [B, L, V]; no cache."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, **inputs}
        logits_1 = self.model_1(**inputs, use_cache=False).logits
        logits_2 = self.model_2(**inputs, use_cache=False).logits.to(logits_1.device)
        return CausalLMOutput(logits=combine_logits(logits_1, logits_2, self.w))

    def generate(
        self,
        inputs: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        logits_processor: LogitsProcessorList | None = None,
        **options: Any,
    ) -> Any:
        """As model_1's `generate`, from `π_w`; all its options apply."""
        inputs = options.pop("input_ids", inputs)
        config = options.get("generation_config") or self.generation_config
        pad = options.get("pad_token_id", config.pad_token_id)
        processor = DialLogitsProcessor(
            self.model_2, self.w, pad_token_id=pad, attention_mask=attention_mask
        )
        return self.model_1.generate(
            inputs,
            attention_mask=attention_mask,
            logits_processor=LogitsProcessorList([processor, *(logits_processor or [])]),
            **options,
        )


def dial(model_1: nn.Module, model_2: nn.Module, w: float) -> DialModel:
    """A model that samples from `π_w`; `w` may lie above 1, too. Nothing is copied.

    Raises `InputError` when `w` is beyond 100 either way or the vocabularies differ in size.
    """
    refuse_weight(w)
    check_vocabularies(model_1, model_2)
    return DialModel(model_1, model_2, w)


def check_vocabularies(*models: Any) -> None:
    """Raise `InputError` where two models have different numbers of tokens."""
    sizes = [len(model.get_input_embeddings().weight) for model in models]
    if sizes[0] != sizes[1]:
        raise differ(*sizes)


#: The file of a folder with a dial, and in what its answers were sampled when it was tested.
DIAL_FILE = "dial.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_dial(
    folder: str | Path, *, dtype: torch.dtype | None = None, trust_remote_code: bool = False
) -> tuple[DialModel, PreTrainedTokenizerBase]:
    """The dial in a folder that `riskalign export` wrote, on the CPU, and its tokenizer.

    `dtype` is that of the weights; None takes what the dial's answers were sampled in when it was
    certified. `model.to("cuda")` moves both models.

    Raises `InputError`: no dial there, a model that cannot be loaded, or weights that are not those
    that were certified.
    """
    root = Path(folder).expanduser()
    said = read_dial(root)
    first, second = (certified(root, i, said, trust_remote_code) for i in (1, 2))
    models: list[Any] = [first.model, second.model]
    one, two = (model.to(dtype=dtype or DTYPES[said.dtype]) for model in models)
    return dial(one, two, said.w), second.tokenizer


class DialFile(NamedTuple):
    """What `dial.json` says: w, what its answers were sampled in, both models' fingerprints."""

    w: float
    dtype: str
    fingerprints: list[str]


def read_dial(root: Path) -> DialFile:
    """What a folder's `dial.json` says; `InputError` where there is none, or a broken one."""
    if not (root / DIAL_FILE).is_file():
        raise InputError(
            f"{root}: no dial here (no {DIAL_FILE}). A folder with config.json is a single model, "
            "for transformers' from_pretrained."
        )
    said = read_object(root / DIAL_FILE)
    w, prints, name = (said.get(key) for key in ("w", "fingerprints", "dtype"))
    if isinstance(w, bool) or not isinstance(w, int | float):
        raise InputError(f"{root / DIAL_FILE}: w is {str(w)[:40]}, not a number. Export it again.")
    if name not in tuple(DTYPES) or not isinstance(prints, list) or len(prints) != 2:
        wrong = "fingerprints are not two" if name in tuple(DTYPES) else "dtype is not known"
        raise InputError(f"{root / DIAL_FILE}: its {wrong}. Export it again.")
    return DialFile(w, str(name), prints)


def certified(root: Path, i: int, said: DialFile, trust_remote_code: bool) -> LoadedModel:
    """A dial's first or second model; `InputError` where its weights are not those certified."""
    loaded = load_model(root / f"model_{i}", trust_remote_code=trust_remote_code)
    if fingerprint(loaded.model) != said.fingerprints[i - 1]:
        raise InputError(
            f"{root / f'model_{i}'}: its weights are not those that were certified. Export the "
            "dial again."
        )
    return loaded


def differ(*sizes: int) -> InputError:
    """The error for vocabularies of these sizes."""
    return InputError(
        f"dial: the models' vocabularies differ ({sizes[0]} and {sizes[1]} tokens); both must come "
        "from the same start model."
    )
