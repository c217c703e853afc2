"""A vLLM server that runs already, asked by its OpenAI-compatible completions."""

import itertools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, NamedTuple

import requests
import torch
from pydantic import Field

from riskalign.errors import InputError
from riskalign.settings import Count, Flag, Positive, UpToOne, Words, settings

_CHECKED = 4  # prompts whose log probabilities are compared
#: Nats a token that they may differ by on average: of rounding, that is.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
_COARSE = 0.05
#: What is left out is as the served model's generation_config.json has it, and bends the
#: distribution whose tail is to be measured.
_PLAIN = {
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}


@settings
class VllmConfig:
    """How vLLM runs, in its own names."""

    tensor_parallel_size: Count = 1
    """Devices that share a model's layers."""
    data_parallel_size: Count = 1
    """Copies of the model, each on devices of its own, that share the answers."""
    gpu_memory_utilization: UpToOne | None = None
    """Share of each GPU's memory that the engine takes; null for vLLM's own. A dial's second model
    comes on top."""
    max_model_len: Count | None = None
    """Tokens of the longest prompt and answer; null for what the prompts need."""
    enforce_eager: Flag = False
    """Compile nothing and record no CUDA graphs: a faster start, slower answers."""
    base_url: Annotated[Words, Field(pattern=r"^https?://[^@?#]+$")] | None = None
    """Of a server to ask in place of an engine: http://HOST:PORT/v1, without a user or a query."""
    api_key_env: Words = "VLLM_API_KEY"
    """The variable that holds the server's key, if it wants one."""
    timeout: Positive = 600.0
    """Seconds that an answer of the server may take."""


class VllmRequest(NamedTuple):
    """One answer that is asked for: token ids of its prompt, and the seed of its draws."""

    prompt: list[int]
    seed: int


def ask_server(
    config: VllmConfig,
    model: Any,
    asked: Sequence[VllmRequest],
    how: Mapping[str, Any],
    at_once: int,
    tell: Callable[[int], None],
) -> list[list[int]]:
    """Token ids of each answer, its end included, from the served model that is `model`.

    Raises `InputError`: no served model has the log probabilities of `model`, the server cannot be
    asked, or gives no token ids.
    """
    server = _Server(config)
    name = _served(server, model, list(dict.fromkeys(tuple(each.prompt) for each in asked)))
    done = itertools.count(1)

    def ask(request: VllmRequest) -> list[int]:
        choice = server.complete(name, request.prompt, seed=request.seed, **how)
        tokens = choice.get("token_ids")
        if not isinstance(tokens, list):
            raise InputError(
                f"vllm.base_url: {config.base_url} gives no token ids (return_token_ids). Serve "
                "with vLLM 0.10.2 or later."
            )
        ends = how["stop_token_ids"]
        if len(tokens) < how["max_tokens"] and not (tokens and tokens[-1] in ends):
            raise InputError(
                f"vllm.base_url: {config.base_url} cuts answers at {len(tokens)} tokens, and "
                f"{how['max_tokens']} were asked for. Serve with a longer --max-model-len, and "
                "with --generation-config vllm."
            )
        tell(next(done))
        return tokens

    pool = ThreadPoolExecutor(at_once)
    try:
        return list(pool.map(ask, asked))
    finally:
        pool.shutdown(cancel_futures=True)


class _Server:
    def __init__(self, config: VllmConfig) -> None:
        self._config = config
        self._url = str(config.base_url).rstrip("/")
        self._key = os.environ.get(config.api_key_env)

    def names(self) -> list[str]:
        """The models that are served, adapters included."""
        return [each["id"] for each in self._call("GET", "/models", None)["data"]]

    def complete(self, name: str, prompt: Sequence[int], **how: Any) -> dict[str, Any]:
        """The one choice of a completion."""
        body = {"model": name, "prompt": list(prompt), "return_token_ids": True, **_PLAIN, **how}
        # Of a served dial the log probabilities of prompts are the first model's: so are answers.
        body["vllm_xargs"] = {"w": 0.0}
        choice: dict[str, Any] = self._call("POST", "/completions", body)["choices"][0]
        return choice

    def _call(self, verb: str, path: str, body: Any) -> Any:
        where = f"vllm.base_url: {self._url}{path}"
        try:
            response = requests.request(
                verb,
                self._url + path,
                json=body,
                auth=self._sign,  # given always, so that no `.netrc` fills in another's secret
                timeout=self._config.timeout,
                allow_redirects=False,
            )
        except requests.RequestException as error:
            # Its message could hold the request's header.
            raise InputError(
                f"{where} cannot be asked ({type(error).__name__}). Is the server running?"
            ) from None
        if response.status_code != 200:
            said = response.text.replace(self._key or "\0", "[key]")[:300]
            raise InputError(f"{where} answers with status {response.status_code}: {said}")
        try:
            return response.json()
        except ValueError:
            raise InputError(f"{where} answers with what is not JSON.") from None

    def _sign(self, request: Any) -> Any:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


def _served(server: _Server, model: Any, prompts: Sequence[Sequence[int]]) -> str:
    """The name of the served model whose log probabilities of prompts are nearest to `model`'s."""
    chosen = [prompt for prompt in prompts if len(prompt) > 1][:_CHECKED]
    own = [_log_probs(model, prompt) for prompt in chosen]
    names, distance = server.names(), {}
    for name in names:
        gaps: list[float] = []
        for prompt, logs in zip(chosen, own, strict=True):
            told = server.complete(name, prompt, max_tokens=1, temperature=0, prompt_logprobs=0)
            rows = (told.get("prompt_logprobs") or [])[1:]
            if len(rows) != len(logs):
                raise InputError(
                    "vllm.base_url: the server tells no prompt_logprobs, by which the model that "
                    "it serves is known to be the right one. Serve with vLLM."
                )
            gaps += [
                abs(row[str(token)]["logprob"] - log)
                for row, token, log in zip(rows, prompt[1:], logs, strict=True)
            ]
        distance[name] = sum(gaps) / len(gaps) if gaps else math.inf
    best = min(names, key=distance.__getitem__, default=None)
    most = _TOLERANCE.get(model.dtype, _COARSE)
    if best is None or not distance[best] <= most:
        off = ", ".join(f"{name} by {gap:.3g}" for name, gap in distance.items()) or "none"
        raise InputError(
            f"vllm.base_url: no served model has this model's log probabilities to {most:g} nats a "
            f"token (off are: {off}). Serve these weights, in {str(model.dtype)[6:]}."
        )
    return best


@torch.inference_mode()
def _log_probs(model: Any, prompt: Sequence[int]) -> list[float]:
    """Of each token of a prompt but the first."""
    ids = torch.tensor([list(prompt)], device=model.device)
    logs = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
    found: list[float] = logs.gather(-1, ids[0, 1:, None]).squeeze(-1).tolist()
    return found
