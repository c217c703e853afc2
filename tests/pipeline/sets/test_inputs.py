"""Who may judge a model on evaluation sets, and what the page says of it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from riskalign.errors import InputError
from riskalign.evaluation.sets import load_prompt_set
from riskalign.pipeline.judged import note_prompts, prompts_of
from riskalign.pipeline.sets.inputs import independence
from riskalign.scorers import Scorer
from tests.scorers.test_independence import scorer

Say = Callable[..., list[str]]


@pytest.fixture
def say(tmp_path: Path) -> Say:
    (tmp_path / "asked.jsonl").write_text('{"prompt": "A"}\n{"prompt": "B"}\n')
    sets = {"prompts": load_prompt_set(str(tmp_path / "asked.jsonl"))}

    def make(judge: Scorer, with_: tuple[str, ...] = (), **models: str) -> list[str]:
        return independence({"cost": ("./cost", judge)}, models, sets, with_)

    return make


def model(folder: Path, prompts: str, start: str = "hub") -> str:
    folder.mkdir()
    note_prompts(folder, start, prompts=list(prompts))
    return str(folder)


def test_prompts_go_from_model_to_model(tmp_path: Path) -> None:
    one = model(tmp_path / "one", "ab")
    two = model(tmp_path / "two", "bc", start=one)
    assert prompts_of("hub") is None
    first, second = prompts_of(one), prompts_of(two)
    assert first is not None
    assert second is not None
    assert first < second
    assert len(second) == 3


def test_what_is_known_is_said(say: Say, tmp_path: Path) -> None:
    said = say(scorer("xy"), start="hub", rsa=model(tmp_path / "rsa", "cd"))
    assert said == [
        "No scorer learnt from a prompt that is asked, nor from one that rsa was trained on, "
        "as far as its folder tells.",
        "What start may have learnt from is not written in the model's folder, and was not held "
        "against the scorers' prompts.",
        "No scorer was named that took part in training (--trained_with).",
    ]
    assert independence({}, {"start": "hub"}, {}, ()) == []


def test_a_model_that_knows_a_prompt_is_named(say: Say, tmp_path: Path) -> None:
    said = say(scorer("xy"), start="hub", rsa=model(tmp_path / "rsa", "Bc"))
    known = (
        "Of the 2 prompts that are asked, 1 are among those that rsa's training could learn from."
    )
    assert said[0] == known
    assert "training could" not in say(scorer("xy"), sft=model(tmp_path / "sft", "c"))[0]
    sets = {"prompts": load_prompt_set(str(tmp_path / "asked.jsonl"))}
    assert independence({}, {"rsa": str(tmp_path / "rsa")}, sets, ()) == [known]


@pytest.mark.parametrize(
    ("learnt", "words"),
    [("bxy", "1 of the prompts that are asked"), ("cdx", "2 of the prompts that rsa was trained")],
)
def test_a_scorer_that_learnt_from_them_is_refused(
    say: Say, tmp_path: Path, learnt: str, words: str
) -> None:
    rsa = model(tmp_path / "rsa", "cd")
    with pytest.raises(InputError, match=rf"scorer_cost './cost': learnt from {words}"):
        say(scorer(learnt), rsa=rsa)


def test_scorers_that_trained_the_models_are_held_against_it(
    say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers = {"same": scorer("z"), "other": scorer("z", seed=1)}
    monkeypatch.setattr("riskalign.pipeline.sets.inputs.scorer_in", trainers.__getitem__)
    said = say(scorer("xy"), ("other",), start="hub")
    assert "in seed, and none of its 2" in said[0]
    assert not any("--trained_with" in each for each in said)
    with pytest.raises(InputError, match="same encoder, family and seed"):
        say(scorer("xy"), ("other", "same"), start="hub")
