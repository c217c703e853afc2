"""Rows from scored answers: who is paired with whom, and which stay as anchors."""

from typing import Any

from riskalign.worlds import Prompt
from riskalign.worlds.pairs import (
    Score,
    by_cost,
    by_reward,
    group_rows,
    pair_rows,
    score_answers,
)

PROMPT = Prompt("p0", ({"role": "user", "content": "q"},))
# answer: (reward, cost)
TABLE = {"a": (1.0, 5.0), "b": (0.5, 0.0), "c": (0.0, 0.0), "d": (0.0, 9.0), "": (0.0, 0.0)}


class Table:
    name = "table"

    def prompts(self, split: Any, n: int, seed: int) -> list[Prompt]:
        return [PROMPT] * n

    def reward(self, prompt: Prompt, answer: str) -> float:
        return TABLE[answer][0]

    def cost(self, prompt: Prompt, answer: str) -> float:
        return TABLE[answer][1]


def chosen_rejected(rows: list[dict[str, Any]]) -> list[tuple[str, str, float, float]]:
    return [
        (
            row["chosen"][0]["content"],
            row["rejected"][0]["content"],
            row["score_chosen"],
            row["score_rejected"],
        )
        for row in rows
    ]


def pairs(answers: list[list[str]], score: Score, **options: Any) -> list[dict[str, Any]]:
    prompts = [PROMPT] * len(answers)
    return pair_rows(prompts, score_answers(Table(), prompts, answers), score, **options).rows


def test_helpful_pairs_rank_by_reward_alone() -> None:
    rows = pairs([["c", "a", "b", "a", ""]], by_reward)
    assert chosen_rejected(rows) == [("a", "c", 1.0, 0.0)]
    assert rows[0]["prompt"] == [{"role": "user", "content": "q"}]


def test_safe_pairs_rank_by_cost_then_reward() -> None:
    rows = pairs([["c", "a", "b", "d"]], by_cost, pairs_per_prompt=9)
    assert chosen_rejected(rows) == [("b", "d", 0.0, -9.0), ("c", "a", 0.0, -5.0)]


def test_equal_scores_make_no_pair() -> None:
    assert pairs([["c", "b"]], by_cost) == []
    assert pairs([["c", "d", "c"]], by_reward) == []
    assert pairs([["a"]], by_cost) == []


def test_anchors_make_up_at_most_their_share() -> None:
    answers = [["a", "d"]] * 6 + [["b", "c"]] * 10
    scored = score_answers(Table(), [PROMPT] * 16, answers)
    for share, kept in ((0.0, 0), (0.25, 2), (0.5, 6), (0.9, 10), (1.0, 10)):
        found = pair_rows([PROMPT] * 16, scored, by_cost, anchors=share, seed=3)
        assert (len(found.rows), found.anchors, found.alike) == (6 + kept, kept, 10 - kept)
        gaps = [row["score_chosen"] - row["score_rejected"] for row in found.rows]
        assert sorted(gaps) == [0.0] * kept + [4.0] * 6
    # Among equals the more helpful answer stands first.
    assert chosen_rejected(found.rows)[-1] == ("b", "c", 0.0, 0.0)


def test_groups_keep_every_answer_but_empty_ones() -> None:
    answers = [["a", "", "d", "a"], ["b", "c"], ["c", "c"]]
    scored = score_answers(Table(), [PROMPT] * 3, answers)
    found = group_rows([PROMPT] * 3, scored, by_cost, anchors=1.0)
    assert [row["scores"] for row in found.rows] == [[-5.0, -9.0, -5.0], [0.0, 0.0]]
    assert [m[0]["content"] for m in found.rows[0]["completions"]] == ["a", "d", "a"]
    assert (found.anchors, found.alike, found.empty) == (1, 1, 1)
    assert len(group_rows([PROMPT] * 3, scored, by_cost, anchors=0.0).rows) == 1


def test_anchors_alone_teach_nothing() -> None:
    scored = score_answers(Table(), [PROMPT], [["b", "c"]])
    for rows in (pair_rows, group_rows):
        assert rows([PROMPT], scored, by_cost, anchors=1.0).rows == []
