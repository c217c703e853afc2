"""Pairwise and absolute judging of answers by any OpenAI-compatible endpoint."""

from riskalign.evaluation.judges.answers import Item, match, read_answers, read_prompts
from riskalign.evaluation.judges.client import Client, Reply, Turn
from riskalign.evaluation.judges.prompts import CRITERIA, Verdict
from riskalign.evaluation.judges.results import elo_ratings
from riskalign.evaluation.judges.run import Forecast, Judging, Task
from riskalign.evaluation.judges.settings import JudgeSettings

__all__ = [
    "CRITERIA",
    "Client",
    "Forecast",
    "Item",
    "JudgeSettings",
    "Judging",
    "Reply",
    "Task",
    "Turn",
    "Verdict",
    "elo_ratings",
    "match",
    "read_answers",
    "read_prompts",
]
