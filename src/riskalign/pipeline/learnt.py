"""Which prompts a model was trained on: a file of hashes in its folder, for whoever judges it."""

from collections.abc import Iterable
from pathlib import Path

from riskalign.data.fields import Text
from riskalign.data.identity import text_hash
from riskalign.files.atomic import write_text

PROMPTS_FILE = "prompts.sha256"


def note_prompts(folder: Path, *came_from: str, prompts: Iterable[Text] = ()) -> None:
    """Write the hashes of a trained model's prompts, those of models it came from among them.

    Args:
        folder: the trained model's.
        came_from: names or folders of the models that its training began with, or that it is an
            average of.
        prompts: what this training asked.
    """
    found = {text_hash(prompt) for prompt in prompts}
    found = found.union(*(prompts_of(source) or set() for source in came_from))
    write_text(folder / PROMPTS_FILE, "".join(f"{each}\n" for each in sorted(found)))


def prompts_of(source: str) -> set[str] | None:
    """The `text_hash`es that `note_prompts` left in a model's folder; None where there are none."""
    path = Path(source).expanduser() / PROMPTS_FILE
    return set(path.read_text(encoding="utf-8").split()) if path.is_file() else None
