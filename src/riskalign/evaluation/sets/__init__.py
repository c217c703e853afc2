"""Evaluation sets: prompts by category, over-refusal, risk identification, and their tables."""

from riskalign.evaluation.sets.measures import SetAnswer as SetAnswer
from riskalign.evaluation.sets.measures import answer_metrics as answer_metrics
from riskalign.evaluation.sets.measures import category_rows as category_rows
from riskalign.evaluation.sets.measures import over_refusal as over_refusal
from riskalign.evaluation.sets.measures import read_answers as read_answers
from riskalign.evaluation.sets.prompts import EvaluationSet as EvaluationSet
from riskalign.evaluation.sets.prompts import RiskRecord as RiskRecord
from riskalign.evaluation.sets.prompts import SetPrompt as SetPrompt
from riskalign.evaluation.sets.prompts import load_prompt_set as load_prompt_set
from riskalign.evaluation.sets.r_judge import RiskScores as RiskScores
from riskalign.evaluation.sets.r_judge import identify_risks as identify_risks
from riskalign.evaluation.sets.r_judge import load_risk_set as load_risk_set
from riskalign.evaluation.sets.r_judge import risk_questions as risk_questions
from riskalign.evaluation.sets.r_judge import score_risk_set as score_risk_set
from riskalign.evaluation.sets.report import model_table as model_table
from riskalign.evaluation.sets.report import print_table as print_table
from riskalign.evaluation.sets.report import read_sets as read_sets
from riskalign.evaluation.sets.report import write_sets as write_sets
