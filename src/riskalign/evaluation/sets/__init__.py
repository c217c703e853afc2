"""Evaluation sets: prompts by category, over-refusal, risk identification, and their tables."""

from riskalign.evaluation.sets.categories import (
    CATEGORY_METRICS,
    CategoryRow,
    SetAnswer,
    answer_metrics,
    category_rows,
    read_answers,
    win_rate,
    write_answers,
)
from riskalign.evaluation.sets.over_refusal import OverRefusal, RefusalRates, over_refusal
from riskalign.evaluation.sets.prompts import PromptSet, SetPrompt, load_prompt_set
from riskalign.evaluation.sets.r_judge import (
    RiskIdentification,
    RiskRecord,
    RiskScores,
    RiskSet,
    identify_risks,
    load_risk_set,
    risk_questions,
    score_risk_set,
)
from riskalign.evaluation.sets.rates import clustered_rate
from riskalign.evaluation.sets.refusal import Refusal, refusal
from riskalign.evaluation.sets.report import read_sets, render_sets, write_sets
from riskalign.evaluation.sets.risk_metrics import RiskMetrics, risk_metrics
from riskalign.evaluation.sets.table import model_table, print_table
from riskalign.evaluation.sets.yes_no import yes_no_log_odds

__all__ = [
    "CATEGORY_METRICS",
    "CategoryRow",
    "OverRefusal",
    "PromptSet",
    "Refusal",
    "RefusalRates",
    "RiskIdentification",
    "RiskMetrics",
    "RiskRecord",
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
    "render_sets",
    "risk_metrics",
    "risk_questions",
    "score_risk_set",
    "win_rate",
    "write_answers",
    "write_sets",
    "yes_no_log_odds",
]
