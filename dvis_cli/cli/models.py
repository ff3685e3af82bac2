"""`dvis models`: what is known and what is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .console import print_json

if TYPE_CHECKING:
    from dvis_cli.checkpoints.registry import KnownModel


def models(
    json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the known models and whether their weights are on this machine."""
    from dvis_cli.checkpoints.registry import default_model, known_models, weights_folder

    known = known_models()
    if json_output:
        print_json([
            {
                "name": model.name,
                "mode": model.config.mode,
                "description": model.config.description,
                "short_side": model.config.input.short_side,
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
        table.add_row(name, model.config.mode, state, model.config.description)
    Console().print(table)
    typer.echo(
        f"\nWeights are looked for as NAME.safetensors, .pth or .pkl in {weights_folder()} (set DVIS_WEIGHTS to "
        "change it);\nany other file works with 'dvis segment --model FILE'."
    )


def _where(model: KnownModel) -> str:
    if model.untrained:
        return "none needed"
    if model.bundled:
        return "bundled"
    return str(model.weights) if model.weights else "not installed"
