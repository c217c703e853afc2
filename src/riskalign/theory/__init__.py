"""Exact mathematics on small trees: what RSA and its neighbours optimise, without sampling."""

from riskalign.theory.evaluate import Decomposed, Evaluation, decomposed, evaluate
from riskalign.theory.families import FAMILIES, random_mdp
from riskalign.theory.solve import (
    AnswerOptimum,
    Constrained,
    answer_optimum,
    at_each_state,
    cautious,
    charged,
    iterated,
    joint,
    on_average,
    one_step,
    over_responses,
    self_consistent,
    sequence_optimum,
    tilted_consistent,
    two_step,
)
from riskalign.theory.tree import Levels, TokenMDP, accumulate, mix, nested, tilt

__all__ = [
    "FAMILIES",
    "AnswerOptimum",
    "Constrained",
    "Decomposed",
    "Evaluation",
    "Levels",
    "TokenMDP",
    "accumulate",
    "answer_optimum",
    "at_each_state",
    "cautious",
    "charged",
    "decomposed",
    "evaluate",
    "iterated",
    "joint",
    "mix",
    "nested",
    "on_average",
    "one_step",
    "over_responses",
    "random_mdp",
    "self_consistent",
    "sequence_optimum",
    "tilt",
    "tilted_consistent",
    "two_step",
]
