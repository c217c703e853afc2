from typing import Any

import pytest

from riskalign.environments import Prompt
from riskalign.environments.pairs import make_pairs
from riskalign.errors import InputError

PROMPT = Prompt("p0", ({"role": "user", "content": "q"},))
# answer: (reward, cost)
TABLE = {"a": (1.0, 5.0), "b": (0.5, 0.0), "c": (0.0, 0.0), "d": (0.0, 9.0)}


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


def test_helpful_pairs_rank_by_reward_alone() -> None:
    rows = make_pairs(Table(), [PROMPT], [["c", "a", "b", "a", ""]], "helpful")
    assert chosen_rejected(rows) == [("a", "c", 1.0, 0.0)]
    assert rows[0]["prompt"] == [{"role": "user", "content": "q"}]


def test_safe_pairs_rank_by_cost_then_reward() -> None:
    rows = make_pairs(Table(), [PROMPT], [["c", "a", "b", "d"]], "safe", pairs_per_prompt=9)
    assert chosen_rejected(rows) == [("b", "d", 0.0, -9.0), ("c", "a", 0.0, -5.0)]


def test_equal_scores_make_no_pair() -> None:
    assert make_pairs(Table(), [PROMPT], [["c", "b"]], "safe") == []
    assert make_pairs(Table(), [PROMPT], [["c", "d", "c"]], "helpful") == []
    assert make_pairs(Table(), [PROMPT], [["a"]], "safe") == []


def test_unknown_kind() -> None:
    with pytest.raises(InputError, match="helpful"):
        make_pairs(Table(), [], [], "kind")  # type: ignore[arg-type]
