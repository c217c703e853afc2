"""Models on evaluation sets: what is written, that it is right, and that it goes on."""

from __future__ import annotations

import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from riskalign.errors import InputError
from riskalign.evaluation.sets import read_sets
from riskalign.models import save_model
from riskalign.pipeline import SetsSettings, evaluate_sets
from riskalign.pipeline.sets.inputs import named_models
from tests import tiny


class Recorded:
    """A progress that remembers stages and how they ended."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, str]] = []
        self._stage = ""

    def stage(self, name: str, total: int | None = None) -> None:
        self._stage = name

    def update(self, n: int, note: str = "", total: int | None = None) -> None:
        assert total is None or n <= total

    def done(self, note: str = "") -> None:
        self.stages.append((self._stage, note))

    def made(self) -> set[str]:
        """Stages that had work to do."""
        return {stage for stage, note in self.stages if note != "done before"}


@pytest.fixture
def scorers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for `riskalign.scorers`: rewards length, charges digits; notes what it scored."""
    seen: list[str] = []

    class Stub:
        def __init__(self, kind: str) -> None:
            self.kind = kind
            self.card = types.SimpleNamespace(prompt_hashes=())

        def score(self, prompts: list[Any], answers: list[str]) -> list[float]:
            assert all(prompt[-1]["role"] == "user" for prompt in prompts)
            seen.append(self.kind)
            if self.kind == "reward":
                return [float(len(answer)) for answer in answers]
            return [sum(letter.isdigit() for letter in answer) - 0.5 for answer in answers]

    monkeypatch.setattr(
        "riskalign.scorers.load_scorer", lambda folder: Stub((Path(folder) / "kind").read_text())
    )
    return seen


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Two models, two scorers, and a set of each kind."""
    save_model(tiny.make_model(max_position_embeddings=1024), tiny.make_tokenizer(), tmp_path / "a")
    other = tiny.make_model(seed=1, max_position_embeddings=1024)
    save_model(other, tiny.make_tokenizer(), tmp_path / "b")
    for kind in ("reward", "cost"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "kind").write_text(kind)
    rows = [{"prompt": f"Order {i}?", "category": ["even", "odd"][i % 2]} for i in range(6)]
    (tmp_path / "prompts.json").write_text(json.dumps([*rows, rows[0]]))
    (tmp_path / "helpful.jsonl").write_text('{"prompt": "Hello?"}\n{"prompt": "When?"}\n')
    (tmp_path / "xstest.csv").write_text("prompt,type\nKill a job?,homonyms\nCode?,contrast_c\n")
    steps = [[{"role": "user", "content": "Open."}, {"role": "agent", "action": "open()"}]]
    records = [{"contents": steps, "label": i, "profile": str(i), "scenario": "s"} for i in (0, 1)]
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "r.json").write_text(json.dumps(records))
    return tmp_path


@pytest.fixture
def settings(here: Path) -> Callable[..., SetsSettings]:
    def make(**fields: Any) -> SetsSettings:
        made: dict[str, Any] = {
            "prompts": str(here / "prompts.json"),
            "output_dir": str(here / "out"),
            "answers_per_prompt": 2,
            "max_new_tokens": 6,
            "n_boot": 30,
        }
        return SetsSettings(**{**made, **fields})

    return make


def everything(here: Path) -> dict[str, str]:
    return {
        "helpful_prompts": str(here / "helpful.jsonl"),
        "over_refusal": str(here / "xstest.csv"),
        "r_judge": str(here / "records"),
        "scorer_reward": str(here / "reward"),
        "scorer_cost": str(here / "cost"),
    }


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_everything_then_again_then_more(
    here: Path, settings: Callable[..., SetsSettings], scorers: list[str]
) -> None:
    models = [f"start={here / 'a'}", f"rsa={here / 'b'}"]
    first, again, more = Recorded(), Recorded(), Recorded()
    results, html = evaluate_sets(models, settings(**everything(here)), progress=first)
    content = read_sets(results)
    assert html.read_text().startswith("<!DOCTYPE html>")

    answers = lines(here / "out" / "answers" / "rsa.jsonl")
    assert len(answers) == 12
    assert answers[0]["prompt"] == [{"role": "user", "content": "Order 0?"}]
    assert {a["category"] for a in answers} == {"even", "odd"}
    for answer in answers:
        assert answer["reward"] == len(answer["answer"])
        assert answer["cost"] == sum(c.isdigit() for c in answer["answer"]) - 0.5
        assert answer["kl"] > 0
    overall = content["models"]["rsa"]["overall"]
    assert overall["reward"]["value"] == pytest.approx(sum(a["reward"] for a in answers) / 12)
    unsafe = sum(a["cost"] > 0 for a in answers)
    assert overall["unsafe_rate"]["value"] == pytest.approx(unsafe / 12)
    assert overall["kl"]["value"] == pytest.approx(sum(a["kl"] for a in answers) / 12)
    start = content["models"]["start"]
    assert start["overall"]["kl"]["value"] == 0
    assert start["overall"]["cost_win_rate"]["value"] == 0.5
    assert content["sets"]["prompts"]["n"] == 6
    assert content["sets"]["prompts"]["duplicates"] == 1
    # Helpfulness is that of the helpful prompts, which were two with two answers each.
    helpful = lines(here / "out" / "helpful" / "rsa.jsonl")
    mean = sum(a["reward"] for a in helpful) / 4
    assert content["models"]["rsa"]["helpful"]["reward"]["value"] == pytest.approx(mean)
    assert start["r_judge"]["overall"]["n"] == 2
    assert start["over_refusal"]["safe"]["n_answers"] == 2
    cells = {row["model"]: row["cells"] for row in content["table"]["rows"]}
    assert all(cell is not None for cell in cells["rsa"])
    assert set(scorers) == {"reward", "cost"}

    before = (here / "out" / "answers" / "rsa.jsonl").read_bytes()
    scorers.clear()
    evaluate_sets(models, settings(**everything(here)), progress=again)
    assert again.made() == {"check", "report"}
    assert scorers == []
    assert (here / "out" / "answers" / "rsa.jsonl").read_bytes() == before

    # Another scorer scores the same answers; a third model is sampled alone.
    (here / "cost" / "weights").write_text("new")
    evaluate_sets([*models, f"third={here / 'a'}"], settings(**everything(here)), progress=more)
    sampled = {stage for stage in more.made() if " · answers-" in stage}
    assert sampled == {
        f"{kind} · answers-third" for kind in ("prompts", "helpful_prompts", "over_refusal")
    }
    assert "prompts · scores-start" in more.made()
    # The same weights and seed give the same answers, and no drift.
    assert [a["answer"] for a in lines(here / "out" / "answers" / "third.jsonl")] == [
        a["answer"] for a in lines(here / "out" / "answers" / "start.jsonl")
    ]


def test_without_scorers_there_are_answers_and_dashes(
    here: Path, settings: Callable[..., SetsSettings]
) -> None:
    results, _ = evaluate_sets([f"start={here / 'a'}"], settings())
    content = read_sets(results)
    answers = lines(here / "out" / "answers" / "start.jsonl")
    assert all(a["reward"] is None and a["cost"] is None for a in answers)
    shown = {c["metric"] for c, cell in zip(
        content["table"]["columns"], content["table"]["rows"][0]["cells"], strict=True
    ) if cell is not None}  # fmt: skip
    assert shown == {"kl", "srr"}
    assert any("No --scorer_cost" in note for note in content["notes"])


def test_an_interruption_keeps_what_is_finished(
    here: Path, settings: Callable[..., SetsSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [f"start={here / 'a'}", f"rsa={here / 'b'}"]

    class Stopping(Recorded):
        def stage(self, name: str, total: int | None = None) -> None:
            super().stage(name, total)
            if name == "drift-rsa":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_sets(models, settings(), progress=Stopping())
    after = Recorded()
    evaluate_sets(models, settings(), progress=after)
    assert after.made() == {"check", "drift-rsa", "prompts · scores-rsa", "report"}


def test_another_vocabulary_has_no_drift(here: Path, settings: Callable[..., SetsSettings]) -> None:
    odd = tiny.make_model(vocab_size=310, max_position_embeddings=1024)
    save_model(odd, tiny.make_tokenizer(), here / "odd")
    results, _ = evaluate_sets([f"start={here / 'a'}", f"odd={here / 'odd'}"], settings())
    content = read_sets(results)
    assert "kl" not in content["models"]["odd"]["overall"]
    assert any("another vocabulary" in note for note in content["notes"])


def test_few_distances(here: Path, settings: Callable[..., SetsSettings]) -> None:
    models = [f"start={here / 'a'}", f"rsa={here / 'b'}"]
    evaluate_sets(models, settings(distance_prompts=2))
    found = [a["kl"] for a in lines(here / "out" / "answers" / "rsa.jsonl")]
    assert [kl is None for kl in found] == [False] * 4 + [True] * 8


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompts": "nowhere.json"}, "nowhere.json: no such file"),
        ({"baseline": "other"}, "no model is named 'other'"),
        ({"scorer_cost": "nowhere"}, "scorer_cost 'nowhere': no such folder"),
        ({"scorer_cost": "reward"}, "is a reward model. Give a cost model's folder"),
        ({"r_judge": "records", "max_length": 20}, "Raise max_length"),
        ({"max_new_tokens": 2000}, "positions of the model"),
        ({"over_refusal": "prompts.json"}, "row 1: field 'label' is None"),
    ],
)
def test_bad_input_is_found_before_any_work(
    here: Path,
    settings: Callable[..., SetsSettings],
    scorers: list[str],
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.chdir(here)
    with pytest.raises(InputError) as error:
        evaluate_sets([f"start={here / 'a'}"], settings(**fields))
    assert words in str(error.value)
    assert not (here / "out" / "finished.json").exists()
    assert scorers == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompts": None}, "no set is named"),
        ({"answers_per_prompt": 0}, "answers_per_prompt: 0"),
        ({"temperature": -1.0}, "temperature: -1.0"),
        ({"top_p": 0.0}, "top_p: 0.0"),
        ({"confidence": 1.0}, "confidence: 1.0"),
        ({"distance_prompts": -1}, "distance_prompts: -1"),
        ({"max_length": 0}, "max_length: 0"),
        ({"risk": "cvar:2"}, "cvar"),
    ],
)
def test_bad_settings(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        SetsSettings(**{"prompts": "a.json", **fields})
    assert words in str(error.value)


def test_names_of_models() -> None:
    found = named_models(["start=./x=y", "org/name", "smollm2-135m:hub"])
    assert found == {
        "start": "./x=y", "name": "org/name", "smollm2-135m-hub": "smollm2-135m:hub",
    }  # fmt: skip
    for bad, words in (
        ([], "no model is named"),
        (["a=x", "A=y"], "named 'A' already"),
        (["a/b=x"], "cannot name a file"),
        (["..=x"], "cannot name a file"),
        (["a="], "the folder is missing"),
    ):
        with pytest.raises(InputError, match=words):
            named_models(bad)


@pytest.mark.parametrize("scores", [[1.0], [float("nan")] * 12])
def test_a_broken_scorer_is_told(
    here: Path,
    settings: Callable[..., SetsSettings],
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
) -> None:
    scorer = types.SimpleNamespace(
        kind="cost",
        score=lambda prompts, answers: scores,
        card=types.SimpleNamespace(prompt_hashes=()),
    )
    monkeypatch.setattr("riskalign.scorers.load_scorer", lambda folder: scorer)
    with pytest.raises(InputError, match="scores to 12 answers"):
        evaluate_sets([f"start={here / 'a'}"], settings(scorer_cost=str(here / "cost")))
    assert not (here / "out" / "answers" / "start.jsonl").exists()
