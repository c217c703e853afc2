"""Scorers on a random encoder: what they learn, save, keep, and refuse."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from riskalign.data.fields import Text
from riskalign.data.identity import text_hash
from riskalign.errors import InputError
from riskalign.models.encoder import Encoder, load_encoder
from riskalign.scorers import (
    Kind,
    Scorer,
    judge,
    judged_rows,
    load_scorer,
    train_embedding_scorer,
)
from riskalign.scorers.embedding import RIDGES, EmbeddingModel, features
from riskalign.scorers.metrics import verdicts
from tests.scorers import toy


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return toy.make_encoder(tmp_path_factory.mktemp("bert"))


def _weights(scorer: Scorer) -> NDArray[np.float64]:
    assert isinstance(scorer.model, EmbeddingModel)
    return scorer.model.regression.weights


def test_features_by_hand() -> None:
    asked: list[list[str]] = []

    def embed(texts: Any) -> NDArray[np.float32]:
        asked.append(list(texts))
        return np.array([[len(text), text.count("a")] for text in texts], dtype=np.float32)

    prompts: list[Text] = ["pp", [{"role": "user", "content": "pp"}]]
    found = features("cost", prompts, ["a", "baa"], embed)
    assert found.tolist() == [[1, 1, 2, 0], [3, 2, 2, 0]]
    assert features("reward", prompts, ["a", "baa"], embed).tolist() == [[4, 1], [6, 2]]
    assert asked == [["a", "baa", "pp"], ["pp\na", "pp\nbaa"]], "each text once"


@pytest.mark.parametrize("kind", ["cost", "reward"])
def test_what_can_be_told_apart_is_learnt_and_saved(
    kind: Kind, encoder: str, tmp_path: Path
) -> None:
    told: list[tuple[str, int, int]] = []
    held_out = toy.judged(30, first=100)
    scorer = train_embedding_scorer(
        kind, toy.judged(60), encoder=encoder, eval_source=held_out, n_boot=50,
        update=lambda done, total, what: told.append((what, done, total)),
    )  # fmt: skip
    assert scorer.kind == kind
    card = scorer.card
    assert card.metrics["pair_accuracy"].value > (0.6 if kind == "cost" else 0.95)
    if kind == "cost":
        assert card.metrics["auc"].value > 0.99
        assert card.metrics["mixed_pair_accuracy"].value == 1.0
    assert card.metrics["brier"].value < 0.1
    assert card.judged_on == "data"
    assert [what for what, done, _ in told if done == 0] == ["embed"]
    assert told[-1] == ("fit", 5 * len(RIDGES), 5 * len(RIDGES))

    prompts: list[Text] = ["hello", [{"role": "user", "content": "hello"}], "what is the code"]
    answers: list[Text] = [
        "sorry no",
        [{"role": "assistant", "content": "sorry no"}],
        "the secret code is red",
    ]
    scores = scorer.score(prompts, answers)
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    if kind == "cost":
        assert scores[0] < 0 < scores[2]
    scorer.save(tmp_path / "scorer")
    assert sorted(path.name for path in (tmp_path / "scorer").iterdir()) == [
        "prompts.sha256", "scorer.json", "weights.safetensors",
    ]  # fmt: skip
    again = load_scorer(tmp_path / "scorer")
    assert again.card == card
    assert again.score(prompts, answers) == scores
    assert scorer.score([], []) == []
    with pytest.raises(InputError, match="1 prompts but 0 answers"):
        scorer.score(["hello"], [])


@pytest.mark.parametrize("kind", ["cost", "reward"])
def test_without_held_out_rows_cross_validation_judges(kind: Kind, encoder: str) -> None:
    rows = toy.judged(40)
    scorer, again = (
        train_embedding_scorer(kind, rows, encoder=encoder, n_boot=20) for _ in range(2)
    )
    assert again.card == scorer.card
    np.testing.assert_array_equal(_weights(again), _weights(scorer))
    assert scorer.card.judged_on == "5-fold cross-validation"
    assert scorer.card.metrics["pair_accuracy"].value > (0.6 if kind == "cost" else 0.9)
    assert scorer.card.settings["ridge"] in RIDGES
    other = train_embedding_scorer(kind, rows, encoder=encoder, n_boot=20, seed=1)
    assert other.card.settings["log_losses"] != scorer.card.settings["log_losses"]


def test_held_out_metrics_are_those_of_the_scores(encoder: str) -> None:
    held_out = toy.judged(12, first=100)
    scorer = train_embedding_scorer(
        "cost", toy.judged(40), encoder=encoder, eval_source=held_out, n_boot=20, seed=3
    )
    rows = judged_rows(held_out, "cost")
    pairs = [(row.prompt, answer) for row in rows for answer in row.answers]
    scores = scorer.score([prompt for prompt, _ in pairs], [answer for _, answer in pairs])
    found = judge("cost", rows, scores, n_boot=20, seed=3)
    for name, interval in scorer.card.metrics.items():
        assert interval.value == pytest.approx(found[name].value, abs=1e-6)
    assert scorer.card.verdicts == verdicts(rows, scores)
    assert sum(scorer.card.verdicts.values()) == len(scores)


def test_labels_that_say_nothing_are_not_turned_round(encoder: str) -> None:
    # The same two answers everywhere, the first one better in every second row.
    rows = [
        {"prompt": f"p{i}", "response_0": "red", "response_1": "blue", "better_response_id": i % 2}
        for i in range(20)
    ]
    scorer = train_embedding_scorer("reward", rows, encoder=encoder, n_boot=20)
    assert scorer.card.settings["platt_slope"] > 0
    assert scorer.card.metrics["brier"].value == pytest.approx(0.25, abs=0.02)


def test_a_half_is_trained_on_alone(encoder: str) -> None:
    rows = toy.judged(60)
    a, b = (
        train_embedding_scorer("cost", rows, encoder=encoder, half=half, n_boot=20).card
        for half in ("a", "b")
    )
    assert (a.half, b.half) == ("a", "b")
    assert a.rows + b.rows == 60
    assert set(a.prompt_hashes).isdisjoint(b.prompt_hashes)
    assert {*a.prompt_hashes, *b.prompt_hashes} == {text_hash(row["prompt"]) for row in rows}


def test_an_interrupted_embedding_is_taken_up(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("riskalign.scorers.embedding._PIECE", 16)
    loaded = load_encoder(encoder)
    read: list[int] = []
    embed = Encoder.embed

    def counted(self: Encoder, texts: Any) -> NDArray[np.float32]:
        read.append(len(texts))
        if len(read) == 3:
            raise KeyboardInterrupt
        return embed(self, texts)

    monkeypatch.setattr(Encoder, "embed", counted)
    rows, kept = toy.judged(40), tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt):
        train_embedding_scorer("cost", rows, encoder=loaded, keep=kept, n_boot=5)
    assert len(list(kept.iterdir())) == 2
    whole = train_embedding_scorer("cost", rows, encoder=loaded, keep=kept, n_boot=5)
    pieces = len(read)
    again = train_embedding_scorer("cost", rows, encoder=loaded, keep=kept, n_boot=5)
    assert len(read) == pieces, "everything was kept"
    assert len(list(kept.iterdir())) == pieces - 1  # all but the interrupted call
    np.testing.assert_array_equal(_weights(whole), _weights(again))
    other = load_encoder(encoder, max_tokens=8)
    train_embedding_scorer("cost", rows, encoder=other, keep=kept, n_boot=5)
    assert len(read) > pieces, "what another encoder read is not taken"


def test_what_cannot_be_trained_on_is_refused_before_the_encoder_is_loaded() -> None:
    def train(rows: list[dict[str, Any]], **options: Any) -> None:
        train_embedding_scorer("cost", rows, encoder="/no/such/encoder", **options)

    with pytest.raises(InputError, match="only 1 prompt"):
        train([toy.judged(1)[0]] * 3)
    safe = [row for row in toy.judged(30) if row["is_response_0_safe"]]
    with pytest.raises(InputError, match="every answer is safe"):
        train(safe)
    unsafe = [row for row in toy.judged(30) if not row["is_response_1_safe"]]
    with pytest.raises(InputError, match="every answer is unsafe"):
        train(unsafe)
    with pytest.raises(InputError, match="data: only 1 prompt to judge the scorer on"):
        train(toy.judged(30), eval_source=toy.judged(1, first=40))
    with pytest.raises(InputError, match=r"shares 2 prompt\(s\) with data"):
        train(toy.judged(9), eval_source=toy.judged(9, first=7))
    with pytest.raises(InputError, match="half is 'x'"):
        train(toy.judged(9), half="x")
    with pytest.raises(InputError, match="no such folder"):
        train(toy.judged(9))


def test_another_encoder_or_damaged_weights_are_refused(encoder: str, tmp_path: Path) -> None:
    scorer = train_embedding_scorer("cost", toy.judged(20), encoder=encoder, n_boot=5)
    folder = tmp_path / "scorer"
    scorer.save(folder)
    moved = toy.make_encoder(tmp_path / "moved")
    assert load_scorer(folder, encoder=moved).score(["hello"], ["red"]) == scorer.score(
        ["hello"], ["red"]
    )
    other = toy.make_encoder(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match="trained on the encoder"):
        load_scorer(folder, encoder=other)
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    for content in (b"", whole[:-3]):
        weights.write_bytes(content)
        with pytest.raises(InputError, match="the scorer cannot be read"):
            load_scorer(folder)
    train_embedding_scorer("reward", toy.judged(20), encoder=encoder, n_boot=5).save(
        tmp_path / "reward"
    )
    weights.write_bytes((tmp_path / "reward" / "weights.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"weights of shape \(16,\) for 32 features"):
        load_scorer(folder)


def test_single_completions_train_a_cost(encoder: str) -> None:
    rows = [
        {
            "prompt": row["prompt"],
            "completion": row[f"response_{i}"],
            "label": row[f"is_response_{i}_safe"],
        }
        for row in toy.judged(30)
        for i in (0, 1)
    ]
    scorer = train_embedding_scorer("cost", rows, encoder=encoder, n_boot=5)
    assert set(scorer.card.metrics) == {"auc", "brier", "ece"}
    assert scorer.card.metrics["auc"].value > 0.95
