"""Score answers, measure the tail with intervals, and report it from results.json alone."""

from riskalign.evaluation.bounds import Plan, cvar_bounds, cvar_upper_bound, plan
from riskalign.evaluation.comparison import Cell, compare_cells, from_columns, to_columns
from riskalign.evaluation.comparison_report import (
    print_comparison,
    read_comparison,
    write_comparison,
)
from riskalign.evaluation.frontier_ratio import ratios_of_all
from riskalign.evaluation.ideal import ideal_ratios
from riskalign.evaluation.intervals import (
    Bootstrap,
    Floats,
    Interval,
    Statistic,
    auc_statistic,
    binomial_interval,
    few_differ,
    few_means_differ,
    mean_interval,
    mean_statistic,
    rare_rate_interval,
)
from riskalign.evaluation.metrics import (
    METRICS,
    TAIL_LEVELS,
    Estimate,
    Metric,
    Sample,
    get_metrics,
    paired_differences,
    summarize,
)
from riskalign.evaluation.report import print_results, write_report
from riskalign.evaluation.results import choose_examples, read_results, write_results
from riskalign.evaluation.score import ScoredAnswer, score_answers
from riskalign.evaluation.tails import empirical_cvar, empirical_var

__all__ = [
    "METRICS",
    "TAIL_LEVELS",
    "Bootstrap",
    "Cell",
    "Estimate",
    "Floats",
    "Interval",
    "Metric",
    "Plan",
    "Sample",
    "ScoredAnswer",
    "Statistic",
    "auc_statistic",
    "binomial_interval",
    "choose_examples",
    "compare_cells",
    "cvar_bounds",
    "cvar_upper_bound",
    "empirical_cvar",
    "empirical_var",
    "few_differ",
    "few_means_differ",
    "from_columns",
    "get_metrics",
    "ideal_ratios",
    "mean_interval",
    "mean_statistic",
    "paired_differences",
    "plan",
    "print_comparison",
    "print_results",
    "rare_rate_interval",
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
