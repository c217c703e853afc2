"""Where converted models, compiled code and tokenized rows are kept."""

import hashlib
import os
from pathlib import Path


def cache_root() -> Path:
    """`$RISKALIGN_CACHE`, else `~/.cache/riskalign`."""
    chosen = os.environ.get("RISKALIGN_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "riskalign"


def model_folder(name: str, sha256: str) -> Path:
    """The cache folder of a model named `name` that was made from a file with this hash."""
    return cache_root() / "models" / f"{name}-{sha256[:12]}"


def rows_folder(sha256: str) -> Path:
    """The cache folder of rows that were made of what has this hash."""
    return cache_root() / "rows" / sha256[:32]


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        # hashlib.file_digest needs Python 3.11.
        digest = hashlib.sha256()
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
