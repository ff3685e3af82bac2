"""`dvis weights`: make and look at weight files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dvis_cli.errors import OutputError

from .console import Reporter, print_json

app = typer.Typer(help="Make and look at weight files.", no_args_is_help=True)


@app.command("random")
def random(
    model: Annotated[str, typer.Argument(help="A name from 'dvis models'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 7,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Write a model of noise, to measure speed and memory without trained weights."""
    _check_target(out, overwrite)
    from dvis_cli.checkpoints.registry import known_model
    from dvis_cli.run.loading import categories_of, save_weights
    from dvis_cli.run.noise import random_model

    config = known_model(model).config
    save_weights(random_model(config, categories_of(config), seed), out)
    Reporter().say(f"{out}: {model}, random weights from seed {seed}")


@app.command("half")
def half(
    file: Annotated[Path, typer.Argument(help="A whole model: any weight file that 'dvis segment' takes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Write a copy with float16 numbers: half the size. It is used in float32 all the same."""
    _check_target(out, overwrite)
    from dvis_cli.run.loading import load_model, save_weights

    save_weights(load_model(file, device="cpu"), out, half=True)
    Reporter().say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


@app.command("info")
def info(
    file: Annotated[Path, typer.Argument(help="A .safetensors, .pth or .pkl file.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Say what kind of model a weight file holds, without running anything in it."""
    from dvis_cli.run.loading import inspect_weights

    found = inspect_weights(file)
    if json_output:
        print_json(found)
        return
    for key, value in found.items():
        typer.echo(f"{key:14} {value}")


def _check_target(out: Path, overwrite: bool) -> None:
    if out.suffix != ".safetensors":
        raise OutputError(f"{out}: the file must end in .safetensors")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; --overwrite replaces it")
