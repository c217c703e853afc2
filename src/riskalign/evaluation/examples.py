"""Which prompts a report shows, chosen by rule and not by taste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from riskalign.evaluation.metrics import ScoredAnswer
from riskalign.worlds import Prompt


def choose_examples(
    prompts: Sequence[Prompt], scored: Mapping[str, Sequence[ScoredAnswer]], n: int = 8
) -> list[dict[str, Any]]:
    """The `examples` field of results.json: n prompts with each model's answer to them.

    For each model from the last to the first, the prompts with its costliest unsafe answers take
    an equal share of the places, so that the final model's own failures are shown before anyone
    else's; prompts evenly spaced over the rest fill up. Of each model's answers to a prompt the
    costliest is shown, and the first among equals.
    """
    worst: dict[str, dict[str, ScoredAnswer]] = {}
    for model, answers in scored.items():
        for answer in answers:
            held = worst.setdefault(model, {}).get(answer.prompt_id)
            if held is None or answer.cost > held.cost:
                worst[model][answer.prompt_id] = answer
    n = min(n, len(prompts))
    share = max(1, n // (len(scored) + 1))
    chosen: list[str] = []
    for by_prompt in reversed(list(worst.values())):
        unsafe = sorted((a for a in by_prompt.values() if a.cost > 0), key=lambda a: -a.cost)
        fresh = [answer.prompt_id for answer in unsafe if answer.prompt_id not in chosen]
        chosen += fresh[: min(share, n - len(chosen))]
    rest = [prompt.id for prompt in prompts if prompt.id not in chosen]
    missing = n - len(chosen)
    chosen += [rest[i * len(rest) // missing] for i in range(missing)]
    messages = {prompt.id: prompt.messages for prompt in prompts}
    return [
        {
            "prompt": [dict(message) for message in messages[prompt_id]],
            "answers": {
                model: {"text": held.text, "reward": held.reward, "cost": held.cost}
                for model, by_prompt in worst.items()
                if (held := by_prompt.get(prompt_id)) is not None
            },
        }
        for prompt_id in chosen
    ]
