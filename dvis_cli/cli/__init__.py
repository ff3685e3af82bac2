"""The `dvis` command: each command parses, calls one library function, shows progress, prints results.

Heavy imports happen inside the commands, so that `dvis --help` loads neither torch nor cv2.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from dvis_cli import __version__
from dvis_cli.errors import DvisError

from . import bench, dataset, evaluate, export, models, segment, train, validate, weights

app = typer.Typer(
    name="dvis",
    help="Any video in, a panoptic video out: every pixel a class, every object an id that lasts.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dvis {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of failures.")] = False,
) -> None:
    if debug:
        os.environ["DVIS_DEBUG"] = "1"


app.command("segment")(segment.segment)
app.command("evaluate")(evaluate.evaluate)
app.command("validate")(validate.validate)
app.command("train")(train.train)
app.add_typer(export.app, name="export")
app.add_typer(dataset.app, name="dataset")
app.command("bench")(bench.bench)
app.command("models")(models.models)
app.add_typer(weights.app, name="weights")


def main() -> None:
    """Entry point: run the command, turn a failure into one line and an exit code."""
    try:
        # Not "standalone", or typer would print usage errors itself, as a box of several lines.
        sys.exit(app(prog_name="dvis", standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except DvisError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
            _fail("out of memory: lower --batch, --short-side or --window", 1)
        if hasattr(error, "format_message"):  # a usage error of the parser
            message = error.format_message().replace("Value error, ", "")  # pydantic's, through typer
            _fail(message, getattr(error, "exit_code", 2))
        _fail(f"unexpected {type(error).__name__}: {error} (a bug; --debug shows where)", 1)


def _fail(message: str, code: int) -> NoReturn:
    """Print one line and exit; with --debug, show the traceback as well."""
    if os.environ.get("DVIS_DEBUG"):
        traceback.print_exc()
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(code)
