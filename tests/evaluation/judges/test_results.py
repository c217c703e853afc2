"""What verdicts make of comparisons and grades, and how they are counted."""

from __future__ import annotations

import numpy as np
import pytest

from riskalign.evaluation.judges import Item, Turn, Verdict
from riskalign.evaluation.judges.results import (
    judged,
    judged_win_rate,
    mean_score,
    outcome_of,
    trials,
    win_table,
)

A, B, TIE = (Verdict("read", value) for value in ("A", "B", "tie"))
UNPARSED, REFUSED, TOO_LONG = Verdict("unparsed"), Verdict("refused"), Verdict("too_long")


@pytest.mark.parametrize(
    ("forward", "backward", "outcome"),
    [
        (A, B, "win"),
        (B, A, "loss"),
        (TIE, TIE, "tie"),
        (A, A, "inconsistent"),
        (B, B, "inconsistent"),
        (A, TIE, "inconsistent"),
        (TIE, A, "inconsistent"),
        (A, UNPARSED, "unparsed"),
        (REFUSED, A, "refused"),
        (UNPARSED, REFUSED, "refused"),
        (TOO_LONG, A, "too_long"),
        (UNPARSED, TOO_LONG, "too_long"),
        (None, A, "not_asked"),
        (A, None, "not_asked"),
    ],
)
def test_outcomes(forward: Verdict | None, backward: Verdict | None, outcome: str) -> None:
    assert outcome_of(forward, backward) == outcome


def item(number: int, *own: tuple[str, str]) -> Item:
    """A prompt with these answers of `a` and `b`."""
    first, second = zip(*own, strict=True)
    return Item(f"p{number}", (Turn("user", f"{number}?"),), {"a": first, "b": second})


def test_counts_by_hand() -> None:
    items = [item(i, (f"a{i}", f"b{i}")) for i in range(9)] + [item(9, ("same", "same"))]
    made = trials(items, [("a", "b")], "helpfulness")
    asked = [question for one in made for question in one.questions]
    assert len(asked) == len(set(asked)) == 18
    told = [
        (A, B), (A, B), (B, A), (TIE, TIE), (A, A), (B, B), (A, TIE), (REFUSED, A), (UNPARSED, A),
    ]  # fmt: skip
    verdicts = dict(zip(asked, [one for both in told for one in both], strict=True))
    found = judged_win_rate("a", "b", judged(made, verdicts))
    # Two wins, one loss, five halves (tie, three inconsistent, same) of eight judged.
    assert found.win_rate is not None
    assert found.win_rate.value == pytest.approx((2 + 5 / 2) / 8)
    assert found.win_rate.low < 9 / 16 < found.win_rate.high
    assert (found.n_prompts, found.comparisons) == (8, 10)
    assert (found.wins, found.ties, found.losses, found.inconsistent) == (2, 1, 1, 3)
    assert (found.same, found.unparsed, found.refused, found.not_asked) == (1, 1, 1, 0)
    assert (found.picked_first, found.picked_second) == (1, 1)
    wins = win_table(["b", "a"], judged(made, verdicts))
    assert wins.shape == (8, 2, 2)
    np.testing.assert_allclose(wins.sum(axis=0), [[0, 3.5], [4.5, 0]])


def test_the_two_orders_are_two_questions() -> None:
    [made] = trials([item(0, ("one", "two"))], [("a", "b")], "harmlessness")
    shown = [question[1].content for question in made.questions]
    assert [text.index("one") < text.index("two") for text in shown] == [True, False]


def test_several_answers_are_one_prompt() -> None:
    items = [item(i, ("x", "y"), ("z", "w")) for i in range(12)]
    made = trials(items, [("a", "b")], "helpfulness")
    verdicts = {}
    for i, one in enumerate(made):
        forward, backward = one.questions
        verdicts[forward], verdicts[backward] = (A, B) if i < 12 else (B, A)
    both = judged_win_rate("a", "b", judged(made, verdicts))
    assert (both.n_prompts, both.comparisons, both.wins, both.losses) == (12, 24, 12, 12)
    wins = win_table(["a", "b"], judged(made, verdicts))
    np.testing.assert_allclose(wins, [[[0, 2], [0, 0]]] * 6 + [[[0, 0], [2, 0]]] * 6)
    # Half of the prompts won: as wide as 12 comparisons are, not 24.
    alone = judged_win_rate("a", "b", judged(made[::2], verdicts))
    assert both.win_rate is not None
    assert alone.win_rate is not None
    assert both.win_rate.low == pytest.approx(alone.win_rate.low)


def test_nothing_judged_is_no_rate() -> None:
    made = trials([item(0, ("x", "y"))], [("a", "b")], "helpfulness")
    found = judged_win_rate("a", "b", judged(made, {}))
    assert found.win_rate is None
    assert found.not_asked == 1


def test_grades_by_hand() -> None:
    items = [
        Item(f"p{i}", (Turn("user", f"{i}?"),), {"a": (f"a{i}", f"A{i}"), "b": ("b", "b")})
        for i in range(3)
    ]
    made = trials(items, [("a",), ("b",)], "helpfulness")
    assert len(made) == 12
    told = [Verdict("read", 10), Verdict("read", 4), Verdict("refused"), Verdict("unparsed")]
    own = [grade.questions[0] for grade in made if grade.systems == ("a",)]
    found = mean_score("a", judged(made, dict(zip(own, told, strict=False))))
    assert found.score is not None
    assert found.score.value == 7  # (10 + 4) / 2
    assert 1 <= found.score.low < 7 < found.score.high <= 10
    assert found.histogram == (0, 0, 0, 1, 0, 0, 0, 0, 0, 1)
    assert (found.n_prompts, found.answers) == (1, 6)
    assert (found.unparsed, found.refused, found.not_asked) == (1, 1, 2)
    nothing = mean_score("b", judged(made, {}))
    assert nothing.score is None
    assert nothing.not_asked == 6


def test_the_scale_is_that_of_the_scores() -> None:
    items = [Item(f"p{i}", (Turn("user", f"{i}?"),), {"a": ("x",)}) for i in range(40)]
    made = trials(items, [("a",)], "harmlessness")
    scores = [2, 5] * 20
    verdicts = {
        grade.questions[0]: Verdict("read", score)
        for grade, score in zip(made, scores, strict=True)
    }
    found = mean_score("a", judged(made, verdicts)).score
    assert found is not None
    assert found.value == pytest.approx(3.5)
    # Standard error 1.5 / sqrt(39), and Student's 2.02 of them to either side.
    assert found.high - found.value == pytest.approx(2.02 * 1.5 / 39**0.5, rel=0.1)
