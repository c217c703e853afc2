"""Which prompts are the same, and which side of a split a prompt is on."""

import hashlib
import unicodedata
from collections.abc import Sequence

from riskalign.data.schema import Text


def as_text(text: Text) -> str:
    """Text as it is; one message without its role, several with theirs, a line each."""
    if isinstance(text, str):
        return text
    if len(text) == 1:
        return text[0]["content"]
    return "\n".join(f"{message['role']}: {message['content']}" for message in text)


def text_hash(text: Text) -> str:
    """Hex SHA-256 of a text; case, spacing and Unicode form make no difference."""
    plain = " ".join(unicodedata.normalize("NFKC", as_text(text)).casefold().split())
    return hashlib.sha256(plain.encode()).hexdigest()


def side_of(prompt: Text, shares: Sequence[float], salt: str) -> int:
    """Which of the sides with these shares of all prompts a prompt is on; `len(shares)` for none.

    It depends on `salt` and the prompt alone, so a prompt stays on its side whatever other prompts
    there are, and equal prompts are on one side.
    """
    digest = hashlib.sha256(f"{salt}/{text_hash(prompt)}".encode()).digest()
    place = int.from_bytes(digest[:8]) / 2**64
    for i, share in enumerate(shares):
        place -= share
        if place < 0:
            return i
    return len(shares)
