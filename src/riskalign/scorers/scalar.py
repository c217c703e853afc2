"""A causal model's body with one number for each token: reward models, cost models and critics.

Source: Safe RLHF (arXiv 2310.12773), section 3.2, where the output layer of a language model gives
way to a linear map to one number.

Answers come as one batch, each prompt once where that is possible. Shapes: S answers, T tokens of
the longest, N answer tokens (those of the first answer first).
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedTokenizerBase

from riskalign.data import Batch, packed, plain, response_hidden
from riskalign.errors import InputError
from riskalign.files.atomic import new_folder
from riskalign.models.loading import pretrained
from riskalign.models.weights import check_tensor, check_weights
from riskalign.scorers.training_run import seeded
from riskalign.tokens import backbone_of, head_of

_HEAD_FILE = "head.safetensors"


class Sample(NamedTuple):
    """One answer to one prompt, as token ids; the answer has at least one token."""

    prompt_ids: Sequence[int]
    response_ids: Sequence[int]


def collate(
    samples: Sequence[Sample], pad_token_id: int, shared_prompt: bool, device: torch.device
) -> Batch:
    """Collate S answers; answers to the same prompt share one reading of it.

    With `shared_prompt` every model that reads the batch must satisfy `can_share_prompt`.

    Returns:
        The inputs of a `riskalign.data.Layout` and

        - `hidden_index` [N]: where the state lies that predicts each answer token, which is the
          state before that token;
        - `final_index` [S]: where the state of each answer's own last token lies;
        - `target_ids` [N]: the answer tokens.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault(tuple(sample.prompt_ids), []).append(i)
    rows = [(prompt, [samples[i].response_ids for i in own]) for prompt, own in groups.items()]
    layout = packed(rows) if shared_prompt else plain(rows, pad_token_id)
    before: dict[int, Tensor] = {}
    final: dict[int, int] = {}
    at = 0  # in the packed row
    for (prompt, own), places in zip(groups.items(), layout.hidden_index, strict=True):
        at += len(prompt)
        for i, place in zip(own, places, strict=True):
            at += len(samples[i].response_ids)
            before[i], final[i] = place, at - 1 if shared_prompt else int(place[-1]) + 1
    numbers = range(len(samples))
    batch = {
        **layout.inputs,
        "hidden_index": torch.cat([before[i] for i in numbers]),
        "final_index": torch.tensor([final[i] for i in numbers]),
        "target_ids": torch.tensor([token for sample in samples for token in sample.response_ids]),
    }
    return {name: tensor.to(device) for name, tensor in batch.items()}


def token_mask(samples: Sequence[Sample]) -> Tensor:
    """[S, T], True where an answer has a token."""
    lengths = torch.tensor([len(sample.response_ids) for sample in samples])
    return torch.arange(int(lengths.max())) < lengths.unsqueeze(-1)


def padded(flat: Tensor, mask: Tensor) -> Tensor:
    """Values [N] of answer tokens at their places in [S, T], 0 elsewhere."""
    return flat.new_zeros(mask.shape).masked_scatter(mask, flat)


