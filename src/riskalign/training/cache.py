"""The reference's hidden states, kept from the first epoch on: they never change."""

import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import torch
from torch import Tensor


class HiddenCache:
    """Keeps the reference's hidden states of each pair's response tokens.

    In main memory, or with `folder` in a file there that goes with the process; `4 * H` bytes a
    response token in float32. Saves the reference's forward pass, about a quarter of a step's
    arithmetic, whenever every pair of a batch has been seen before. What comes back then is bit by
    bit what was computed first; another batch's products may round otherwise in the last bit.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._file: IO[bytes] | None = None
        self._places: dict[int, tuple[int, tuple[int, int], torch.dtype, int]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            weakref.finalize(self, self._file.close)

    def get(self, batch: Mapping[str, Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """Hidden states [N, H] of a batch of `PairCollator`; `compute` gives what is missing."""
        keys = batch["index"].tolist()
        n = len(keys)
        if all(key in self._kept or key in self._places for key in keys):
            pairs = [self._read(key) for key in keys]
            sides = [chosen for chosen, _ in pairs] + [rejected for _, rejected in pairs]
            return torch.cat(sides).to(batch["sequence"].device)
        hidden = compute()
        lengths = torch.bincount(batch["sequence"], minlength=2 * n).tolist()
        parts = hidden.detach().cpu().split(lengths)
        for i, key in enumerate(keys):
            self._write(key, parts[i], parts[n + i])
        return hidden

    def _write(self, key: int, chosen: Tensor, rejected: Tensor) -> None:
        if self._file is None:
            self._kept.setdefault(key, (chosen.clone(), rejected.clone()))
        elif key not in self._places:
            at = self._file.seek(0, 2)
            for side in (chosen, rejected):
                self._file.write(side.contiguous().view(torch.uint8).numpy().tobytes())
            lengths = (len(chosen), len(rejected))
            self._places[key] = (at, lengths, chosen.dtype, chosen.shape[1])

    def _read(self, key: int) -> tuple[Tensor, Tensor]:
        if self._file is None:
            return self._kept[key]
        at, lengths, dtype, width = self._places[key]
        self._file.seek(at)
        content = bytearray(self._file.read(sum(lengths) * width * dtype.itemsize))
        chosen, rejected = torch.frombuffer(content, dtype=dtype).view(-1, width).split(lengths)
        return chosen, rejected
