"""Risk measures of a loss under a discrete distribution, each with its worst-case density."""

from riskalign.risk.registry import RISKS, Measure, Risk, get_risk
from riskalign.risk.value import RiskValue

__all__ = ["RISKS", "Measure", "Risk", "RiskValue", "get_risk"]
