"""Which prompts are the same, and which side of a split a prompt is on."""

import hashlib
import json
import unicodedata
from collections.abc import Sequence

from riskalign.data.fields import Message, Text


def as_text(text: Text) -> str:
    """Text as it is; one message without its role, several with theirs, a line each."""
    if isinstance(text, str):
        return text
    if len(text) == 1:
        return _said(text[0])
    return "\n".join(f"{message['role']}: {_said(message)}" for message in text)


def _said(message: Message) -> str:
    """The content, and what the further fields hold."""
    more = {field: value for field, value in message.items() if field not in ("role", "content")}
    said: str = message["content"]
    return f"{said}\n{json.dumps(more, ensure_ascii=False, sort_keys=True)}" if more else said


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
