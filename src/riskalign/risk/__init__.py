"""Risk measures of a loss under a discrete distribution, of tokens and of whole answers."""

from riskalign.risk.answers import TailCost, answer_risk, tail_cost
from riskalign.risk.measures import RiskValue
from riskalign.risk.optimum import TailOptimum, strength_for, tail_optimum
from riskalign.risk.registry import RISKS, Measure, Risk, get_risk

__all__ = [
    "RISKS",
    "Measure",
    "Risk",
    "RiskValue",
    "TailCost",
    "TailOptimum",
    "answer_risk",
    "get_risk",
    "strength_for",
    "tail_cost",
    "tail_optimum",
]
