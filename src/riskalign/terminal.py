"""Text of data and models on its way to a terminal, which obeys what is hidden in it."""

import unicodedata

from rich import markup


def escape(text: object) -> str:
    """Text for rich: its brackets shown, control and direction characters written out.

    What a model or a file says could otherwise move the cursor, set the window's title or hide
    words.
    """
    return markup.escape("".join(map(_shown, str(text))))


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    return character.encode("unicode_escape").decode("ascii")
