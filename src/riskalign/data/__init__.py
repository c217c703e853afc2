"""Preference pairs: sources, checks, tokenization and collation."""

from riskalign.data.collate import PairCollator
from riskalign.data.hidden import can_share_prompt, response_hidden
from riskalign.data.layout import Layout, packed, plain
from riskalign.data.preferences import (
    Preferences,
    PreferenceSettings,
    load_preferences,
    write_preferences,
)
from riskalign.data.schema import Message, Pair
from riskalign.data.sources import load_pairs
from riskalign.data.tokenize import PairCounts, TokenizedPair, tokenize_pairs
from riskalign.data.unpaired import (
    TokenizedResponse,
    UnpairedCollator,
    is_unpaired,
    tokenize_unpaired,
    unpaired_rows,
)

__all__ = [
    "Layout",
    "Message",
    "Pair",
    "PairCollator",
    "PairCounts",
    "PreferenceSettings",
    "Preferences",
    "TokenizedPair",
    "TokenizedResponse",
    "UnpairedCollator",
    "can_share_prompt",
    "is_unpaired",
    "load_pairs",
    "load_preferences",
    "packed",
    "plain",
    "response_hidden",
    "tokenize_pairs",
    "tokenize_unpaired",
    "unpaired_rows",
    "write_preferences",
]