class ScalarModel(nn.Module):
    """A body and a linear head without bias.

    `scores` reads an answer as a whole (a reward or a cost), `values` the states before its tokens
    (a critic). The head's product is in float32 whatever the body's precision: a bfloat16 number
    has three digits.
    """

    def __init__(self, backbone: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    @property
    def body(self) -> nn.Module:
        """The transformers model, an adapter's layers inside it."""
        if isinstance(self.backbone, PeftModel):
            inner = self.backbone.get_base_model()
            assert isinstance(inner, nn.Module)
            return inner
        return self.backbone

    def scores(self, batch: Batch) -> Tensor:
        """One number for each answer, read at its last token: [S] from a `collate`d batch."""
        return self.values({**batch, "hidden_index": batch["final_index"]})

    def values(self, batch: Batch) -> Tensor:
        """One number for the state before each answer token: [N] from a `collate`d batch."""
        hidden = response_hidden(self.body, batch)
        with torch.autocast(hidden.device.type, enabled=False):
            numbers: Tensor = self.head(hidden.to(self.head.weight.dtype))
        return numbers.squeeze(-1)

    def add_adapter(self, peft_config: PeftConfig) -> None:
        """Put an adapter into the body, which has none; only it and the head are trained then."""
        if isinstance(self.backbone, PeftModel):
            raise InputError(
                "peft_config: the scalar model has an adapter already. Call its merge_adapter "
                "first, or leave peft_config out."
            )
        own = copy.deepcopy(peft_config)
        own.task_type = None  # a causal model's adapter expects an output layer
        backbone: Any = self.backbone
        self.backbone = get_peft_model(backbone, own)

    def merge_adapter(self) -> None:
        """Add the adapter, if any, to the body's weights; numbers change by rounding only."""
        if isinstance(self.backbone, PeftModel):
            self.backbone = self.backbone.merge_and_unload()
            self.backbone.requires_grad_(True)


def scalar_model(
    model: nn.Module,
    *,
    seed: int = 0,
    head_std: float = 0.02,
    peft_config: PeftConfig | None = None,
) -> ScalarModel:
    """A scalar model on a copy of a causal model's body; the model itself stays as it is.

    An adapter of the model's is merged into the copy; `peft_config` trains a new one instead of the
    whole body. `head_std` is the standard deviation of the head's weights: 0 makes every number 0
    at first.

    Raises `InputError` where `model` is no causal model, or `head_std` is negative.
    """
    if head_std < 0:
        raise InputError(f"head_std is {head_std}. Give a number of at least 0.")
    source: Any = copy.deepcopy(model if isinstance(model, PeftModel) else backbone_of(model))
    body = backbone_of(source.merge_and_unload()) if isinstance(source, PeftModel) else source
    output = head_of(model).weight  # some models' last states are not `hidden_size` wide
    with seeded(seed, "head"), torch.no_grad():
        head = nn.Linear(output.shape[1], 1, bias=False)
        head.weight.normal_(0.0, head_std)
    made = ScalarModel(body.requires_grad_(True), head.to(output.device))
    if peft_config is not None:
        with seeded(seed, "adapter"):
            made.add_adapter(peft_config)
    return made.eval()


def save_scalar_model(
    model: ScalarModel, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Write a scalar model: `backbone/` (transformers' format) and `head.safetensors`.

    The folder appears whole or not at all. An adapter is merged into what is written.
    """
    if isinstance(model.backbone, PeftModel):
        model = copy.deepcopy(model)
        model.merge_adapter()
    body: Any = model.body
    check_weights(body, f"scalar model for {str(folder)!r}")
    check_tensor(model.head.weight, "weight", f"scalar head for {str(folder)!r}")
    with new_folder(folder) as temporary:
        body.save_pretrained(temporary / "backbone")
        weight = model.head.weight.detach().cpu().contiguous()
        save_file({"weight": weight}, temporary / _HEAD_FILE)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)


def load_scalar_model(folder: str | Path) -> ScalarModel:
    """Load what `save_scalar_model` wrote, in float32, on the CPU, in evaluation mode.

    Raises `InputError`: the folder does not hold a scalar model, or a weight is missing.
    """
    path = Path(folder)
    if not (path / _HEAD_FILE).is_file() or not (path / "backbone" / "config.json").is_file():
        raise InputError(
            f"{path}: no scalar model here (backbone/ and {_HEAD_FILE}). Give a folder that "
            "save_scalar_model wrote."
        )
    body = pretrained(path / "backbone", AutoModel, dtype=torch.float32)
    try:
        weight = load_file(path / _HEAD_FILE)["weight"]
    except (OSError, KeyError, SafetensorError) as error:
        raise InputError(
            f"{path / _HEAD_FILE}: the head cannot be loaded: {error}. Save the model again."
        ) from error
    check_tensor(weight, "weight", f"{path / _HEAD_FILE}")
    with seeded(0):  # or its first weights, replaced at once, would use up the caller's numbers
        head = nn.Linear(weight.shape[1], 1, bias=False)
    head.weight = nn.Parameter(weight)
    return ScalarModel(body, head).eval()
