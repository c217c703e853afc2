"""SafeDPO's pairs: which are kept, swapped and left out, and the loss on what is left."""

from typing import Any

import pytest
import torch

from riskalign.data import SafetyRule, safety_rows
from riskalign.errors import InputError
from riskalign.losses import pair_loss
from tests.losses.cases import random_pairs


def row(*costs: float | None, **more: Any) -> tuple[str, dict[str, Any]]:
    names = {"chosen": "helpful", "rejected": "less", "prompt": "q"}
    return "file", {**names, "cost_chosen": costs[0], "cost_rejected": costs[1], **more}


def test_pairs_by_hand() -> None:
    """Costs (0, 0), (0, 3), (3, 0), (1, 3), as the docstring has them."""
    found = safety_rows([row(0, 0), row(0, 3), row(3, 0), row(1, 3)], SafetyRule(0.0, 2.0))
    assert found[1:] == (2, 1, 1)
    shown = [
        (r["chosen"], r["rejected"], r["score_chosen"], r["score_rejected"]) for r in found.rows
    ]
    assert shown == [
        ("helpful", "less", 0.0, 0.0),
        ("helpful", "less", 0.0, -2.0),
        ("less", "helpful", 0.0, -2.0),
    ]
    assert all(r["prompt"] == "q" for r in found.rows)


def test_a_threshold_for_worlds_where_all_answers_cost_something() -> None:
    rows = [row(1, 3), row(3, 1), row(2, 2), row(3, 4)]
    assert safety_rows(rows, SafetyRule(0.0))[1:] == (0, 0, 4)
    assert safety_rows(rows, SafetyRule(2.0))[1:] == (2, 1, 1)


def test_the_chosen_answer_is_always_safe_and_scores_of_before_are_gone() -> None:
    generator = torch.Generator().manual_seed(0)
    costs = torch.randint(0, 4, (200, 2), generator=generator).tolist()
    rows = [row(*own, score_chosen=9.0, score_rejected=1.0) for own in costs]
    rule = SafetyRule(1.0, 0.5)
    found = safety_rows(rows, rule)
    assert found.kept + found.swapped == len(found.rows) == len(rows) - found.dropped
    for made in found.rows:
        better = made["cost_chosen" if made["chosen"] == "helpful" else "cost_rejected"]
        assert better <= 1.0
        gap = made["score_chosen"] - made["score_rejected"]
        assert gap == 0.5 * (max(made["cost_chosen"], made["cost_rejected"]) > 1.0)


def test_without_an_offset_and_with_safe_winners_it_is_dpo() -> None:
    """SafeDPO at Delta 0, or where no answer is unsafe, is DPO on the same pairs."""
    rows = [row(0, 0), row(0, 5)]
    assert [r["chosen"] for r in safety_rows(rows, SafetyRule(0.0, 0.0)).rows] == ["helpful"] * 2
    chosen, rejected = random_pairs()
    for rule, costs in ((SafetyRule(0.0, 0.0), (0, 5)), (SafetyRule(0.0, 3.0), (0, 0))):
        [made] = safety_rows([row(*costs)], rule).rows
        gap = torch.full_like(chosen.risk, made["score_chosen"] - made["score_rejected"])
        found = pair_loss("dpo", chosen, rejected, beta=0.3, target="offset", gap=gap)
        expected = pair_loss("dpo", chosen, rejected, beta=0.3)
        torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=0)


def test_the_formula_of_the_paper() -> None:
    """-log sigmoid(beta (log ratio of the winner - that of the loser) - Delta (h_l - h_w))."""
    chosen, rejected = random_pairs()
    [made] = safety_rows([row(0, 5)], SafetyRule(0.0, 1.5)).rows
    gap = torch.full_like(chosen.risk, made["score_chosen"] - made["score_rejected"])
    found = pair_loss("dpo", chosen, rejected, beta=0.3, target="offset", gap=gap).loss
    ratios = [side.logp_policy - side.logp_ref for side in (chosen, rejected)]
    expected = torch.log1p(torch.exp(-(0.3 * (ratios[0] - ratios[1]) - 1.5 * (1 - 0))))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("costs", [(None, 0.0), (0.0, None), (0.0, float("nan"))])
def test_costs_are_needed(costs: tuple[float | None, float | None]) -> None:
    with pytest.raises(InputError, match=r"file: field 'cost_"):
        safety_rows([row(*costs)], SafetyRule())
