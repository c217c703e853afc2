"""A running server: the right model is asked, each answer by its seed, the key never shown."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from riskalign.errors import FieldError, InputError
from riskalign.models.sampling import sample
from riskalign.models.vllm import sample_with_vllm
from riskalign.models.vllm_server import VllmConfig
from riskalign.worlds import Prompt
from tests import tiny

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": text},), {}) for i, text in enumerate("ab")]
GREEDY: dict[str, Any] = {"answers_per_prompt": 2, "temperature": 0.0, "max_new_tokens": 6}


class Served:
    """Two models by name, answered greedily, as vLLM's server would."""

    def __init__(self) -> None:
        self.models = {"base": tiny.make_model(seed=1), "tuned": tiny.make_model(seed=2)}
        self.bodies: list[dict[str, Any]] = []
        self.leave_out: set[str] = set()
        self.status = 200
        self.most = 100  # tokens, of a configuration of its own

    def answer(self, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        if path == "/v1/models":
            return {"data": [{"id": name} for name in self.models]}
        assert path == "/v1/completions"
        assert body is not None
        self.bodies.append(body)
        model: Any = self.models[body["model"]]
        ids = torch.tensor([body["prompt"]])
        choice: dict[str, Any] = {}
        with torch.no_grad():
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                repetition_penalty=body.get("repetition_penalty", 5.0),  # its own default
                max_new_tokens=min(body["max_tokens"], self.most),
                pad_token_id=0,
            )
            logs = model(ids).logits[0, :-1].log_softmax(-1)
        choice["token_ids"] = made[0, ids.shape[1] :].tolist()
        if "prompt_logprobs" in body:
            rows = zip(body["prompt"][1:], logs, strict=True)
            told = [{str(token): {"logprob": float(row[token])}} for token, row in rows]
            choice["prompt_logprobs"] = [None, *told]
        return {"choices": [{k: v for k, v in choice.items() if k not in self.leave_out}]}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Served, VllmConfig]]:
    state = Served()

    class Handler(BaseHTTPRequestHandler):
        def _reply(self, body: dict[str, Any] | None) -> None:
            key = self.headers.get("Authorization")
            right = key == "Bearer sesame" and state.status == 200
            said = state.answer(self.path, body) if right else {"error": f"not by {key}"}
            raw = json.dumps(said).encode()
            self.send_response(200 if right else 401)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def do_GET(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on the terminal."""

    monkeypatch.setenv("SESAME", "sesame")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}/v1/"
    yield state, VllmConfig(base_url=url, api_key_env="SESAME")
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_served_model_that_it_is(served: tuple[Served, VllmConfig]) -> None:
    state, config = served
    tokenizer = tiny.make_tokenizer()
    for name, model in list(state.models.items()):
        state.bodies.clear()
        found = sample_with_vllm(model, tokenizer, PROMPTS, vllm=config, **GREEDY)
        assert found == sample(model, tokenizer, PROMPTS, **GREEDY)
        asked = [body for body in state.bodies if "seed" in body]
        assert [body["model"] for body in asked] == [name] * 2
    drawn: dict[str, Any] = {"answers_per_prompt": 3, "max_new_tokens": 2, "vllm": config}
    seeds = []
    for prompts in (PROMPTS, PROMPTS[1:]):
        state.bodies.clear()
        sample_with_vllm(model, tokenizer, prompts, **drawn)
        seeds.append({body["seed"] for body in state.bodies if "seed" in body})
    assert len(seeds[0]) == 6
    assert seeds[1] < seeds[0]
    with pytest.raises(InputError, match=r"no served model .* base by \d.*, tuned by \d"):
        sample_with_vllm(tiny.make_model(seed=3), tokenizer, PROMPTS, vllm=config, **GREEDY)


def test_refusals(served: tuple[Served, VllmConfig]) -> None:
    state, config = served
    model, tokenizer = state.models["base"], tiny.make_tokenizer()
    for left_out, words in (("token_ids", "no token ids"), ("prompt_logprobs", "prompt_logprobs")):
        state.leave_out = {left_out}
        with pytest.raises(InputError, match=words):
            sample_with_vllm(model, tokenizer, PROMPTS, vllm=config, **GREEDY)
    state.leave_out, state.most = set(), 1
    with pytest.raises(InputError, match="cuts answers at 1 tokens, and 6 were asked for"):
        sample_with_vllm(model, tokenizer, PROMPTS, vllm=config, **GREEDY)
    state.status = 401
    with pytest.raises(InputError, match=r"status 401: .*not by Bearer \[key\]") as caught:
        sample_with_vllm(model, tokenizer, PROMPTS, vllm=config, **GREEDY)
    assert "sesame" not in str(caught.value)
    nobody = VllmConfig(base_url="http://127.0.0.1:9/v1")
    with pytest.raises(InputError, match=r"cannot be asked \(ConnectionError\)"):
        sample_with_vllm(model, tokenizer, PROMPTS, vllm=nobody, **GREEDY)
    with pytest.raises(FieldError, match="base_url"):
        VllmConfig(base_url="localhost:8000")
