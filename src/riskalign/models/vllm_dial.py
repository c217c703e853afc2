"""The dial inside a vLLM engine: `π_w` from the served model and a second one that reads along.

    VLLM_USE_V2_MODEL_RUNNER=0 vllm serve FOLDER/model_1 --dtype bfloat16 \
        --generation-config vllm --logits-processors riskalign.models.vllm_dial:VllmDial \
        --additional-config '{"riskalign_dial": "FOLDER"}'

FOLDER holds a dial (`riskalign export`). A request may have a `w` of its own, as
`"vllm_xargs": {"w": 0.7}`; else it is the folder's. The interface is that of vLLM's first model
runner, hence the variable. Importing this file imports vLLM.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

from riskalign.errors import InputError
from riskalign.models.companion import Companion
from riskalign.models.dial import DTYPES, certified, combine_logits, differ, read_dial
from riskalign.models.loading import pretrained
from riskalign.models.merge import refuse_weight

#: Where the engine's additional_config names the dial's folder, and a request its own w.
FOLDER, WEIGHT = "riskalign_dial", "w"


class _Asked(NamedTuple):
    """A request by its number; `made` is the engine's own list, which it adds to."""

    number: int
    w: float
    prompt: Sequence[int]
    made: Sequence[int]


class VllmDial(LogitsProcessor):  # type: ignore[misc]
    """Turns the served model's logits into those of `π_w`, for each request at its own w."""

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raise `InputError`, a ValueError, for a request whose `w` is no weight."""
        w = (sampling_params.extra_args or {}).get(WEIGHT, 0.0)
        if isinstance(w, bool) or not isinstance(w, int | float):
            raise InputError(f"w: {str(w)[:40]} is not a number")
        refuse_weight(w)

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Load the second model beside the first; `InputError` where it cannot be the dial's."""
        config = vllm_config.model_config
        given = (vllm_config.additional_config or {}).get(FOLDER)
        self._w, model = _second(given, config.dtype, config.trust_remote_code)
        self._companion = Companion(model.to(device))
        self._asked: dict[int, _Asked] = {}
        self._numbers = itertools.count()

    def is_argmax_invariant(self) -> bool:
        """No: the likeliest token is another one."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Rows of the batch that came, went or changed places."""
        process_dict_updates(self._asked, batch_update, self._ask)

    def _ask(self, params: Any, prompt: list[int] | None, made: list[int]) -> _Asked:
        if prompt is None:
            raise InputError("dial: a request without token ids of its prompt cannot be read along")
        w = (params.extra_args or {}).get(WEIGHT, self._w)
        return _Asked(next(self._numbers), w, prompt, made)

    def apply(self, logits: Tensor) -> Tensor:
        """Logits [B, V] of the batch's rows in, log probabilities of `π_w` out, in place.

        Rows at w = 0 are the served model's own, and stay as they are.
        """
        asked = {i: each for i, each in sorted(self._asked.items()) if each.w != 0}
        if not asked:
            return logits
        second = self._companion.next_logits(
            [(each.number, [*each.prompt, *each.made]) for each in asked.values()]
        )
        if second.shape[1] != logits.shape[1]:
            raise differ(logits.shape[1], second.shape[1])
        places = torch.tensor(list(asked), device=logits.device)
        for w in {each.w for each in asked.values()}:
            rows = [at for at, each in enumerate(asked.values()) if each.w == w]
            index = torch.tensor(rows, device=logits.device)
            logits[places[index]] = combine_logits(logits[places[index]], second[index], w)
        return logits


def _second(given: Any, dtype: torch.dtype, trust_remote_code: bool) -> tuple[float, Any]:
    """The dial's w and its second model in `dtype`: of a folder, or of {model_2: …, w: …}."""
    if isinstance(given, dict):
        # In float32 first, as models of a job are: so its rotary frequencies are cast as theirs.
        options: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": trust_remote_code}
        second: Any = pretrained(Path(given["model_2"]), **options)
        return given["w"], second.to(dtype).eval()
    if not isinstance(given, str):
        raise InputError(f"dial: the engine's additional_config names no folder; give {FOLDER}.")
    root = Path(given).expanduser()
    said = read_dial(root)
    if DTYPES[said.dtype] != dtype:
        raise InputError(f"{root}: its answers were sampled in {said.dtype}; give it as --dtype.")
    model: Any = certified(root, 2, said, trust_remote_code).model
    return said.w, model.to(dtype)
