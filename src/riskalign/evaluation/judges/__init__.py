"""Pairwise and absolute judging of answers by any OpenAI-compatible endpoint."""

from riskalign.evaluation.judges.answers import Item, match, read_answers, read_prompts
from riskalign.evaluation.judges.client import Client, Reply, Turn
from riskalign.evaluation.judges.elo import Rating, elo_ratings
from riskalign.evaluation.judges.prompts import CRITERIA
from riskalign.evaluation.judges.run import Forecast, Judging, Task
from riskalign.evaluation.judges.settings import JudgeSettings
from riskalign.evaluation.judges.trials import MeanScore, WinRate
from riskalign.evaluation.judges.verdicts import Verdict

__all__ = [
    "CRITERIA",
    "Client",
    "Forecast",
    "Item",
    "JudgeSettings",
    "Judging",
    "MeanScore",
    "Rating",
    "Reply",
    "Task",
    "Turn",
    "Verdict",
    "WinRate",
    "elo_ratings",
    "match",
    "read_answers",
    "read_prompts",
]
