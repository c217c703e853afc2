"""Preference pairs and groups of answers: sources, checks, tokenization and collation."""

from riskalign.data.collate import RowCollator
from riskalign.data.groups import TokenizedGroup, is_grouped, load_groups, tokenize_groups
from riskalign.data.hidden import can_share_prompt, response_hidden
from riskalign.data.layout import Layout, packed, plain
from riskalign.data.preferences import (
    Preferences,
    PreferenceSettings,
    load_preferences,
    write_preferences,
)
from riskalign.data.safety import SafetyRows, SafetyRule, safety_rows
from riskalign.data.schema import Message, Pair
from riskalign.data.sources import load_pairs
from riskalign.data.tokenize import PairCounts, TokenizedPair, tokenize_pairs
from riskalign.data.unpaired import (
    TokenizedResponse,
    UnpairedCollator,
    is_unpaired,
    load_unpaired,
    tokenize_unpaired,
    unpaired_rows,
)

__all__ = [
    "Layout",
    "Message",
    "Pair",
    "PairCounts",
    "PreferenceSettings",
    "Preferences",
    "RowCollator",
    "SafetyRows",
    "SafetyRule",
    "TokenizedGroup",
    "TokenizedPair",
    "TokenizedResponse",
    "UnpairedCollator",
    "can_share_prompt",
    "is_grouped",
    "is_unpaired",
    "load_groups",
    "load_pairs",
    "load_preferences",
    "load_unpaired",
    "packed",
    "plain",
    "response_hidden",
    "safety_rows",
    "tokenize_groups",
    "tokenize_pairs",
    "tokenize_unpaired",
    "unpaired_rows",
    "write_preferences",
]
