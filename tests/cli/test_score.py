"""`riskalign score train` and `apply`, as they are typed."""

import json
import sys
from pathlib import Path

import pytest

from riskalign.cli import main
from riskalign.models import save_model
from riskalign.scorers import check_independent, load_scorer
from tests import tiny
from tests.scorers import toy


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["riskalign", "score", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy.make_encoder(tmp_path / "bert")
    lines = [json.dumps(row) + "\n" for row in toy.judged(60)]
    (tmp_path / "judged.jsonl").write_text("".join(lines[:50]))
    (tmp_path / "other.jsonl").write_text("".join(lines[50:]))
    answers = [{"prompt": row["prompt"], "answer": row["response_0"]} for row in toy.judged(5, 80)]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    monkeypatch.chdir(tmp_path)
    return tmp_path


TRAIN = ("train", "--kind", "cost", "--data", "judged.jsonl", "--encoder", "bert")


def test_two_halves_then_apply(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for half, seed in (("a", "0"), ("b", "1")):
        more = ("--half", half, "--seed", seed, "--out", f"cost_{half}")
        assert run(monkeypatch, *TRAIN, *more) == 0
    shown = capsys.readouterr().out
    for words in ("Embed the texts", "Cross-validate", "judged on 5-fold", "AUC", "cost_b"):
        assert words in shown
    assert "differs in seed" in check_independent(load_scorer("cost_b"), load_scorer("cost_a"))

    apply = ("apply", "--scorer", "cost_a", "--data", "answers.jsonl", "--out", "scored.jsonl")
    assert run(monkeypatch, *apply) == 0
    assert "5 answers scored" in capsys.readouterr().out
    rows = [json.loads(line) for line in Path("scored.jsonl").read_text().splitlines()]
    scores = load_scorer("cost_a").score(
        [row["prompt"] for row in rows], [row["answer"] for row in rows]
    )
    assert [row["cost"] for row in rows] == scores
    assert run(monkeypatch, *apply) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(monkeypatch, *apply, "--overwrite") == 0
    assert sorted(path.name for path in here.iterdir()) == [
        "answers.jsonl", "bert", "cost_a", "cost_b", "judged.jsonl", "other.jsonl", "scored.jsonl",
    ]  # fmt: skip


def test_held_out_data_and_the_causal_family(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *TRAIN, "--eval_data", "other.jsonl", "--out", "cost") == 0
    assert "judged on other.jsonl" in capsys.readouterr().out
    save_model(tiny.make_model(), tiny.make_tokenizer(), here / "model")
    assert run(
        monkeypatch, "train", "--kind", "reward", "--data", "judged.jsonl", "--family", "causal",
        "--model", "model", "--out", "reward",
    ) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert "Train the scorer" in shown
    assert "Reward scorer" in shown
    assert load_scorer("reward").card.family == "causal"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--kind", "good"), "--kind is 'good'"),
        (("--family", "large"), "--family is 'large'"),
        (("--family", "causal"), "--encoder is of the embedding family"),
        (("--model", "m"), "--model is of the causal family"),
        (("--half", "c"), "half is 'c'"),
        (("--seed", "-1"), "--seed is -1"),
        (("--data", "none.jsonl"), "none.jsonl: no such file"),
        (("--encoder", "none"), "no such folder"),
        (("--eval_data", "judged.jsonl"), "shares 50 prompt(s)"),
        (("--out", "answers.jsonl"), "out: 'answers.jsonl' exists. Give another name, or --over"),
        (("--out", "bert"), "--encoder 'bert': lies where 'bert' is to be written"),
    ],
)
def test_refusals(
    more: tuple[str, str],
    message: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(here.rglob("*"))
    assert run(monkeypatch, *TRAIN, "--out", "new", *more) == 2
    assert message in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_help_has_examples(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("train", "apply"):
        assert run(monkeypatch, command, "--help") == 0
        assert f"riskalign score {command} --" in " ".join(capsys.readouterr().out.split())
    assert run(monkeypatch, "apply", "--scorer", ".", "--data", "d", "--out", "o.jsonl") == 2
    assert "no scorer here" in capsys.readouterr().err
