"""Verifiable worlds: prompts, a reward function and a cost function, all of them programs."""

from riskalign.environments.world import WORLDS, Prompt, Split, World, get_world, max_cost_of

__all__ = ["WORLDS", "Prompt", "Split", "World", "get_world", "max_cost_of"]
