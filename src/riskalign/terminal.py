"""Text of data and models on its way to a terminal, which obeys what is hidden in it."""

import unicodedata
from collections.abc import Iterable, Sequence

from rich import markup
from rich.console import Console
from rich.table import Table
from rich.text import Text


def escape(text: object) -> str:
    """Text for rich: its brackets shown, control and direction characters written out.

    What a model or a file says could otherwise move the cursor, set the window's title or hide
    words.
    """
    return markup.escape(_plain(text))


def _plain(text: object) -> str:
    return "".join(map(_shown, str(text)))


def _shown(character: str) -> str:
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    return character.encode("unicode_escape").decode("ascii")


def table(
    names: Sequence[object],
    rows: Iterable[Sequence[object] | None],
    *,
    title: str | None = None,
    caption: str | None = None,
) -> Table:
    """A table whose first column stands to the left and the others to the right.

    Everything but a `Text` of rich is escaped; a row that is None is a line across.
    """
    made = Table(
        title=None if title is None else escape(title),
        caption=caption,
        title_justify="left",
        caption_justify="left",
    )
    for i, name in enumerate(names):
        made.add_column(escape(name), justify="right" if i else "left")
    for row in rows:
        if row is None:
            made.add_section()
        else:
            made.add_row(*(cell if isinstance(cell, Text) else escape(cell) for cell in row))
    return made


def above(upper: str, lower: str, style: str = "dim") -> Text:
    """A cell of two lines, the lower in a style; of one where there is no lower."""
    text = f"{escape(upper)}\n[{style}]{escape(lower)}[/{style}]" if lower else escape(upper)
    return Text.from_markup(text)


def print_list(lines: Iterable[str], console: Console, style: str | None = "dim") -> None:
    """Print sentences with a dot before each."""
    for line in lines:
        console.print(f"\u2022 {_plain(line)}", style=style, markup=False, highlight=False)
