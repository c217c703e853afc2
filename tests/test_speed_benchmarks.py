"""The speed benchmarks at sizes that take no time: they run, and say what they are to say."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import breakdown, growth, peaks, preparation, sampling, step, token_stats

STEP: dict[str, Any] = {
    "shape": "tiny",
    "device": "cpu",
    "pairs": 2,
    "prompt": 4,
    "response": 5,
    "steps": 1,
    "lora": False,
    "checkpointing": False,
    "precision": "fp32",
}
STATS: dict[str, Any] = {
    "tokens": 2 * token_stats.PAIR,
    "vocab": 300,
    "hidden": 8,
    "risk": "cvar:0.95",
    "precision": "fp32",
    "device": "cpu",
}


@pytest.mark.parametrize("lora", [False, True])
def test_a_step_is_measured(lora: bool) -> None:
    found = step.measure("rsa", argparse.Namespace(**STEP | {"lora": lora}))
    assert min(found["seconds"], found["tokens_per_second"]) > 0


def test_needed_products_by_hand() -> None:
    """One layer of width 4 with one head: 4·4·4 + 3·4·8 weights; vocabulary 10."""
    step.SHAPES["hand"] = (4, 1, 1, 1, 8, 10, True)
    try:
        o = argparse.Namespace(**STEP | {"shape": "hand", "pairs": 1, "prompt": 2, "response": 2})
        # Packed: 2 + 3 + 3 tokens; forward of both models and twice as much backward.
        body, attention, head = 8 * 160 * 4, 8 * 8 * 4 * 4, 6 * 40 * 4
        assert step.needed_flops(o) == 2 * (body + attention + head)
        o.lora = True
        assert step.needed_flops(o) < 2 * (body + attention + head)
    finally:
        del step.SHAPES["hand"]


def test_ratios_pair_rounds_by_hand() -> None:
    def row(name: str, seconds: list[float], megabytes: float) -> dict[str, Any]:
        own = {"precision": "bf16", "variant": name, "peak": 0.7}
        return own | {"all_seconds": seconds, "megabytes": megabytes}

    rows = [row("trl", [10.0, 30.0, 12.0], 100.0), row("rsa", [5.0, 6.0, 4.0], 40.0)]
    found = {ratio["name"]: ratio for ratio in step.ratios([*rows, row("dpo", [5.0] * 3, 40.0)])}
    # 2, 5 and 3 times as fast.
    speed = found["RSA over TRL's DPO, tokens/s, bf16"]
    assert (speed["value"], speed["holds"]) == (3.0, True)
    assert found["RSA over TRL's DPO, memory, bf16"]["value"] == 0.4
    assert found["RSA over own DPO, time, bf16"]["value"] == 1.0
    assert found["share of matmul peak, bf16"]["holds"]


def test_a_step_is_taken_apart() -> None:
    found = breakdown.measure("rsa", argparse.Namespace(**STEP))
    assert min(found["products"], found["attention"], found["statistics"]) > 0
    assert found["compiled layers"] == 0


def test_kinds_of_operators() -> None:
    names = ("aten::addmm", "aten::copy_", "aten::mul", "riskalign::gradient")
    assert [breakdown.kind_of(name) for name in names] == [
        "products",
        "moving",
        breakdown.REST,
        "statistics",
    ]


def test_bounds_by_hand() -> None:
    """12 s over a floor of 3, products of 4, and 4 + 1 + 1 with attention and statistics."""
    trl = {"precision": "fp32", "variant": "trl", "seconds": 12.0, "floor": 3.0}
    own = dict.fromkeys(breakdown.KINDS, 0.0)
    own |= {"products": 4.0, "attention": 1.0, "statistics": 1.0, "floor": 3.0}
    rows = [trl, {"precision": "fp32", "variant": "rsa_compiled", "seconds": 8.0, **own}]
    found = breakdown.ratios(rows)
    assert [(ratio["value"], ratio["holds"]) for ratio in found] == [
        (4.0, True),
        (3.0, True),
        (2.0, False),
    ]
    assert breakdown.ratios(rows[1:]) == []


@pytest.mark.parametrize("variant", ["grouped", "chunked", "frozen", "dense", "sorting"])
def test_token_statistics_are_measured(variant: str) -> None:
    found = token_stats.measure(variant, argparse.Namespace(**STATS))
    assert found["seconds"] > 0


def test_variants_compute_the_same_gradients() -> None:
    """The peers' work must be the same work: dense CVaR by sorting, and ours."""
    o = argparse.Namespace(**STATS)
    grads = []
    for variant in ("grouped", "chunked", "sorting"):
        given = token_stats.inputs(o, variant)
        given["hidden"].grad = None
        token_stats.work(variant, o, given)(o.tokens)
        grads.append(given["hidden"].grad)
    assert float((grads[0] - grads[1]).abs().max()) < 1e-5
    assert float((grads[0] - grads[2]).abs().max()) < 1e-5


