"""Policy-versus-reference statistics of each response token."""

from riskalign.tokens.head import Head, backbone_of, head_of, output_layer_of
from riskalign.tokens.stats import (
    Group,
    TokenStats,
    fits,
    grouped_losses,
    tile_tokens,
    token_stats,
    token_stats_naive,
)

__all__ = [
    "Group",
    "Head",
    "TokenStats",
    "backbone_of",
    "fits",
    "grouped_losses",
    "head_of",
    "output_layer_of",
    "tile_tokens",
    "token_stats",
    "token_stats_naive",
]
