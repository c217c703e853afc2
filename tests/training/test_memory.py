"""The arithmetic of a plan by hand, and what it makes of a small model."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig

from riskalign.errors import FieldError
from riskalign.models.outline import outline
from riskalign.training import memory
from riskalign.training.memory import Engine, Method, Plan, Setup, Sizes, parts, plans, simplest
from riskalign.training.rehearsal import Rehearsal, Rehearsed
from tests import tiny

GIB = 2**30
# A model of a million weights, 900,000 of them in linear layers below a tied head of 1,000 by 50.
FULL = Sizes(1_000_000, 1_000_000, 900_000, 40_000, 60_000, 94_000, 1_000, 50, 50_000)
ADAPTED = FULL._replace(total=1_010_000, trained=10_000, head_trained=0)
NONE = Rehearsed(0, 0, np.zeros(1), np.zeros(1))


def held(method: Method, engine: Engine, **fields: Any) -> dict[str, float]:
    own = FULL if method == "full" else ADAPTED
    setup = Setup(**{"device": "cpu", "gpus": 1 if engine == "one" else 4} | fields)
    found = parts(method, engine, FULL, own, setup, NONE)
    return {name: value / 1e6 for name, value in found._asdict().items()}


def test_bytes_of_a_weight() -> None:
    """In units of a parameter: 4 of a float32 weight, 4 of its gradient, 8 of AdamW's moments."""
    one = held("full", "one")
    assert [one[name] for name in ("weights", "gradients", "optimizer")] == [4, 4, 8]
    # Linear layers of the reference in bf16, all else in float32; in fp32 all of it.
    assert one["reference"] == pytest.approx(0.9 * 2 + 0.1 * 4)
    assert held("full", "one", bf16=False)["reference"] == 4
    assert held("full", "one", dtype="bfloat16")["optimizer"] == 4
    assert held("full", "ddp")["buffers"] == 4  # its buckets
    fsdp = held("full", "fsdp2")
    assert [fsdp[n] for n in ("weights", "gradients", "optimizer", "reference")] == [1, 1, 2, 1]
    zero2, zero3 = held("full", "zero2"), held("full", "zero3")
    assert [zero2[n] for n in ("weights", "gradients", "optimizer")] == [2, 0.5, 3]
    assert [zero3[n] for n in ("weights", "gradients", "optimizer")] == [0.5, 0.5, 3]
    assert (zero2["reference"], zero3["reference"]) == (2, 0.5)
    offload = held("full", "offload")
    assert (offload["weights"], offload["optimizer"], offload["host"]) == (0, 0, 2 + 16 + 2)


def test_bytes_of_an_adapter() -> None:
    lora, four_bits = held("lora", "one"), held("qlora", "one")
    assert lora["weights"] == pytest.approx(4 * 1.01)
    assert held("lora", "one", dtype="bfloat16")["weights"] == pytest.approx(2 + 0.04)
    assert (lora["gradients"], lora["optimizer"], lora["reference"]) == (0.04, 0.08, 0)
    # 4 bits and 0.127 of constants; embeddings and norms in bf16.
    assert four_bits["weights"] == pytest.approx(0.9 * 4.12695 / 8 + 0.1 * 2 + 0.04, rel=1e-5)


def test_the_largest_sum_counts() -> None:
    """Gradients come as activations go; with several batches to a step they are there before."""
    setup = Setup(bf16=False, device="cpu", per_device_train_batch_size=2, max_length=10)
    kept = Rehearsed(5e6, 3e6, np.array([3e6, 2e6]), np.array([0.0, 900_000.0]))
    fixed = 4e6 + 8e6 + 4e6
    states = 2 * 2 * 5 * 50 * 4  # of 2 pairs' responses of 5 tokens
    loss = 2 * 20 * 1_000 * 4 + 2 * states + 50_000 * 4  # two tiles, states, the head's gradient
    backward = 2e6 + 900_000 * 4 + states + 50_000 * 4
    one = parts("full", "one", FULL, FULL, setup, kept)
    assert one.loss == loss
    assert one.total == fixed + backward
    several = dataclasses.replace(setup, gradient_accumulation_steps=2)
    two = parts("full", "one", FULL, FULL, several, kept)
    assert two.total == fixed + 4e6 + max(5e6 + states, 3e6 + loss, 3e6 + states + 200_000)


