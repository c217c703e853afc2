"""R-Judge's records: read liberally, asked about, cut from the oldest side, measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from riskalign.errors import InputError
from riskalign.evaluation.sets import (
    EvaluationSet,
    RiskScores,
    identify_risks,
    load_risk_set,
    risk_questions,
    score_risk_set,
)
from riskalign.evaluation.sets.r_judge import question_token_ids
from tests import tiny

ROUNDS: list[Any] = [
    [
        {"role": "user", "content": "Open the door for my guest."},
        {"role": "agent", "thought": "I look for the code.", "action": "read(note)"},
        {"role": "environment", "content": "The code is 4711."},
    ],
    [{"role": "agent", "thought": None, "action": {"tool": "open", "code": 4711}}],
]


def record(**fields: Any) -> dict[str, Any]:
    made = {
        "id": 1,
        "scenario": "door",
        "profile": "It opens doors.",
        "goal": "",
        "contents": ROUNDS,
        "label": 1,
        "risk_description": "It opened a door.",
    }
    return {**made, **fields}


def write(path: Path, *rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    return path


def test_a_folder_of_files(tmp_path: Path) -> None:
    write(tmp_path / "Home" / "door.json", record(), record(label="0", profile="Another."))
    last = record(profile="A third.", contents=ROUNDS[0], label="unsafe", scenario=None)
    write(tmp_path / "Shop" / "till.json", record(), last)
    (tmp_path / "README.md").write_text("no record")
    found = load_risk_set(tmp_path)
    assert [r.category for r in found.items] == ["door", "door", "Shop"]
    assert [r.label for r in found.items] == [True, False, True]
    assert found.duplicates == 1
    assert found.items[0].transcript == (
        "user: Open the door for my guest.\n"
        "agent, thought: I look for the code.\n"
        "agent, action: read(note)\n"
        "environment: The code is 4711.\n"
        'agent, action: {"tool": "open", "code": 4711}'
    )
    assert (
        load_risk_set(write(tmp_path / "one.json", record(scenario=None))).items[0].category
        == "one"
    )


def test_the_question_does_not_tell_the_answer(tmp_path: Path) -> None:
    tokenizer = tiny.make_tokenizer()
    risks = load_risk_set(write(tmp_path / "a.json", record(risk_description="It is UNSAFE 99.")))
    ids, cut = question_token_ids(tokenizer, risks.items[0], None)
    text = str(tokenizer.decode(ids))
    assert not cut
    assert "99" not in text
    assert "It opens doors." in text
    assert "environment: The code is 4711." in text
    assert text.endswith("<|im_start|>assistant\n")


def test_long_records_lose_their_oldest_part(tmp_path: Path) -> None:
    tokenizer = tiny.make_tokenizer()
    steps = [{"role": "user", "content": f"step {i}"} for i in range(200)]
    risks = load_risk_set(write(tmp_path / "a.json", record(contents=steps), record()))
    model = tiny.make_model(max_position_embeddings=900)
    (ids, cut), (_, other_cut) = risk_questions(model, tokenizer, risks)
    assert (cut, other_cut) == (True, False)
    text = str(tokenizer.decode(ids))
    assert "left out" in text
    assert "step 199\n--- end of record" in text
    assert "step 0\n" not in text
    assert "Read how an agent" in text  # what is asked stays
    # As much stays as there is room for: one more line would not fit.
    longest = max(len(tokenizer(w)["input_ids"]) for w in ("Yes", " Yes", "No", " No"))
    assert 900 - longest - 8 < len(ids) <= 900 - longest
    scores = score_risk_set(model, tokenizer, risks)
    assert scores.cut == 1
    assert set(scores.log_odds) == {r.id for r in risks.items}


def test_a_question_that_cannot_fit_is_refused(tmp_path: Path) -> None:
    risks = load_risk_set(write(tmp_path / "a.json", record()))
    with pytest.raises(InputError, match="Raise max_length"):
        risk_questions(tiny.make_model(), tiny.make_tokenizer(), risks, max_length=50)
    with pytest.raises(InputError, match="chat template"):
        risk_questions(tiny.make_model(), tiny.make_tokenizer(chat_template=None), risks)


def test_batched_scores_are_those_one_by_one(tmp_path: Path) -> None:
    rows = [record(profile=f"It opens door {i}." * (i + 1)) for i in range(4)]
    risks = load_risk_set(write(tmp_path / "a.json", *rows))
    model = tiny.make_model(max_position_embeddings=2048)
    tokenizer = tiny.make_tokenizer()
    together = score_risk_set(model, tokenizer, risks).log_odds
    for each in risks.items:
        alone = score_risk_set(model, tokenizer, EvaluationSet("one", (each,))).log_odds
        assert together[each.id] == pytest.approx(alone[each.id], abs=2e-5)


def test_metrics_by_scenario(tmp_path: Path) -> None:
    rows = [
        record(scenario=scenario, label=label, profile=f"{scenario} {label}")
        for scenario in ("door", "till")
        for label in (0, 1)
    ]
    risks = load_risk_set(write(tmp_path / "a.json", *rows))
    odds = dict(zip([r.id for r in risks.items], [-1.0, 1.0, 2.0, 1.0], strict=True))
    overall, scenarios = identify_risks(risks, RiskScores(odds, 0))
    assert overall.recall is not None
    assert overall.specificity is not None
    assert (overall.recall.value, overall.specificity.value) == (1, 0.5)
    assert list(scenarios) == ["door", "till"]
    till = scenarios["till"].auc
    assert till is not None
    assert till.value == 0
    stricter, _ = identify_risks(risks, RiskScores(odds, 0), threshold=1.5)
    assert stricter.recall is not None
    assert stricter.recall.value == 0


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (3, "row 1: expected an object"),
        (record(label=2), "row 1: field 'label' is 2. Write 1"),
        (record(label=None), "row 1: field 'label' is None"),
        (record(contents=None), "field 'contents' is missing"),
        (record(contents=[]), "field 'contents' is empty"),
        (record(contents=[["text"]]), "field 'contents', step 1: has no 'role'"),
        (record(contents=[[{"role": "user"}]]), "field 'contents' holds no text"),
        (record(profile=["a"]), "field 'profile' is list"),
        (record(profile="\ud800"), "row 1: field 'profile', character 1"),
        (record(contents=[[{"role": "user", "content": "\ud800"}]]), "field 'contents', char"),
    ],
)
def test_bad_records(tmp_path: Path, row: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        load_risk_set(write(tmp_path / "a.json", row))
    assert words in str(error.value)


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \.json"):
        load_risk_set(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        load_risk_set(tmp_path / "a.json")
    with pytest.raises(InputError, match="holds no row"):
        load_risk_set(write(tmp_path / "a.json"))
    with pytest.raises(InputError, match="row 2: field 'label': the same is"):
        load_risk_set(write(tmp_path / "b.json", record(), record(label=0)))
