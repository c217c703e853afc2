"""The reference's hidden states, kept from the first epoch on: they never change."""

import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor


class HiddenCache:
    """Keeps the reference's hidden states of each row's response tokens.

    In main memory, or with `folder` in a file there that goes with the process; `4 * H` bytes a
    response token in float32. Saves the reference's forward pass, about a quarter of a step's
    arithmetic, whenever every row of a batch has been seen before. What comes back then is bit by
    bit what was computed first; another batch's products may round otherwise in the last bit.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._kept: dict[int, Tensor] = {}
        self._file: IO[bytes] | None = None
        self._places: dict[int, tuple[int, int, int, torch.dtype]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            weakref.finalize(self, self._file.close)

    def get(self, batch: Mapping[str, Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """Hidden states [N, H] of a batch of `RowCollator`; `compute` gives what is missing."""
        keys = batch["index"].tolist()
        if all(key in self._kept or key in self._places for key in keys):
            kept = torch.cat([self._read(key) for key in keys])
            return kept.to(batch["sequence"].device)
        hidden = compute()
        lengths = torch.bincount(batch["row"][batch["sequence"]], minlength=len(keys)).tolist()
        for key, states in zip(keys, hidden.detach().cpu().split(lengths), strict=True):
            self._write(key, states)
        return hidden

    def _write(self, key: int, states: Tensor) -> None:
        if self._file is None:
            self._kept.setdefault(key, states.clone())
        elif key not in self._places:
            at = self._file.seek(0, 2)
            self._file.write(states.contiguous().view(torch.uint8).numpy().tobytes())
            self._places[key] = (at, *states.shape, states.dtype)

    def _read(self, key: int) -> Tensor:
        if self._file is None:
            return self._kept[key]
        at, length, width, dtype = self._places[key]
        self._file.seek(at)
        content = bytearray(self._file.read(length * width * dtype.itemsize))
        return torch.frombuffer(content, dtype=dtype).view(-1, width)
