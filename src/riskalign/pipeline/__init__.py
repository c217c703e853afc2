"""The whole job: two steps, each one's result the next one's reference, then the measurement."""

from riskalign.models.dial import DialLogitsProcessor, DialModel, dial, load_dial
from riskalign.models.merge import merge
from riskalign.pipeline.certify import (
    certify_files,
    certify_models,
    check_certificate_out,
    write_certificate,
)
from riskalign.pipeline.compare import CompareResult, run_plan
from riskalign.pipeline.config import AlignConfig
from riskalign.pipeline.export import export_certified
from riskalign.pipeline.job import evaluation_prompts
from riskalign.pipeline.methods import Method, Panel
from riskalign.pipeline.parse import Plan, load_config, load_plan, load_settings
from riskalign.pipeline.presets import preset_names, preset_text
from riskalign.pipeline.progress import Progress, Silent
from riskalign.pipeline.rare import evaluate_rare
from riskalign.pipeline.run import AlignResult, align
from riskalign.pipeline.schedule import Temperatures, temperatures
from riskalign.pipeline.sets import SetsSettings, evaluate_sets
from riskalign.pipeline.settings import (
    BudgetConfig,
    EvaluationConfig,
    LoraSettings,
    SamplingConfig,
    SFTConfig,
    StepConfig,
)
from riskalign.pipeline.single import (
    config_text,
    evaluate_models,
    write_answers,
    write_merge,
    write_sampled_pairs,
)
from riskalign.pipeline.steps import Learnt, MethodStep

__all__ = [
    "AlignConfig",
    "AlignResult",
    "BudgetConfig",
    "CompareResult",
    "DialLogitsProcessor",
    "DialModel",
    "EvaluationConfig",
    "Learnt",
    "LoraSettings",
    "Method",
    "MethodStep",
    "Panel",
    "Plan",
    "Progress",
    "SFTConfig",
    "SamplingConfig",
    "SetsSettings",
    "Silent",
    "StepConfig",
    "Temperatures",
    "align",
    "certify_files",
    "certify_models",
    "check_certificate_out",
    "config_text",
    "dial",
    "evaluate_models",
    "evaluate_rare",
    "evaluate_sets",
    "evaluation_prompts",
    "export_certified",
    "load_config",
    "load_dial",
    "load_plan",
    "load_settings",
    "merge",
    "preset_names",
    "preset_text",
    "run_plan",
    "temperatures",
    "write_answers",
    "write_certificate",
    "write_merge",
    "write_sampled_pairs",
]
