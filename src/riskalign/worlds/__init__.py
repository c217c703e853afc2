"""Verifiable worlds: prompts, a reward function and a cost function, all of them programs."""

from riskalign.worlds.world import (
    WORLDS,
    Demonstration,
    Prompt,
    Split,
    World,
    demonstrations_of,
    get_world,
    has_dev,
    max_cost_of,
)

__all__ = [
    "WORLDS",
    "Demonstration",
    "Prompt",
    "Split",
    "World",
    "demonstrations_of",
    "get_world",
    "has_dev",
    "max_cost_of",
]
