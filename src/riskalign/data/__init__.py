"""Preference pairs: sources, checks, tokenization and collation."""

from riskalign.data.collate import PairCollator, shared_prompt_mask
from riskalign.data.hidden import can_share_prompt, response_hidden
from riskalign.data.schema import Message, Pair
from riskalign.data.sources import load_pairs
from riskalign.data.tokenize import PairCounts, TokenizedPair, tokenize_pairs

__all__ = [
    "Message",
    "Pair",
    "PairCollator",
    "PairCounts",
    "TokenizedPair",
    "can_share_prompt",
    "load_pairs",
    "response_hidden",
    "shared_prompt_mask",
    "tokenize_pairs",
]
