"""Score answers, measure the tail with intervals, and report it from results.json alone."""

from riskalign.evaluation.bootstrap import METRICS, TAIL_LEVELS, paired_differences, summarize
from riskalign.evaluation.bounds import Plan, cvar_bounds, cvar_upper_bound, plan
from riskalign.evaluation.examples import choose_examples
from riskalign.evaluation.metrics import Interval, ScoredAnswer, empirical_cvar, empirical_var
from riskalign.evaluation.report import write_report
from riskalign.evaluation.results import SCHEMA, read_results, write_results
from riskalign.evaluation.score import score_answers
from riskalign.evaluation.table import print_results

__all__ = [
    "METRICS",
    "SCHEMA",
    "TAIL_LEVELS",
    "Interval",
    "Plan",
    "ScoredAnswer",
    "choose_examples",
    "cvar_bounds",
    "cvar_upper_bound",
    "empirical_cvar",
    "empirical_var",
    "paired_differences",
    "plan",
    "print_results",
    "read_results",
    "score_answers",
    "summarize",
    "write_report",
    "write_results",
]
