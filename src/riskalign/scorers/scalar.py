"""A causal model's body with one number for each token: reward models, cost models and critics.

Source: Safe RLHF (arXiv 2310.12773), section 3.2, where the output layer of a language model gives
way to a linear map to one number.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from riskalign.errors import InputError
from riskalign.files.atomic import new_folder
from riskalign.models.weights import check_tensor, check_weights
from riskalign.scorers.batch import Batch, final_states, states_before
from riskalign.scorers.seeds import seeded
from riskalign.tokens import backbone_of, head_of

_HEAD_FILE = "head.safetensors"


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
        return self._numbers(final_states(self.body, batch))

    def values(self, batch: Batch) -> Tensor:
        """One number for the state before each answer token: [N] from a `collate`d batch."""
        return self._numbers(states_before(self.body, batch))

    def _numbers(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            numbers: Tensor = self.head(hidden.to(self.head.weight.dtype))
        return numbers.squeeze(-1)

    def add_adapter(self, peft_config: PeftConfig) -> None:
        """Put an adapter into the body; only it and the head are trained then.

        Raises:
            InputError: there is an adapter already.
        """
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

    Args:
        model: a transformers causal model, or its PEFT wrapper, whose adapter is merged into the
            copy.
        seed: of the head and of a new adapter's weights.
        head_std: standard deviation of the head's weights; 0 makes every number 0 at first.
        peft_config: trains an adapter instead of the whole body.

    Raises:
        InputError: `model` is no causal model, or `head_std` is negative.
    """
    if head_std < 0:
        raise InputError(f"head_std is {head_std}. Give a number of at least 0.")
    body: Any
    if isinstance(model, PeftModel):
        merged: Any = copy.deepcopy(model).merge_and_unload()
        body = backbone_of(merged)
    else:
        body = copy.deepcopy(backbone_of(model))
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


def load_scalar_model(folder: str | Path, *, dtype: torch.dtype = torch.float32) -> ScalarModel:
    """Load what `save_scalar_model` wrote, on the CPU, in evaluation mode; the body in `dtype`.

    Raises:
        InputError: the folder does not hold a scalar model, or a weight is missing.
    """
    path = Path(folder)
    if not (path / _HEAD_FILE).is_file() or not (path / "backbone" / "config.json").is_file():
        raise InputError(
            f"{path}: no scalar model here (backbone/ and {_HEAD_FILE}). Give a folder that "
            "save_scalar_model wrote."
        )
    try:
        loaded: Any = AutoModel.from_pretrained(
            path / "backbone", dtype=dtype, use_safetensors=True, output_loading_info=True
        )
        weight = load_file(path / _HEAD_FILE)["weight"]
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{path}: the scalar model cannot be loaded: {error}. Save it again."
        ) from error
    body, report = loaded
    assert isinstance(body, PreTrainedModel)
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"{path}: {len(missing)} of the body's weights are missing, {missing[0]!r} among "
            "them. Save the model again."
        )
    check_weights(body, str(path))
    check_tensor(weight, "weight", f"{path / _HEAD_FILE}")
    with seeded(0):  # or its first weights, replaced at once, would use up the caller's numbers
        head = nn.Linear(weight.shape[1], 1, bias=False)
    head.weight = nn.Parameter(weight)
    return ScalarModel(body, head).eval()
