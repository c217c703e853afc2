"""Verifiable worlds: prompts, a reward function and a cost function, all of them programs."""

from riskalign.environments.world import WORLDS, Prompt, Split, World, get_world

__all__ = ["WORLDS", "Prompt", "Split", "World", "get_world"]
