"""Pairwise and absolute judging of answers by any OpenAI-compatible endpoint."""

from riskalign.judges.absolute import MeanScore
from riskalign.judges.answers import Item, match, read_answers, read_prompts
from riskalign.judges.client import Client, Message, Reply
from riskalign.judges.elo import Rating, bradley_terry, elo_ratings
from riskalign.judges.pairwise import WinRate
from riskalign.judges.prompts import CRITERIA
from riskalign.judges.run import Forecast, Judging, Task
from riskalign.judges.settings import JudgeSettings
from riskalign.judges.verdicts import Verdict

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
