"""Sample answers from a model: batched, each prompt read once, rows sorted by length."""

from riskalign.sampling.generate import Answer, checked_prompts, sample

__all__ = ["Answer", "checked_prompts", "sample"]
