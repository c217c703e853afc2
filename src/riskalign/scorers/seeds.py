"""Random numbers that depend on named integers and on nothing that happened before."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch


def derive(*parts: int | str) -> int:
    """A seed below 2**31 from a path of names and numbers, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator with the seed `derive(*parts)`."""
    return torch.Generator().manual_seed(derive(*parts))


@contextlib.contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Seed torch for the block; afterwards its generators go on as if nothing had been."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive(*parts))
        yield
