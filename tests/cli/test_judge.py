"""`riskalign judge` as a stranger types it, against a stub on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from riskalign.cli import main
from riskalign.models import save_model
from riskalign.pipeline import load_config
from riskalign.pipeline.ledger import resolve
from tests import tiny
from tests.evaluation.judges.conftest import Serve, serve  # noqa: F401 - a fixture
from tests.evaluation.judges.stub import Does, Stub, prefers_longer, verdict, write_answers
from tests.pipeline.conftest import SPEC, Letters


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["riskalign", "judge", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the answers of two systems; `new` is longer on three prompts of four."""
    write_answers(tmp_path / "new.jsonl", {f"q{i}": ["x" * n] for i, n in enumerate([9, 9, 9, 1])})
    write_answers(tmp_path / "old.jsonl", {f"q{i}": ["y" * 5] for i in range(4)})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flags(stub: Stub) -> list[str]:
    two = ["--answers", "new.jsonl", "--against", "old.jsonl", "--output_dir", "out"]
    return [*two, "--base_url", stub.base_url, "--judge_model", "m"]


def test_a_table_and_the_second_time_no_call(
    files: Path,
    serve: Serve,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stub = serve(prefers_longer)
    priced = [*flags(stub), "--price_in", "1000"]
    assert run(monkeypatch, *priced, "--dry_run") == 0
    shown = capsys.readouterr().out
    assert "calls              8" in shown
    assert "never more than" in shown
    assert not (files / "out").exists()
    assert stub.calls == []
    assert run(monkeypatch, *priced) == 0
    shown = capsys.readouterr().out
    for words in ("Judge helpfulness", "new against old", "0.750 (", "1000 by definition", "0.8"):
        assert words in shown
    assert len(stub.calls) == 8
    assert run(monkeypatch, *priced) == 0
    assert "0.750 (" in capsys.readouterr().out
    assert len(stub.calls) == 8
    written = json.loads((files / "out" / "judge.json").read_text())
    assert written["command"].startswith("riskalign judge --answers new.jsonl")
    assert run(monkeypatch, *priced, "--dry_run") == 0
    assert "8, 8 of them answered before" in capsys.readouterr().out


def test_names_grades_and_the_limit(
    files: Path,
    serve: Serve,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    stub = serve(lambda *_: verdict("A"))
    named = ["--answers", "one=new.jsonl", "--answers", "two=old.jsonl", *flags(stub)[4:]]
    limit = ["--price_out", "1e6", "--max_cost", "1100"]  # one question may take 1024
    assert run(monkeypatch, *named, "--absolute", *limit) == 1
    shown = capsys.readouterr().out
    assert "none judged" in shown  # a verdict is no grade
    assert "stopped at max_cost" in shown
    hosted = ["--max_tokens_field", "max_completion_tokens", "--no_temperature"]
    assert run(monkeypatch, *named, "--criterion", "harmlessness", *hosted) == 0
    assert stub.calls[-1].keys() == {"model", "messages", "max_completion_tokens"}
    shown = capsys.readouterr().out
    assert "two against one" in shown
    assert "4 / 0" in shown


@pytest.mark.parametrize("more", [(), ("--absolute",)])
def test_what_the_judge_cannot_read_is_shown(
    files: Path,
    serve: Serve,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert run(monkeypatch, *flags(serve(lambda *_: Does(413))), *more) == 0
    shown = capsys.readouterr().out
    assert "none judged" in shown
    assert "too long" in shown


def test_a_runs_answers_and_its_prompts(
    tmp_path: Path,
    serve: Serve,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The run's folder tells the very prompts that its models were asked."""
    save_model(tiny.make_model(), tiny.make_tokenizer(), tmp_path / "start")
    generation = {"max_new_tokens": 6, "batch_size": 16}
    step = {"max_steps": 1, "per_device_train_batch_size": 2}
    recipe: dict[str, Any] = {
        "model": str(tmp_path / "start"),
        "output_dir": str(tmp_path / "run"),
        "world": SPEC,
        "helpful": step,
        "safe": step,
        "sampling": {"prompts": 4, "answers_per_prompt": 4, **generation},
        "evaluation": {"prompts": 3, "answers_per_prompt": 2, "n_boot": 20, **generation},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(sys, "argv", ["riskalign", "align", "-c", str(path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    asked: list[str] = []

    def noted(body: dict[str, Any], number: int) -> Does:
        asked.append(body["messages"][1]["content"])
        return prefers_longer(body)

    stub = serve(noted)
    own = [f"{name}={tmp_path}/run/evaluation/{name}.jsonl" for name in ("final", "start")]
    given = ["--answers", own[0], "--against", own[1], *flags(stub)[6:]]
    given += ["--output_dir", str(tmp_path / "out")]
    assert run(monkeypatch, *given) == 2
    assert "--prompts" in capsys.readouterr().err
    assert run(monkeypatch, *given, "--prompts", str(tmp_path / "run")) == 0
    found = json.loads((tmp_path / "out" / "judge.json").read_text())
    assert found["n_prompts"] == 3
    assert found["pairs"][0]["comparisons"] == 6
    # The world's evaluation half asks for orders of June.
    assert all("My order of June" in text for text in asked)
    ids = {json.loads(line)["prompt_id"] for line in open_lines(tmp_path / "out/verdicts.jsonl")}
    seed = json.loads((tmp_path / "run" / "manifest.json").read_text())["seeds"]["evaluate"]
    assert ids == {prompt.id for prompt in Letters().prompts("eval", 3, seed)}
    assert resolve(load_config(tmp_path / "run" / "config.yaml"))["world"] == SPEC


def open_lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--answers", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--answers", "new=old.jsonl"], "two systems are named 'new'"),
        (["--answers", "a b=old.jsonl"], "is no name for a system"),
        (["--answers", "hub/data"], "give a file ending in"),
        (["--criterion", "wit"], "criterion: 'wit'"),
        (["--max_cost", "1"], "max_cost: needs price_in"),
        (["--api_key_env", "sk-secret-tulip"], "api_key_env is no name"),
        (["--api_key_env", "RISKALIGN_NO_SUCH_KEY"], "not set or empty"),
        (["--base_url", "nonsense"], "base_url is no address"),
        (["--output_dir", "new.jsonl"], "is not a folder"),
        (["--seed", "-1"], "seed: -1"),
        (["--prompts", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
    ],
)
def test_refusals_come_before_any_call(
    files: Path,
    serve: Serve,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    words: str,
) -> None:
    stub = serve(prefers_longer)
    assert run(monkeypatch, *flags(stub), *more) == 2
    told = capsys.readouterr().err
    assert words in told
    assert "tulip" not in told
    assert "Traceback" not in told
    assert stub.calls == []
    assert not (files / "out").exists()


def test_an_endpoint_that_refuses_or_fails(
    files: Path,
    serve: Serve,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *flags(serve(lambda *_: Does(404)))) == 2
    assert "Check base_url" in capsys.readouterr().err
    assert run(monkeypatch, *flags(serve(lambda *_: Does(500))), "--max_retries", "0") == 1
    assert "the same command goes on" in capsys.readouterr().err
    assert not (files / "out" / "judge.json").exists()
