"""Evaluation sets: prompts by category, over-refusal, risk identification, and their tables."""

from riskalign.evaluation.sets.measures import (
    SetAnswer,
    answer_metrics,
    category_rows,
    clustered_rate,
    over_refusal,
    read_answers,
    risk_metrics,
    win_rate,
)
from riskalign.evaluation.sets.prompts import PromptSet, SetPrompt, load_prompt_set
from riskalign.evaluation.sets.r_judge import (
    RiskScores,
    RiskSet,
    identify_risks,
    load_risk_set,
    risk_questions,
    score_risk_set,
)
from riskalign.evaluation.sets.refusal import refusal
from riskalign.evaluation.sets.report import model_table, print_table, read_sets, write_sets
from riskalign.evaluation.sets.yes_no import yes_no_log_odds

__all__ = [
    "PromptSet",
    "RiskScores",
    "RiskSet",
    "SetAnswer",
    "SetPrompt",
    "answer_metrics",
    "category_rows",
    "clustered_rate",
    "identify_risks",
    "load_prompt_set",
    "load_risk_set",
    "model_table",
    "over_refusal",
    "print_table",
    "read_answers",
    "read_sets",
    "refusal",
    "risk_metrics",
    "risk_questions",
    "score_risk_set",
    "win_rate",
    "write_sets",
    "yes_no_log_odds",
]
