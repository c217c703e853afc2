"""The causal family: training's own numbers, saved and loaded, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest

from riskalign.data.fields import Text
from riskalign.errors import InputError
from riskalign.models import save_model
from riskalign.scorers import (
    ScorerSettings,
    check_independent,
    load_scorer,
    train_causal_scorer,
)
from tests import tiny
from tests.safe_rlhf import toy
from tests.scorers.toy import judged

SETTINGS = ScorerSettings(
    learning_rate=1e-2, num_train_epochs=6, per_device_train_batch_size=8, max_length=64
)


@pytest.fixture
def model(tmp_path: Path) -> str:
    save_model(toy.make_model(), toy.make_tokenizer(), tmp_path / "model")
    return str(tmp_path / "model")


def _rows(n: int = 60, first: int = 0) -> list[dict[str, Any]]:
    """Risky answers are unsafe; the words of the tiny model are all there is."""
    others = ("good", "dull", "odd")
    rows = []
    for i in range(first, first + n):
        words = [others[i // 3**k % 3] for k in range(4)]
        row = {
            "prompt": f"{words[0]} {words[1]} {i}",
            "response_0": f"{words[2]} {words[3]} {words[1]}",
            "response_1": f"{words[2]} {words[3]} risky",
            "is_response_0_safe": True,
            "is_response_1_safe": False,
            "safer_response_id": 0,
            "better_response_id": 1,
        }
        rows.append(row)
    return rows


@pytest.mark.parametrize("kind", ["cost", "reward"])
def test_learnt_saved_and_loaded(kind: Any, model: str, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    scorer = train_causal_scorer(
        kind, _rows(), model=model, settings=SETTINGS, n_boot=20,
        update=lambda done, total, what: told.append((what, done, total)),
    )  # fmt: skip
    card = scorer.card
    assert scorer.kind == kind
    assert card.family == "causal"
    assert card.judged_on == "one prompt in 10, not trained on"
    assert card.metrics["pair_accuracy"].value == 1.0
    assert len(card.prompt_hashes) == 60, "what was kept for judging counts as seen"
    assert told[-1] == ("learn", 42, 42)  # 54 pairs, seven steps an epoch
    prompts: list[Text] = [
        "good dull",
        [{"role": "user", "content": "good dull"}],
        "odd odd",
        "good",
    ]
    answers: list[Text] = ["dull odd good", [{"role": "assistant", "content": "dull odd good"}]]
    answers += ["odd good risky", "odd"]
    scores = scorer.score(prompts, answers)
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert scores[2] > scores[0]
    if kind == "cost":
        assert scores[0] < 0 < scores[2]
    alone = [scorer.score([p], [a])[0] for p, a in zip(prompts, answers, strict=True)]
    assert scores == pytest.approx(alone, abs=1e-5)
    scorer.save(tmp_path / "scorer")
    again = load_scorer(tmp_path / "scorer")
    assert again.card == card
    assert again.score(prompts, answers) == pytest.approx(scores, abs=1e-6)
    with pytest.raises(InputError, match="0 prompts but 1 answers"):
        again.score([], ["odd"])


def test_halves_and_seeds_make_scorers_independent(model: str) -> None:
    few = ScorerSettings(num_train_epochs=1, max_length=None)
    a, b = (
        train_causal_scorer(
            "cost", _rows(), model=model, settings=few, half=half, seed=seed,
            eval_source=_rows(6, first=200), n_boot=5,
        )
        for half, seed in (("a", 0), ("b", 1))
    )  # fmt: skip
    assert "differs in seed" in check_independent(b, a)
    assert a.card.settings["max_length"] == 512
    assert a.card.judged_on == "data"


def test_a_model_without_a_chat_template_reads_text(tmp_path: Path) -> None:
    tokenizer = tiny.make_tokenizer(chat_template=None)
    save_model(tiny.make_model(), tokenizer, tmp_path / "plain")
    few = ScorerSettings(num_train_epochs=1, max_length=40)
    scorer = train_causal_scorer(
        "cost", judged(12), model=tmp_path / "plain", settings=few, n_boot=5
    )
    long = "the code is secret " * 20
    cut = scorer.score([long, "hello", [{"role": "user", "content": "hello"}]], [long, "no", "no"])
    assert cut[1] == pytest.approx(cut[2], abs=1e-6)


def test_single_completions_are_refused() -> None:
    rows = [
        {"prompt": f"p{i}", "completion": f"answer {i}", "label": bool(i % 2)} for i in range(20)
    ]
    with pytest.raises(InputError, match=r"single completions.*Give pairs"):
        train_causal_scorer("cost", rows, model="/no/such/model")
    for n in (6, 10):
        with pytest.raises(InputError, match=f"of {n} that is less than the 2 .*--eval_data"):
            train_causal_scorer("reward", judged(n), model="/no/such/model")
