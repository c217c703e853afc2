"""SafeDPO's pairs in a job: of sampled answers, of a step's file, of judged answers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset

from riskalign.data import Preferences, SafetyRule, load_pairs, safety_rows
from riskalign.data.sources import source_rows
from riskalign.errors import InputError
from riskalign.pipeline.settings import StepConfig
from riskalign.worlds import Prompt
from riskalign.worlds.pairs import Rows, Scored, by_reward, pair_rows


def rule_of(step: StepConfig) -> SafetyRule | None:
    """The rule that a step's pairs are made by; None where it has none."""
    if step.safe_cost is None:
        return None
    return SafetyRule(step.safe_cost, step.safety_margin)


def sampled_safe_pairs(
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[Scored]],
    rule: SafetyRule,
    source: str,
    *,
    pairs_per_prompt: int = 1,
) -> tuple[Rows, dict[str, int]]:
    """Pairs by reward after the rule, and how many were kept, swapped and dropped.

    Raises:
        InputError: the rule leaves none.
    """
    found = [
        pair_rows([prompt], [own], by_reward, pairs_per_prompt=pairs_per_prompt)
        for prompt, own in zip(prompts, answers, strict=True)
    ]
    rows: list[tuple[str, dict[str, Any]]] = []
    for made, own in zip(found, answers, strict=True):
        cost = {answer.text: answer.cost for answer in own}
        for row in made.rows:
            of = {f"cost_{side}": cost[row[side][0]["content"]] for side in ("chosen", "rejected")}
            rows.append((source, row | of))
    kept, counts = _by_rule(rows, rule, source)
    alike, empty = (sum(getattr(made, name) for made in found) for name in ("alike", "empty"))
    return Rows(kept, 0, alike, empty), counts


def given_safe_pairs(
    step: StepConfig, preferences: Preferences | None, rule: SafetyRule
) -> tuple[Dataset, dict[str, int]]:
    """Given helpful pairs after the rule, and how many were kept, swapped and dropped.

    They are of the step's file, or of the job's judged answers.

    Raises:
        InputError: a row without costs, or the rule leaves none.
    """
    if step.data is not None:
        rows, source = source_rows(step.data, "train", step.data), step.data
    else:
        assert preferences is not None
        source = preferences.source
        rows = ((f"{source}, pair {i}", row) for i, row in enumerate(preferences.helpful, 1))
    kept, counts = _by_rule(rows, rule, source)
    return load_pairs(kept, name_for_errors="helpful.data"), counts


def _by_rule(
    rows: Iterable[tuple[str, Mapping[str, Any]]], rule: SafetyRule, source: str
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    found = safety_rows(rows, rule)
    if found.dropped and not found.rows:
        raise InputError(
            f"{source}: helpful.safe_cost {rule.threshold:g} leaves no pair: each of the "
            f"{found.dropped} is of two answers that cost more. Raise it, or sample more answers."
        )
    return found.rows, {f"safety_{name}": getattr(found, name) for name in found._fields[1:]}
