"""What is hidden in a text does not reach the terminal."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from riskalign.terminal import above, escape, print_list, table


@pytest.mark.parametrize(
    "hidden", ["\x1b[2J", "\x1b]0;title\x07", "\r", "\x08", "\x9b31m", "\u202e", "\u200b", "\x00"]
)
def test_control_characters_are_written_out(hidden: str) -> None:
    out = io.StringIO()
    Console(file=out, highlight=False, width=200).print(escape(f"a{hidden}b [bold]c[/bold]"))
    shown = out.getvalue()
    assert all(character not in shown for character in hidden if not character.isprintable())
    assert "[bold]c[/bold]" in shown
    assert "\\" in shown


def test_other_text_is_left_as_it_is() -> None:
    assert escape("Ünïcode 漢字 🙂\n\ttab") == "Ünïcode 漢字 🙂\n\ttab"


def test_tables_and_lists_show_text_as_it_is() -> None:
    hidden = "[bold]a\u202eb"
    out = io.StringIO()
    console = Console(file=out, width=80)
    rows = [[hidden, 3, above(hidden, hidden)], None, [Text("kept"), above("one", ""), ""]]
    console.print(table([hidden, "n", ""], rows, title=hidden))
    print_list([hidden], console)
    shown = out.getvalue()
    assert shown.count("[bold]a\\u202eb") == 6
    assert "\u202e" not in shown
    [line] = [line for line in shown.splitlines() if "kept" in line]
    assert [cell.strip() for cell in line.split("\u2502")[1:4]] == ["kept", "one", ""]
