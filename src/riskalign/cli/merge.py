"""`riskalign merge`: a model between, or beyond, two others by averaging their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EPILOG = (
    "Example: [cyan]riskalign merge runs/x/helpful/model runs/x/safe/model --w 0.5 "
    "--out between[/cyan]"
)


def merge(
    model_1: Annotated[str, typer.Argument(help="Weight 1 - w: folder, hub id or GGUF file.")],
    model_2: Annotated[str, typer.Argument(help="Weight w.")],
    w: Annotated[float, typer.Option(help="0 is model_1, 1 model_2, above 1 extrapolates.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    trust_remote_code: Annotated[
        bool, typer.Option("--trust_remote_code", help="Run code that comes with a model.")
    ] = False,
) -> None:
    """Average two models' weights, as P-SACPO and RSA(P) do after their two steps."""
    from riskalign.pipeline import write_merge

    write_merge(model_1, model_2, w, out, trust_remote_code=trust_remote_code)
    typer.echo(f"model    {out}")