def test_sizes_are_those_of_the_layers() -> None:
    model = tiny.make_model()
    layers = model.model.layers
    found = memory.sizes(outline(model.config))
    assert found == memory.sizes(model)
    assert found.layer == sum(p.numel() for p in layers[0].parameters())
    assert found.root == 2 * 304 * 32 + 32
    assert found.linear == 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64)
    assert (found.largest, found.head_trained) == (32 * 64, 304 * 32)
    tied = tiny.make_model(tie_word_embeddings=True)
    assert memory.sizes(tied).root == 304 * 32 + 32
    adapter = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = memory.sizes(get_peft_model(tied, adapter))
    assert (adapted.head_trained, adapted.rows, adapted.hidden) == (0, 304, 32)
    assert adapted.trained == adapted.total - memory.sizes(outline(tied.config)).total


def remembered() -> Any:
    """What stands in for rehearsals: two lines, one for bf16 engines."""

    def rehearsing(_: Any, lengths: tuple[int, int, int], compute: str, **given: Any) -> Rehearsal:
        a_pair = (2 if compute == "engine" else 4) * (1e6 if given["checkpointing"] else 1e8)
        few, many = (
            Rehearsed(n * a_pair, n * a_pair, np.array([n * a_pair]), np.zeros(1))
            for n in (lengths[0], 16 * lengths[0])
        )
        return Rehearsal(lengths[0], few, many)

    return rehearsing


@pytest.mark.slow
def test_what_fits_and_what_is_recommended() -> None:
    config = tiny.make_config(vocab_size=50_000, hidden_size=1024, intermediate_size=4096)
    setup, known = Setup(gpus=8), remembered()
    found = plans(config, setup, 6 * GIB, rehearsing=known)
    assert len(found) == 2 * (5 + 5 + 1)
    assert {plan.engine for plan in found if plan.method == "qlora"} == {"ddp"}
    for plan in found:
        fits = plan.parts.total <= 6 * GIB
        assert fits == (plan.most_pairs >= setup.per_device_train_batch_size)
    # At the largest number that fits it fits, and at the next it does not.
    for plan in found[:1]:
        for more, right in ((0, True), (1, False)):
            asked = Setup(gpus=8, per_device_train_batch_size=plan.most_pairs + more)
            again = plans(config, asked, 6 * GIB, plan.checkpointing, known)
            [same] = [p for p in again if (p.method, p.engine) == (plan.method, plan.engine)]
            assert (same.parts.total <= 6 * GIB) is right
    best = simplest(found, 6 * GIB)
    assert best["qlora"].engine == "ddp"
    assert not best["qlora"].checkpointing
    assert simplest(found, 0) == {}
    alone = plans(config, Setup(), 6 * GIB, rehearsing=known)
    assert {plan.engine for plan in alone} == {"one", "offload"}
    # Sharding over more GPUs never takes more of each.
    by_gpus = [plans(config, Setup(gpus=n), GIB, True, known) for n in (8, 16)]
    for eight, sixteen in zip(*by_gpus, strict=True):
        assert sixteen.parts.total <= eight.parts.total


def test_a_simpler_engine_goes_before_the_faster_pass() -> None:
    def plan(engine: Engine, checkpointing: bool, total: float) -> Plan:
        taken = parts("full", "one", FULL, FULL, Setup(), NONE)._replace(total=total)
        return Plan("full", engine, checkpointing, taken, 1)

    found = [plan("zero3", False, 1), plan("ddp", True, 2), plan("ddp", False, 3)]
    assert simplest(found, 3)["full"] is found[2]
    assert simplest(found, 2)["full"] is found[1]
    assert simplest(found, 1)["full"] is found[0]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"gpus": 0}, "gpus"),
        ({"max_length": 1}, "max_prompt_length"),
        ({"max_length": 8, "max_prompt_length": 8}, "max_prompt_length"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_setups_that_cannot_be(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(FieldError) as refused:
        Setup(**fields)
    assert refused.value.field == name


def test_known_sizes() -> None:
    """Llama 3 8B and 70B and Qwen2.5 7B have the parameters that their makers say."""
    from benchmarks.plans import MODELS

    wanted = {"Llama-3-8B": 8_030_261_248, "Qwen2.5-7B": 7_615_616_512}
    wanted["Llama-3-70B"] = 70_553_706_496
    found = {name: outline(AutoConfig.for_model(**MODELS[name])) for name in MODELS}
    assert {name: memory.sizes(model).total for name, model in found.items()} == wanted
