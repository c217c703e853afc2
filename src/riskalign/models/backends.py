"""What draws the answers: transformers here, or vLLM."""

from collections.abc import Callable

from riskalign.models.sampling import Answer, Backend, sample
from riskalign.models.vllm import sample_with_vllm

#: By their names; all take the arguments of `sample`, vLLM its own settings beside them.
BACKENDS: dict[Backend, Callable[..., list[list[Answer]]]] = {
    "transformers": sample,
    "vllm": sample_with_vllm,
}
