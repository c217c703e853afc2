"""Real vLLM against transformers: answers, the dial, adapters, a server. Tiny models, any device.

    VLLM_CPU_KVCACHE_SPACE=1 python benchmarks/vllm_check.py

Each line is a figure and whether it is as it should be; the exit code is 1 if one is not. Models
are random and wide apart, so that a greedy answer says which model it is of.
"""

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))  # so that it runs as a script, too

import requests
import torch
from peft import LoraConfig, get_peft_model
from scipy.stats import chi2

from riskalign.errors import InputError
from riskalign.models import fingerprint, vllm
from riskalign.models.dial import DIAL_FILE
from riskalign.models.sampling import Answer, prompt_token_ids, sample
from riskalign.models.vllm import close_engine, sample_with_vllm
from riskalign.models.vllm_server import VllmConfig
from riskalign.worlds import Prompt
from tests import tiny

# vLLM's attention knows few sizes of heads.
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
TEXTS = ("a b c", "a", "c b a b c a b c c b a", "b b", "The door code", "order a b c", "x", "y z")
PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": t},)) for i, t in enumerate(TEXTS)]
failed: list[str] = []


def show(what: str, figure: Any, holds: bool) -> None:
    """A line, and whether it is as it should be."""
    print(f"{'ok ' if holds else 'NOT'} {what}: {figure}", flush=True)
    if not holds:
        failed.append(what)


def same(one: list[list[Answer]], two: list[list[Answer]]) -> str:
    """How many answers have the same tokens."""
    pairs = [(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True)]
    return f"{sum(a.token_ids == b.token_ids for a, b in pairs)} of {len(pairs)} answers alike"


