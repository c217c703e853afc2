"""`riskalign plan` prints sample sizes or least tails, and refuses bad input with exit code 2."""

import json
import sys
from pathlib import Path

import pytest

from riskalign.cli import main
from riskalign.evaluation import ideal_ratios, plan
from riskalign.files.atomic import write_json_lines
from tests import tiny


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["riskalign", "plan", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def test_one_line_and_the_whole_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--level", "0.99", "--width", "0.1") == 0
    shown = capsys.readouterr().out
    needed = plan(0.99, 0.1)
    assert f"{needed.to_rule_out:,}" in shown
    assert f"{needed.to_estimate:,}" in shown
    assert run(monkeypatch) == 0
    assert capsys.readouterr().out.count("0.95") >= 3


def test_refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--level", "1.5") == 2
    assert "tail level" in capsys.readouterr().err


def rows(tmp_path: Path) -> Path:
    file = tmp_path / "answers.jsonl"
    write_json_lines(
        file,
        [
            {"prompt_id": f"p{i}", "text": "…", "reward": (j + i % 2) / 8, "cost": 2.0**j}
            for i in range(20)
            for j in range(6)
        ],
    )
    return file


def test_what_could_go_of_the_tail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = rows(tmp_path)
    assert run(monkeypatch, "--answers", str(file)) == 0
    shown = capsys.readouterr().out
    answers = [json.loads(line) for line in file.read_text().splitlines()]
    columns = ([answer[name] for answer in answers] for name in ("prompt_id", "reward", "cost"))
    start, found = ideal_ratios(*columns)
    assert f"120 answers to 20 prompts: reward {start.reward:.3f}, cost 10.5" in shown
    assert "CVaR 0.95 32," in shown
    assert "…" not in shown  # nothing of the table is cut at the 80 columns of a pipe
    lines = [line.split() for line in shown.splitlines()]
    for row in found:
        [line] = [at for at in lines if at[:2] == [f"{row.reward:.3f}", f"{row.max_kl:g}"]]
        assert line[2:5] == [f"{row.mean.cvar:.3g}", f"{row.tail.cvar:.3g}", f"{row.ratio:.2f}"]
    assert run(monkeypatch, "--answers", str(file), "--safe_only") == 0
    assert "g is 0. Rewards are 0.9, 0.8" in capsys.readouterr().out
    assert run(monkeypatch, "--safe_only") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt_id": "a", "reward": 1}\n', "line 1: field 'cost' is None"),
        ('{"prompt_id": "a", "reward": 1, "cost": 2}\n{"reward": 1}', "line 2: no field"),
        ('{"prompt_id": "a", "reward": NaN, "cost": 2}', "line 1: field 'reward' is nan"),
        ("no", "line 1, column 1: not JSON"),
        ("", "at least one"),
    ],
)
def test_bad_answers(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    message: str,
) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(content, encoding="utf-8")
    assert run(monkeypatch, "--answers", str(file)) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert run(monkeypatch, "--answers", str(tmp_path / "none")) == 2
    assert run(monkeypatch, "--answers", str(file), "--rate", "0.1") == 2
    assert run(monkeypatch, "--answers", str(file), "--confidence", "0.9") == 2


def test_memory_of_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.make_config(num_hidden_layers=4).save_pretrained(tmp_path)
    file = str(tmp_path / "config.json")
    given = ("--gpus", "8", "--gpu-memory", "2.5", "--max_length", "64", "--gradient-checkpointing")
    assert run(monkeypatch, "--model", file, *given) == 0
    shown = capsys.readouterr().out
    assert "llama, 5.66e-05 billion parameters: GiB on each of 8 GPUs, 4 pairs at once" in shown
    assert "without checkpointing" not in shown
    assert "…" not in shown
    cells = [line.split() for line in shown.splitlines()[1:] if "," in line[:16]]
    rows = {first: others for first, *others in cells}
    assert list(rows)[:2] == ["full,ddp", "full,fsdp2"]
    assert len(rows["lora,zero3"]) == 9
    assert float(rows["lora,ddp"][-2]) < 2.5
    assert int(rows["lora,ddp"][-1]) > 4
    assert "qlora: DDP, gradient_checkpointing: true: 2." in shown
    assert run(monkeypatch, "--model", file, *given, "--gpu-memory", "1") == 0
    assert "full: nothing fits into 1 GiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpus", "8"), "--gpus needs --model"),
        (("--model", "none", "--level", "0.9"), "--level does not go with --model"),
        (("--model", "none"), "no configuration"),
        (("--model", "none", "--lora-r", "0"), "--lora_r"),
        (("--model", "none", "--gpu-memory", "-1"), "give a GPU's GiB"),
    ],
)
def test_refused_plans_of_memory(
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
