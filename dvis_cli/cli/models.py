"""`dvis models`: what is known and what is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from .console import print_json
from .options import Json

if TYPE_CHECKING:
    from dvis_cli.checkpoints.registry import KnownModel


def models(
    json_output: Json = False,
) -> None:
    """List the known models and whether their weights are on this machine."""
    from dvis_cli.checkpoints.home import weights_folder
    from dvis_cli.checkpoints.registry import default_model, known_models

    known = known_models()
    if json_output:
        print_json([
            {
                "name": model.name,
                "mode": model.mode or None,
                "description": model.description,
                "short_side": model.configured.input.short_side if model.configured else None,
                "ready": model.ready,
                "trained": not model.untrained,
                "weights": str(model.weights) if model.weights else None,
                "default": model.name == default_model(),
            }
            for model in known
        ])  # fmt: skip
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("model", "mode", "weights", "description"):
        table.add_column(heading, no_wrap=heading in ("model", "mode"), overflow="fold")
    for model in known:
        state = _where(model)
        name = f"{model.name} (default)" if model.name == default_model() else model.name
        table.add_row(name, model.mode, state, model.description)
    Console().print(table)
    typer.echo(
        f"\n'dvis weights list' shows what can be pulled. Weights are kept in {weights_folder()} (set DVIS_HOME to "
        "change it);\nany other file works with 'dvis segment --model FILE'."
    )


def _where(model: KnownModel) -> str:
    if model.untrained:
        return "none needed"
    if model.bundled:
        return "bundled"
    return str(model.weights) if model.weights else "not installed"
