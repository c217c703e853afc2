"""Mean scores by hand."""

import pytest

from riskalign.evaluation.judges import Item, Message, Verdict
from riskalign.evaluation.judges.absolute import graded, grades, mean_score


def test_counts_by_hand() -> None:
    items = [
        Item(f"p{i}", (Message("user", f"{i}?"),), {"a": (f"a{i}", f"A{i}"), "b": ("b", "b")})
        for i in range(3)
    ]
    made = grades(items, ["a", "b"], "helpfulness")
    assert len(made) == 12
    told = [Verdict("read", 10), Verdict("read", 4), Verdict("refused"), Verdict("unparsed")]
    own = [grade.question for grade in made if grade.system == "a"]
    found = mean_score("a", graded(made, dict(zip(own, told, strict=False))))
    assert found.score is not None
    assert found.score.value == 7  # (10 + 4) / 2
    assert 1 <= found.score.low < 7 < found.score.high <= 10
    assert found.histogram == (0, 0, 0, 1, 0, 0, 0, 0, 0, 1)
    assert (found.n_prompts, found.answers) == (1, 6)
    assert (found.unparsed, found.refused, found.not_asked) == (1, 1, 2)
    nothing = mean_score("b", graded(made, {}))
    assert nothing.score is None
    assert nothing.not_asked == 6


def test_the_scale_is_that_of_the_scores() -> None:
    items = [Item(f"p{i}", (Message("user", f"{i}?"),), {"a": ("x",)}) for i in range(40)]
    made = grades(items, ["a"], "harmlessness")
    scores = [2, 5] * 20
    verdicts = {
        grade.question: Verdict("read", score) for grade, score in zip(made, scores, strict=True)
    }
    found = mean_score("a", graded(made, verdicts)).score
    assert found is not None
    assert found.value == pytest.approx(3.5)
    # Standard error 1.5 / sqrt(39), and Student's 2.02 of them to either side.
    assert found.high - found.value == pytest.approx(2.02 * 1.5 / 39**0.5, rel=0.1)
