"""Where the quickstart's configuration and its committed training pairs are."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def quickstart_config(short: bool) -> tuple[Path, list[str]]:
    """Return the YAML file of the quickstart and the overrides that name its data.

    The pairs were sampled by the commands at the top of that file, so that a first run spends its
    minutes on training and measuring; `recipes/vault` samples its own.
    """
    folder = Path(str(files("riskalign.quickstart")))
    overrides = [f"{step}.data={folder / f'{step}.jsonl.gz'}" for step in ("helpful", "safe")]
    return folder / ("short.yaml" if short else "quickstart.yaml"), overrides
