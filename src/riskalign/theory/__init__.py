"""Exact mathematics on small trees: what RSA and its neighbours optimise, without sampling."""

from riskalign.theory.answers import AnswerOptimum, Decomposed, answer_optimum, charged, decomposed
from riskalign.theory.control import cautious, self_consistent, tilted_consistent
from riskalign.theory.dual import Constrained, at_each_state, on_average, over_responses
from riskalign.theory.evaluate import Evaluation, evaluate
from riskalign.theory.families import FAMILIES, random_mdp
from riskalign.theory.solve import iterated, joint, one_step, sequence_optimum, two_step
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
