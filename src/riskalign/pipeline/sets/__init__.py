"""Models on evaluation sets: settings, the run, who may judge, the report."""

from riskalign.pipeline.sets.run import evaluate_sets
from riskalign.pipeline.sets.settings import SetsSettings

__all__ = ["SetsSettings", "evaluate_sets"]
