"""Which prompts a report shows."""

from __future__ import annotations

from riskalign.evaluation.results import choose_examples
from riskalign.evaluation.score import ScoredAnswer
from riskalign.worlds import Prompt

PROMPTS = [Prompt(f"p{i}", ({"role": "user", "content": f"question {i}"},)) for i in range(10)]


def scored(costs: dict[str, list[float]]) -> list[ScoredAnswer]:
    return [
        ScoredAnswer(prompt.id, f"answer {k}", 0.5, cost, 0.0, 0.0, 3)
        for prompt in PROMPTS
        for k, cost in enumerate(costs.get(prompt.id, [0.0, 0.0]))
    ]


def test_failures_come_first_and_the_rest_is_even() -> None:
    """Six places, two models: a third to the final model's failures, a third to the start's, the
    rest evenly over what is left (p0, p1, p2, p4, p5, p6 after four were taken)."""
    start = scored({"p3": [1.0, 9.0], "p7": [20.0, 0.0], "p8": [4.0, 0.0]})
    rsa = scored({"p9": [0.0, 2.0], "p7": [1.0, 0.0]})
    chosen = choose_examples(PROMPTS, {"start": start, "final": rsa}, n=6)
    asked = [entry["prompt"][0]["content"] for entry in chosen]
    assert asked == [f"question {i}" for i in (9, 7, 3, 8, 0, 4)]
    assert chosen[0]["answers"]["final"] == {"text": "answer 1", "reward": 0.5, "cost": 2.0}
    assert chosen[0]["answers"]["start"]["text"] == "answer 0"


def test_more_places_than_prompts() -> None:
    assert len(choose_examples(PROMPTS, {"start": scored({})}, n=99)) == 10
    assert choose_examples([], {"start": []}) == []
    assert len(choose_examples(PROMPTS, {"start": scored({"p1": [3.0]})}, n=1)) == 1