def whole(said: str) -> bool:
    """All of them."""
    n, _, total = said.split()[:3]
    return n == total


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A vLLM server of a dial on a port of this machine; its base URL."""
    port = 8127
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--dtype", "float32"]
    command += ["--model", str(folder / "model_1"), "--served-model-name", "base"]
    command += ["--max-model-len", "256", "--max-num-seqs", "8", "--enforce-eager"]
    command += ["--generation-config", "vllm", "--api-key", "sesame"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--logits-processors", "riskalign.models.vllm_dial:VllmDial"]
    command += ["--additional-config", json.dumps({"riskalign_dial": str(folder)})]
    with tempfile.TemporaryFile("w+") as log:
        environment = os.environ | {"VLLM_USE_V2_MODEL_RUNNER": "0"}
        child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            patience = time.monotonic() + 900
            while not _answers(f"http://127.0.0.1:{port}/health"):
                if child.poll() is not None or time.monotonic() > patience:
                    log.seek(0)
                    raise SystemExit(f"the server does not run: {log.read()[-3000:]}")
                time.sleep(1)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            child.terminate()
            child.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=1).status_code == 200
    except requests.RequestException:
        return False


def check_copies(one: Any, tokenizer: Any, config: VllmConfig) -> list[list[Answer]]:
    """Greedy answers, seeds, one engine for several calls; the drawn answers."""
    greedy: dict[str, Any] = {"answers_per_prompt": 1, "temperature": 0.0, "max_new_tokens": 24}
    start = time.perf_counter()
    first = sample_with_vllm(one, tokenizer, PROMPTS, vllm=config, batch_size=8, **greedy)
    began = time.perf_counter() - start
    said = same(first, sample(one, tokenizer, PROMPTS, **greedy))
    show("greedy, vLLM and transformers", said, whole(said))
    drawn: dict[str, Any] = {"answers_per_prompt": 4, "max_new_tokens": 24, "seed": 3}
    start = time.perf_counter()
    whole_list = sample_with_vllm(one, tokenizer, PROMPTS, vllm=config, batch_size=8, **drawn)
    again = time.perf_counter() - start
    show("first call with its engine's start, second call", f"{began:.1f} s, {again:.2f} s", True)
    part = sample_with_vllm(one, tokenizer, PROMPTS[5:2:-1], vllm=config, batch_size=8, **drawn)
    said = same(part, whole_list[5:2:-1])
    show("drawn, among all prompts and among three", said, whole(said))
    distinct = len({tuple(a.token_ids) for own in whole_list for a in own})
    show("drawn, different answers", f"{distinct} of 32", distinct == 32)
    return whole_list


def check_engine(one: Any, tokenizer: Any, config: VllmConfig) -> None:
    """Several engines one after another, and what a token is drawn from."""
    drawn: dict[str, Any] = {"answers_per_prompt": 4, "max_new_tokens": 24, "seed": 3}
    whole_list = check_copies(one, tokenizer, config)
    small = sample_with_vllm(one, tokenizer, PROMPTS, vllm=config, batch_size=2, **drawn)
    said = same(small, whole_list)
    show("drawn, batch 8 and 2", said, whole(said))
    first_tokens: dict[str, Any] = {"answers_per_prompt": 2000, "max_new_tokens": 1}
    many = sample_with_vllm(one, tokenizer, PROMPTS[:1], vllm=config, batch_size=2, **first_tokens)
    ids = prompt_token_ids(tokenizer, PROMPTS[0])
    with torch.no_grad():
        expected = one(torch.tensor([ids])).logits[0, -1].double().softmax(-1) * 2000
    found = torch.bincount(torch.tensor([a.token_ids[0] for a in many[0]]), minlength=len(expected))
    likely = expected > 5
    statistic = float(((found - expected) ** 2 / expected)[likely].sum())
    most = float(chi2.ppf(0.999, int(likely.sum())))
    show(
        "chi-square of 2,000 first tokens", f"{statistic:.1f}, at most {most:.1f}", statistic < most
    )


def check_dial(one: Any, two: Any, tokenizer: Any, config: VllmConfig) -> None:
    """Points of the dial from one engine, against transformers' and the single models."""
    greedy: dict[str, Any] = {"answers_per_prompt": 1, "temperature": 0.0, "max_new_tokens": 24}
    ends = {0.0: sample(one, tokenizer, PROMPTS, **greedy)}
    ends[1.0] = sample(two, tokenizer, PROMPTS, **greedy)
    # Fewer places than answers, so that rows come, go and change places.
    made = {}
    for w in (0.0, 0.5, 1.0, 1.5):
        made[w] = sample_with_vllm(
            one, tokenizer, PROMPTS, vllm=config, batch_size=3, dial_to=(two, w), **greedy
        )
        wanted = ends.get(w) or sample(one, tokenizer, PROMPTS, dial_to=(two, w), **greedy)
        said = same(made[w], wanted)
        kind = "the single model" if w in ends else "transformers' dial"
        show(f"dial at {w}, vLLM and {kind}", said, whole(said))
    between = same(made[0.5], made[0.0]), same(made[0.5], made[1.0])
    show("dial at 0.5 and its two ends", between, not any(map(whole, between)))
    drawn: dict[str, Any] = {"answers_per_prompt": 4, "max_new_tokens": 24, "seed": 3}
    some = sample_with_vllm(
        one, tokenizer, PROMPTS, vllm=config, batch_size=3, dial_to=(two, 0.5), **drawn
    )
    few = sample_with_vllm(
        one, tokenizer, PROMPTS[2:4], vllm=config, batch_size=3, dial_to=(two, 0.5), **drawn
    )
    said = same(few, some[2:4])
    show("dial, drawn among all prompts and among two", said, whole(said))


def adapted(model: Any, seed: int) -> Any:
    """The model with an adapter that says something else."""
    torch.manual_seed(seed)
    made: Any = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return made.eval()


def check_adapters(tokenizer: Any, config: VllmConfig) -> None:
    """Two adapters of one base, from one engine, against transformers."""
    greedy: dict[str, Any] = {"answers_per_prompt": 1, "temperature": 0.0, "max_new_tokens": 24}
    engines = []
    for seed in (1, 2):
        model = adapted(tiny.make_model(**SHAPE).eval(), seed)
        found = sample_with_vllm(model, tokenizer, PROMPTS, vllm=config, batch_size=8, **greedy)
        merged = model.merge_and_unload()
        said = same(found, sample(merged, tokenizer, PROMPTS, **greedy))
        show(f"adapter {seed}, a LoRA request and transformers", said, whole(said))
        engines.append(vllm._now[0])
    show("engines for two adapters", len({id(each) for each in engines}), engines[0] is engines[1])


def write_dial(one: Any, two: Any, tokenizer: Any, folder: Path) -> None:
    """A dial at 0.5 as `riskalign export` writes it."""
    for i, model in enumerate((one, two), 1):
        model.save_pretrained(folder / f"model_{i}")
        tokenizer.save_pretrained(folder / f"model_{i}")
    said = {"w": 0.5, "dtype": "float32", "fingerprints": [fingerprint(one), fingerprint(two)]}
    (folder / DIAL_FILE).write_text(json.dumps(said))


