"""Two processes of every engine give the losses and weights of one, and what they save is whole."""

import importlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from riskalign.models import load_model, save_model
from tests import tiny
from tests.processes import START_METHOD
from tests.training.engined import Case, run

CLASSES = {
    "ddp": "DistributedDataParallel",
    "fsdp": "FSDPLlamaForCausalLM",
    "zero2": "DeepSpeedEngine",
    "zero3": "DeepSpeedEngine",
}
KINDS = ("full", "lora", "tied")
SAVING = {"save_strategy": "steps", "save_steps": 1}
SPARING = {"chunk_size": 5, "gradient_checkpointing": True}
OFFLOADED = {"offload_param": {"device": "cpu"}, "offload_optimizer": {"device": "cpu"}}
EQUAL = [
    *(Case(engine, kind) for engine in CLASSES for kind in KINDS if kind != "full"),
    *(Case(engine, args=SAVING) for engine in CLASSES),
    *(Case(engine, name="resumed", resume=f"{engine}-full-") for engine in CLASSES),
    *(Case(engine, "head") for engine in ("fsdp", "zero3")),
    Case("fsdp", name="sparing", args=SPARING, evaluate=True),
    Case("zero3", name="sparing", args=SPARING, zero=OFFLOADED),
    Case("fsdp", name="launched", loaded=True, launched=True),
    Case("zero3", name="loaded", loaded=True),
    Case("zero3", "head", "loaded", loaded=True),
]
BF16 = [
    *(Case(engine, name="bf16", args={"bf16": True, "max_steps": 1}) for engine in CLASSES),
    Case("zero3", "head", "bf16", args={"bf16": True, "max_steps": 1}, loaded=True),
]


@pytest.fixture(scope="module")
def under(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with all runs of two processes."""
    pytest.importorskip("deepspeed")
    under = tmp_path_factory.mktemp("engines")
    save_model(tiny.make_model(tie_word_embeddings=False), tiny.make_tokenizer(), under / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("deepspeed")  # once, for both processes
        given = (2, under / "two.json", EQUAL + BF16)
        start_processes(_main, given, nprocs=2, start_method=START_METHOD)
    return under


def _main(*given: Any) -> None:
    importlib.import_module("tests.training.engined").main(*given)


@pytest.fixture(scope="module")
def two(under: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((under / "two.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def one(under: Path) -> dict[str, dict[str, Any]]:
    """The same in one process."""
    return {kind: run(Case("one", kind), under, 2) for kind in (*KINDS, "head")}


def weights(case: Case, under: Path) -> dict[str, Tensor]:
    folder = case.folder(under) / "saved"
    assert [path.suffix for path in folder.glob("*model*")] == [".safetensors"]
    return load_file(next(folder.glob("*model*")))


def name(case: Case) -> str:
    return case.folder(Path()).name


@pytest.mark.parametrize("case", EQUAL, ids=name)
def test_two_processes_equal_one(
    case: Case, under: Path, two: dict[str, dict[str, Any]], one: dict[str, dict[str, Any]]
) -> None:
    found, expected = two[name(case)], one[case.kind]
    assert found["engine"].replace("PeftModel", "Llama") == CLASSES[case.engine]
    assert found["reference in parts"] or case.engine in ("ddp", "zero2")
    if case.evaluate:
        assert found["evaluated"] < 0
    made, wanted = weights(case, under), weights(Case("one", case.kind), under)
    assert made.keys() == wanted.keys()
    for key, weight in made.items():
        torch.testing.assert_close(weight, wanted[key], rtol=0, atol=2e-5, msg=key)
    logs = zip(found["log"][:2], expected["log"][:2], strict=True)
    for log, wanted_log in logs:
        for key, value in wanted_log.items():
            assert log[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize("case", [*BF16, Case("one", name="bf16", args=BF16[0].args)], ids=name)
def test_reference_has_the_policys_precision(
    case: Case, under: Path, two: dict[str, dict[str, Any]], one: dict[str, dict[str, Any]]
) -> None:
    found = run(case, under, 2) if case.engine == "one" else two[name(case)]
    log = found["log"][0]
    zero = {key: value for key, value in log.items() if key.startswith(("risk", "kl", "margin"))}
    assert len(zero) == 5
    assert set(zero.values()) == {0.0}
    # Targets keep their precision.
    assert log["loss"] == pytest.approx(one["full"]["log"][0]["loss"], rel=1e-6)


def test_weights_load_anywhere(under: Path, two: dict[str, dict[str, Any]]) -> None:
    for case in (Case("fsdp"), Case("zero3", "tied")):
        loaded = load_model(case.folder(under) / "saved").model.state_dict()
        for key, weight in weights(case, under).items():
            assert torch.equal(loaded[key], weight)


def test_what_two_saved_one_resumes(
    under: Path, two: dict[str, dict[str, Any]], one: dict[str, dict[str, Any]]
) -> None:
    case = Case("one", name="resumed", resume="fsdp-full-")
    run(case, under, 2)
    for key, weight in weights(case, under).items():
        wanted = weights(Case("one"), under)[key]
        torch.testing.assert_close(weight, wanted, rtol=0, atol=2e-5, msg=key)
