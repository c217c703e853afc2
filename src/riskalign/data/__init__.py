"""Preference pairs: sources, checks, tokenization and collation."""

from riskalign.data.collate import PairCollator
from riskalign.data.hidden import can_share_prompt, response_hidden
from riskalign.data.layout import Layout, packed, plain
from riskalign.data.schema import Message, Pair
from riskalign.data.sources import load_pairs
from riskalign.data.tokenize import PairCounts, TokenizedPair, tokenize_pairs

__all__ = [
    "Layout",
    "Message",
    "Pair",
    "PairCollator",
    "PairCounts",
    "TokenizedPair",
    "can_share_prompt",
    "load_pairs",
    "packed",
    "plain",
    "response_hidden",
    "tokenize_pairs",
]