def check_served_dial(one: Any, two: Any, tokenizer: Any, url: str) -> None:
    """The folder's w, a request's own, one that is none."""
    body: dict[str, Any] = {"model": "base", "temperature": 0, "max_tokens": 24}
    body |= {"return_token_ids": True, "stop_token_ids": [1]}

    def ask(prompt: list[int], w: float | None) -> Any:
        own: dict[str, Any] = {} if w is None else {"vllm_xargs": {"w": w}}
        sesame = {"Authorization": "Bearer sesame"}
        whole = {**body, "prompt": prompt, **own}
        return requests.post(f"{url}/completions", headers=sesame, json=whole, timeout=100)

    for w, at in ((None, 0.5), (0.0, 0.0), (1.0, 1.0)):
        replies = [ask(prompt_token_ids(tokenizer, prompt), w).json() for prompt in PROMPTS]
        greedy: dict[str, Any] = {"answers_per_prompt": 1, "temperature": 0.0}
        wanted = sample(one, tokenizer, PROMPTS, dial_to=(two, at), max_new_tokens=24, **greedy)
        made = [reply["choices"][0]["token_ids"] for reply in replies]
        alike = sum(a == b[0].token_ids for a, b in zip(made, wanted, strict=True))
        name = "the folder's w, 0.5" if w is None else f"w {w} of the request"
        show(f"a served dial at {name}", f"{alike} of 8 answers alike", alike == 8)
    status = ask([5], 1000.0).status_code
    show("a served dial at w 1000, status", status, status == 400)


def check_served(one: Any, two: Any, tokenizer: Any, url: str) -> None:
    """A model that is served, and one that is not."""
    os.environ["SESAME"] = "sesame"
    config = VllmConfig(base_url=url, api_key_env="SESAME")
    greedy: dict[str, Any] = {"answers_per_prompt": 1, "temperature": 0.0, "max_new_tokens": 24}
    drawn: dict[str, Any] = {"answers_per_prompt": 4, "max_new_tokens": 24, "seed": 3}
    found = sample_with_vllm(one, tokenizer, PROMPTS, vllm=config, **greedy)
    alike = same(found, sample(one, tokenizer, PROMPTS, **greedy))
    show("greedy, a server and transformers", alike, whole(alike))
    served = sample_with_vllm(one, tokenizer, PROMPTS, vllm=config, **drawn)
    few = sample_with_vllm(one, tokenizer, PROMPTS[2:4], vllm=config, **drawn)
    alike = same(few, served[2:4])
    show("a server, drawn among all prompts and among two", alike, whole(alike))
    try:
        sample_with_vllm(two, tokenizer, PROMPTS, vllm=config, **greedy)
    except InputError as error:
        show("a server of another model", error, True)
    else:
        show("a server of another model", "was asked all the same", False)


def check_server(one: Any, two: Any, tokenizer: Any) -> None:
    """A running server of a dial, by its own requests and as the model that it begins at."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dial(one, two, tokenizer, folder)
        with server(folder) as url:
            check_served_dial(one, two, tokenizer, url)
            check_served(one, two, tokenizer, url)


def main() -> None:
    """Run the checks that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checks", default="engine,dial,adapters,copies,server")
    o = parser.parse_args()
    for name in ("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE"):
        os.environ.setdefault(name, "1")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    engine = importlib.import_module("vllm").__version__
    print(f"vllm {engine}, " + ", ".join(f"{k} {v}" for k, v in versions.items()), flush=True)
    tokenizer = tiny.make_tokenizer()
    one, two = (tiny.make_model(seed=seed, **SHAPE).eval() for seed in (1, 2))
    config = VllmConfig(enforce_eager=True)
    checks: dict[str, Callable[[], object]] = {
        "engine": lambda: check_engine(one, tokenizer, config),
        "dial": lambda: check_dial(one, two, tokenizer, config),
        "adapters": lambda: check_adapters(tokenizer, config),
        "copies": lambda: check_copies(
            one, tokenizer, VllmConfig(enforce_eager=True, data_parallel_size=2)
        ),
        "server": lambda: check_server(one, two, tokenizer),
    }
    for name in o.checks.split(","):
        print(f"-- {name}", flush=True)
        checks[name]()
        close_engine()
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
