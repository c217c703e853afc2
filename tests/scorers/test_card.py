"""A card is read as it was written, or refused with what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from riskalign.data.identity import text_hash
from riskalign.errors import InputError
from riskalign.evaluation.intervals import Interval
from riskalign.scorers import read_card, training_data
from riskalign.scorers.scorer import make_card, write_card
from tests.scorers import toy


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in toy.judged(6)))
    card = make_card(
        training_data("cost", path), family="embedding", encoder="e", encoder_sha256="s", seed=4,
        settings={"ridge": 0.1}, metrics={"auc": Interval(0.9, 0.8, 0.95)}, judged_on="there",
    )  # fmt: skip
    write_card(card, tmp_path)
    assert read_card(tmp_path) == card
    return tmp_path


def test_what_a_card_holds(folder: Path) -> None:
    card = read_card(folder)
    assert card.prompt_hashes == tuple(sorted(text_hash(r["prompt"]) for r in toy.judged(6)))
    assert len(card.data_sha256) == 64
    assert card.rows == 6
    assert set(card.versions) == {"riskalign", "torch", "transformers", "numpy", "scipy"}
    content = json.loads((folder / "scorer.json").read_text())
    assert content["prompts"] == 6
    assert content["metrics"]["auc"] == {"value": 0.9, "low": 0.8, "high": 0.95}
    assert "prompt_hashes" not in content


def test_a_card_of_before_has_no_verdicts(folder: Path) -> None:
    path = folder / "scorer.json"
    content = json.loads(path.read_text())
    del content["verdicts"]
    path.write_text(json.dumps(content))
    assert read_card(folder).verdicts == {}
    path.write_text(json.dumps(content | {"verdicts": {"safe_called_safe": 7}}))
    assert read_card(folder).verdicts == {"safe_called_safe": 7}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "'schema' is 2; this version reads 1"),
        ({"seed": ...}, "'seed': is missing"),
        ({"kind": "good"}, "'kind': 'good'"),
        ({"family": 3}, "'family': 3"),
        ({"prompts_sha256": "0"}, "not the training prompts' hashes"),
        ({"metrics": {"auc": 1}}, "'metrics'"),
        ({"metrics": [1]}, "'metrics'"),
    ],
)
def test_a_changed_card_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    path = folder / "scorer.json"
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))
    with pytest.raises(InputError, match=message):
        read_card(folder)


def test_no_card_and_no_json(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scorer here"):
        read_card(tmp_path / "empty")
    hashes = folder / "prompts.sha256"
    hashes.write_text(hashes.read_text()[65:])
    with pytest.raises(InputError, match=r"prompts\.sha256: not the training prompts' hashes"):
        read_card(folder)
    for text, message in (("{", "not valid JSON"), ("[]", "'schema' is None")):
        (folder / "scorer.json").write_text(text)
        with pytest.raises(InputError, match=message):
            read_card(folder)
