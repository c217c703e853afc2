"""Pairwise and absolute judging of answers by any OpenAI-compatible endpoint."""

from riskalign.evaluation.judges.absolute import MeanScore
from riskalign.evaluation.judges.answers import Item, match, read_answers, read_prompts
from riskalign.evaluation.judges.client import Client, Message, Reply
from riskalign.evaluation.judges.elo import Rating, bradley_terry, elo_ratings
from riskalign.evaluation.judges.pairwise import WinRate
from riskalign.evaluation.judges.prompts import CRITERIA
from riskalign.evaluation.judges.run import Forecast, Judging, Task
from riskalign.evaluation.judges.settings import JudgeSettings
from riskalign.evaluation.judges.verdicts import Verdict

__all__ = [
    "CRITERIA",
    "Client",
    "Forecast",
    "Item",
    "JudgeSettings",
    "Judging",
    "MeanScore",
    "Message",
    "Rating",
    "Reply",
    "Task",
    "Verdict",
    "WinRate",
    "bradley_terry",
    "elo_ratings",
    "match",
    "read_answers",
    "read_prompts",
]