@pytest.mark.parametrize("variant", ["ours", "generate"])
def test_sampling_is_measured(variant: str) -> None:
    o = argparse.Namespace(
        shape="tiny", device="cpu", prompts=2, answers=2, words=6, new=3, batch=4
    )
    found = sampling.measure(variant, o)
    assert min(found["seconds"], found["tokens_per_second"]) > 0


def test_growth_knows_a_line_from_a_parabola(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_all(_o: Any, variants: list[str], tokens: int, vocab: int) -> Any:
        power = 1 if variants == ["grouped"] else 2
        figures = {"seconds": float(tokens * vocab) ** power, "cpu_seconds": 1.0, "megabytes": 3.0}
        return {variant: [figures] for variant in variants}

    monkeypatch.setattr(growth, "run_all", run_all)
    out = tmp_path / "growth.json"
    monkeypatch.setattr(sys, "argv", ["growth", "--json", str(out)])
    growth.main()
    ratios = {ratio["name"]: ratio for ratio in json.loads(out.read_text())["ratios"]}
    first, second = token_stats.VARIANTS["grouped"], token_stats.VARIANTS["chunked"]
    assert ratios[f"{first}: slope of time over tokens"]["holds"]
    assert ratios[f"{first}: slope of memory over tokens"]["value"] == pytest.approx(0.0)
    assert ratios[f"{first}: slope of memory over tokens"]["holds"]
    assert ratios[f"{second}: slope of time over vocabulary"]["value"] == pytest.approx(2.0)
    assert not ratios[f"{second}: slope of time over vocabulary"]["holds"]
    assert "slope" in capsys.readouterr().out


def test_the_machine_is_described() -> None:
    described = peaks.machine()
    assert described["versions"]["torch"]
    assert peaks.matmul_rate("fp32") > 0


def test_committed_figures_are_complete() -> None:
    for path in (Path(__file__).parents[1] / "benchmarks" / "results").glob("*.json"):
        content = json.loads(path.read_text())
        if path.stem in (
            "token_stats",
            "step",
            "breakdown",
            "growth",
            "sampling",
            "trl_losses",
        ):
            assert content["machine"]["device"], path
            assert content["rows"], path
            assert {"name", "value", "bar", "holds"} == set(content["ratios"][0]), path


def test_a_failing_process_says_why(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys; print('first'); print('{\"seconds\": 2.0}')")
    assert peaks.measured(str(script), "any", []) == {"seconds": 2.0}
    script.write_text("raise SystemExit('no such peer')")
    with pytest.raises(SystemExit, match=r"trl failed:\nno such peer\n+The peers are in"):
        peaks.measured(str(script), "trl", [])


def test_preparation_is_measured(tmp_path: Path) -> None:
    preparation.write_pairs(tmp_path / "pairs.jsonl", 5)
    o = argparse.Namespace(file=str(tmp_path / "pairs.jsonl"), rows=5, num_proc=None)
    assert preparation.measure("riskalign", o)["seconds"] > 0
    rows = [
        {"rows": n, "num_proc": 1, "variant": variant, "own_megabytes": n / 2**20}
        | {"seconds": n * factor, "processor_seconds": n * factor / 2}
        for n in (100, 300)
        for variant, factor in (("trl", 2.0), ("riskalign", 1.0), ("again", 0.001))
    ]
    found = {each["name"]: (each["value"], each["holds"]) for each in preparation.ratios(rows)}
    assert found["time over TRL's, 300 rows, 1 process"] == (0.5, True)
    assert found["second run, seconds, 300 rows"] == (0.3, True)
    assert found["bytes of its own a row, riskalign"] == (1.0, True)
