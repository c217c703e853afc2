"""Pairwise and absolute judging of answers by any OpenAI-compatible endpoint."""

from riskalign.evaluation.judges.answers import Item as Item
from riskalign.evaluation.judges.answers import match as match
from riskalign.evaluation.judges.answers import read_answers as read_answers
from riskalign.evaluation.judges.answers import read_prompts as read_prompts
from riskalign.evaluation.judges.client import Client as Client
from riskalign.evaluation.judges.client import Reply as Reply
from riskalign.evaluation.judges.client import Turn as Turn
from riskalign.evaluation.judges.prompts import CRITERIA as CRITERIA
from riskalign.evaluation.judges.prompts import Verdict as Verdict
from riskalign.evaluation.judges.run import Judging as Judging
from riskalign.evaluation.judges.run import Task as Task
from riskalign.evaluation.judges.settings import JudgeSettings as JudgeSettings
