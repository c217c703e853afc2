"""Score answers, measure the tail with intervals, and report it from results.json alone."""

from riskalign.evaluation.bootstrap import METRICS, paired_differences, summarize
from riskalign.evaluation.examples import choose_examples
from riskalign.evaluation.metrics import Interval, ScoredAnswer, empirical_cvar, empirical_var
from riskalign.evaluation.report import write_report
from riskalign.evaluation.results import SCHEMA, read_results, write_results
from riskalign.evaluation.score import score_answers
from riskalign.evaluation.table import print_results

__all__ = [
    "METRICS",
    "SCHEMA",
    "Interval",
    "ScoredAnswer",
    "choose_examples",
    "empirical_cvar",
    "empirical_var",
    "paired_differences",
    "print_results",
    "read_results",
    "score_answers",
    "summarize",
    "write_report",
    "write_results",
]
