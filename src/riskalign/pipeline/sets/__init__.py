"""Models on evaluation sets: settings, the run, who may judge, the report."""

from riskalign.pipeline.sets.inputs import SetsSettings
from riskalign.pipeline.sets.run import evaluate_sets

__all__ = ["SetsSettings", "evaluate_sets"]
