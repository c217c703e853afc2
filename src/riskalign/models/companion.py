"""A second model that reads along with the one that samples.

Shapes: B rows, L tokens so far, V vocabulary.
"""

import inspect
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from riskalign.errors import InputError


class Reader:
    """The next token's logits of a model, with a cache of what it has read."""

    def __init__(self, model: nn.Module) -> None:
        self.model: Any = model
        self._options = set(inspect.signature(self.model.forward).parameters)

    def repeats(self) -> bool:
        """Whether rows of its cache can be copied: of keys and values that is known, no more."""
        return all(type(layer) is DynamicLayer for layer in self.empty().layers)

    def empty(self) -> DynamicCache:
        """A cache of nothing."""
        return DynamicCache(config=self.model.config)

    def anew(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Any]:
        """Read rows [B, L] from their start, equal ones once: as `more`."""
        rows, index = torch.cat([input_ids, mask], dim=1).unique(dim=0, return_inverse=True)
        if len(rows) == len(input_ids) or not self.repeats():
            return self.more(input_ids, mask, self.empty())
        unique_ids, unique_mask = rows.split(input_ids.shape[1], dim=1)
        logits, filled = self.more(unique_ids, unique_mask, self.empty())
        if filled is not None:
            filled.batch_select_indices(index)
        return logits[index], filled

    def more(self, input_ids: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits [B, V] after the last token, and the cache that holds all tokens up to it."""
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)[:, -input_ids.shape[1] :]
        options = {"position_ids": positions, "logits_to_keep": 1}
        known = {name: value for name, value in options.items() if name in self._options}
        output = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            **known,
        )
        return output.logits[:, -1], output.past_key_values


class Companion:
    """Logits of rows that come, go and change places, as in an engine that never waits.

    A row that is one token longer than when it was read last costs one token; all others are read
    from the start. A row that comes or goes costs a copy of the cache.

    Raises `InputError` for a model whose cache holds more than keys and values.
    """

    def __init__(self, model: nn.Module) -> None:
        self._reader = Reader(model)
        if not self._reader.repeats():
            raise InputError(
                f"dial: a {type(model).__name__} keeps other states than keys and values of all "
                "tokens, which cannot follow rows that change places. Sample with transformers."
            )
        self._keys: list[tuple[Hashable, int]] = []
        self._mask: Tensor = torch.empty(0)
        self._cache: Any = None

    @torch.inference_mode()
    def next_logits(self, rows: Sequence[tuple[Hashable, Sequence[int]]]) -> Tensor:
        """Logits [B, V] after each row's tokens; its key says which row it is from call to call."""
        at = {key: i for i, key in enumerate(self._keys)}
        device = self._reader.model.device
        old = [i for i, (key, ids) in enumerate(rows) if (key, len(ids) - 1) in at]
        new = [i for i, (key, ids) in enumerate(rows) if (key, len(ids) - 1) not in at]
        logits, masks, caches = [], [], []
        if old:
            kept = [at[rows[i][0], len(rows[i][1]) - 1] for i in old]
            if kept != list(range(len(at))):
                index = torch.tensor(kept, device=device)
                self._cache.batch_select_indices(index)
                self._mask = self._mask[index]
            last = torch.tensor([[rows[i][1][-1]] for i in old], device=device)
            mask = pad(self._mask, (0, 1), value=1)
            found, cache = self._reader.more(last, mask, self._cache)
            logits, masks, caches = [found], [mask], [cache]
        if new:
            width = max(len(rows[i][1]) for i in new)
            blank = [[0] * (width - len(rows[i][1])) for i in new]
            ids = [empty + list(rows[i][1]) for empty, i in zip(blank, new, strict=True)]
            mask = torch.tensor([b + [1] * (width - len(b)) for b in blank], device=device)
            found, cache = self._reader.anew(torch.tensor(ids, device=device), mask)
            logits, masks, caches = [*logits, found], [*masks, mask], [*caches, cache]
        self._keys = [(rows[i][0], len(rows[i][1])) for i in (*old, *new)]
        self._mask, self._cache = self._joined(masks, caches)
        back = torch.tensor([*old, *new], device=device).argsort()
        return torch.cat(logits)[back]

    def _joined(self, masks: list[Tensor], caches: list[Any]) -> tuple[Tensor, Any]:
        """One mask and cache for all rows, without columns that are padding in every row."""
        width = max(mask.shape[1] for mask in masks)
        mask = torch.cat([pad(each, (width - each.shape[1], 0)) for each in masks])
        blank = int(mask.any(0).long().argmax())
        if len(caches) == 1 and not blank:
            return mask, caches[0]
        joined = self._reader.empty()
        for i in range(len(joined.layers)):
            parts = [
                [
                    pad(states, (0, 0, width - states.shape[-2], 0))
                    for states in (cache.layers[i].keys, cache.layers[i].values)
                ]
                for cache in caches
            ]
            keys, values = (torch.cat(each)[..., blank:, :] for each in zip(*parts, strict=True))
            joined.update(keys, values, i)
        return mask[:, blank:], joined
