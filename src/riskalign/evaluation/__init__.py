"""Score answers, measure the tail with intervals, and report it from results.json alone."""

from riskalign.evaluation.bootstrap import METRICS, TAIL_LEVELS, paired_differences, summarize
from riskalign.evaluation.bounds import Plan, cvar_bounds, cvar_upper_bound, plan
from riskalign.evaluation.comparison import Cell, compare_cells, from_columns, to_columns
from riskalign.evaluation.comparison_report import (
    print_comparison,
    read_comparison,
    write_comparison,
)
from riskalign.evaluation.examples import choose_examples
from riskalign.evaluation.frontier_ratio import ratios_of_all
from riskalign.evaluation.ideal import Ideal, Reached, Start, ideal_ratios
from riskalign.evaluation.metrics import (
    Interval,
    ScoredAnswer,
    binomial_interval,
    empirical_cvar,
    empirical_var,
)
from riskalign.evaluation.report import write_report
from riskalign.evaluation.resampling import Bootstrap
from riskalign.evaluation.results import SCHEMA, read_results, write_results
from riskalign.evaluation.score import score_answers
from riskalign.evaluation.table import print_results

__all__ = [
    "METRICS",
    "SCHEMA",
    "TAIL_LEVELS",
    "Bootstrap",
    "Cell",
    "Ideal",
    "Interval",
    "Plan",
    "Reached",
    "ScoredAnswer",
    "Start",
    "binomial_interval",
    "choose_examples",
    "compare_cells",
    "cvar_bounds",
    "cvar_upper_bound",
    "empirical_cvar",
    "empirical_var",
    "from_columns",
    "ideal_ratios",
    "paired_differences",
    "plan",
    "print_comparison",
    "print_results",
    "ratios_of_all",
    "read_comparison",
    "read_results",
    "score_answers",
    "summarize",
    "to_columns",
    "write_comparison",
    "write_report",
    "write_results",
]
