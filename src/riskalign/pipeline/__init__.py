"""The whole job: two steps, each one's result the next one's reference, then the measurement."""

from riskalign.pipeline.compare import CompareResult as CompareResult
from riskalign.pipeline.compare import run_plan as run_plan
from riskalign.pipeline.config import AlignConfig as AlignConfig
from riskalign.pipeline.job import evaluation_prompts as evaluation_prompts
from riskalign.pipeline.methods import Method as Method
from riskalign.pipeline.methods import Panel as Panel
from riskalign.pipeline.parse import Plan as Plan
from riskalign.pipeline.parse import load_config as load_config
from riskalign.pipeline.parse import load_plan as load_plan
from riskalign.pipeline.parse import load_settings as load_settings
from riskalign.pipeline.presets import preset_names as preset_names
from riskalign.pipeline.presets import preset_text as preset_text
from riskalign.pipeline.progress import Progress as Progress
from riskalign.pipeline.run import AlignResult as AlignResult
from riskalign.pipeline.run import align as align
from riskalign.pipeline.sets import SetsSettings as SetsSettings
from riskalign.pipeline.sets import evaluate_sets as evaluate_sets
from riskalign.pipeline.settings import EvaluationConfig as EvaluationConfig
from riskalign.pipeline.settings import StepConfig as StepConfig
from riskalign.pipeline.single import config_text as config_text
from riskalign.pipeline.single import evaluate_models as evaluate_models
from riskalign.pipeline.single import write_answers as write_answers
from riskalign.pipeline.single import write_merge as write_merge
from riskalign.pipeline.single import write_sampled_pairs as write_sampled_pairs
from riskalign.pipeline.steps import Learnt as Learnt
from riskalign.pipeline.steps import MethodStep as MethodStep
