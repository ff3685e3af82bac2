"""`dvis bench`: how fast a model is here, and where its time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from dvis_cli.bench.options import BenchSettings

from .console import Reporter, print_json
from .options import with_options

if TYPE_CHECKING:
    from rich.table import Table

_WIDTH = 24  # characters of the longest bar


@with_options
def bench(
    *,
    model: Annotated[
        str | None,
        typer.Option(
            *("--model", "-m"),
            metavar="NAME|FILE",
            help="A published one that is not here has weights of noise.",
        ),
    ] = None,
    settings: BenchSettings,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"], typer.Option(help="auto is bf16 where a GPU has it.")
    ] = "auto",
    compile: Annotated[
        Literal["off", "auto"], typer.Option(help="As of dvis segment; beside it the network as it is.")
    ] = "off",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    batch: Annotated[int | None, typer.Option(help="Frames that the network sees at once.")] = None,
    short_side: Annotated[
        int | None, typer.Option(help="Pixels of the short side in the network. Default: the model's own.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of the network. Default: all cores.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Measure the time of a frame, stage by stage and thread by thread, from file to files.

    Beside it: arithmetic and its share of what a matrix product reaches here, how busy a GPU is, what is copied to and
    from it, memory and its growth.
    """
    from dvis_cli.bench.bench import bench as measure
    from dvis_cli.run.options import SegmentOptions

    reporter = Reporter(quiet)
    options = SegmentOptions(
        model=model,
        precision=precision,
        compile=compile,
        device=device,
        batch=batch,
        short_side=short_side,
        threads=threads,
    )
    with reporter.warnings_as_lines(), reporter.progress("bench", None, "stages") as bar:
        document = measure(options, settings, lambda stage: bar.advance_named(stage))
    document["warnings"] = reporter.warned
    if json_output:
        print_json(document)
    elif not quiet:
        _show(document)


def _show(document: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console()
    network, files, use, model = (document[key] for key in ("network", "files", "device", "model"))
    console.print(
        f"{model['name']}{'' if model['trained'] else ' (noise)'}, {model['parameters'] / 1e6:.1f}M parameters, "
        f"{model['precision']}, {model['mode']}, input {network['input'][0]} x {network['input'][1]}, "
        f"batch {network['batch']}; {document['machine']['gpu'] or document['machine']['processor']}"
    )
    console.print(_table("networks and decision", network["stages"], peak=True))
    console.print(
        f"networks alone {network['fps']:.2f} frames/s: {network['gflop']:.0f} GFLOP a frame, "
        f"{network['share_of_peak']:.0%} of the {document['peak_gflops'] / 1e3:.2f} TFLOP/s of a matrix product"
    )
    if compiled := network["compiled"]:
        console.print(
            f"compiled: {compiled['times']:.2f} times as fast, after {compiled['after_seconds']:.0f} s"
        )
    console.print(_table("file to files", files["stages"]))
    memory = files["memory"]
    held = [f"{memory['ram'] / 2**20:.0f} MiB of RAM"]
    held += [f"{memory['device'] / 2**20:.0f} MiB on the device"] if memory["device"] else []
    slope = memory["slope_a_frame"]
    held += [f"{slope / 2**10:+.1f} KiB a frame"] if slope is not None else []
    console.print(
        f"file to files {files['fps']:.2f} frames/s, {files['outside_network']:.0%} of it outside the network; "
        f"peak {', '.join(held)}"
    )
    if use:
        console.print(
            f"GPU busy {use['busy_share']:.0%}; a frame: {use['waits']:.1f} waits, {use['copies']:.1f} copies of "
            f"{use['copied_bytes'] / 1e6:.1f} MB, {use['kernels']:.0f} kernels"
        )
    if document["against"]:
        seconds = document["against"]["seconds"]
        for name, times in document["against"]["times"].items():
            both = f"{seconds[name]:.3f} s a frame, dvis {seconds['dvis']:.3f} s"
            console.print(f"{name}: {both}: {times:.2f} times")


def _table(title: str, stages: list[dict[str, Any]], peak: bool = False) -> Table:
    """A row and a bar for each stage."""
    from rich.table import Table

    table = Table(title=title, box=None, pad_edge=False, title_justify="left")
    headings = ["", "ms", *(["GFLOP", "of peak"] if peak else []), ""]
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number in (0, len(headings) - 1) else "right")
    longest = max((stage["ms"] for stage in stages), default=1.0)
    for stage in stages:
        name = f"{stage['thread']}: {stage['stage']}" if "thread" in stage else stage["stage"]
        numbers = [f"{stage['gflop']:.1f}", f"{stage['share_of_peak']:.0%}"] if peak else []
        bar = "█" * max(1, round(_WIDTH * stage["ms"] / longest))
        table.add_row(name, f"{stage['ms']:.1f}", *numbers, bar)
    return table
