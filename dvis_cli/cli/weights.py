"""`dvis weights`: fetch, keep, check and convert weight files."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dvis_cli.errors import CheckpointError, DvisError, OutputError, UsageError

from .console import Reporter, print_json
from .options import Json, Overwrite, Quiet

if TYPE_CHECKING:
    from dvis_cli.checkpoints.installed import Installed
    from dvis_cli.checkpoints.published import Published
    from dvis_cli.checkpoints.pull import Plan

app = typer.Typer(help="Fetch, keep, check and convert weights.", no_args_is_help=True)


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Argument(help="Only names that contain this.")] = None,
    remote: Annotated[bool, typer.Option(help="Ask the hub what its repositories hold.")] = False,
    json_output: Json = False,
) -> None:
    """List the weights that can be pulled, and which of them are on this machine."""
    from dvis_cli.checkpoints.installed import installed, installed_names
    from dvis_cli.checkpoints.published import all_published

    entries = {key: one for key, one in all_published().items() if name is None or name in key}
    if remote:
        return _list_remote(entries, json_output)
    there = {key: installed(key) for key in installed_names() if name is None or name in key}
    entries = {**entries, **{key: one.entry for key, one in there.items() if one is not None}}
    rows = [{**entry.document(), "installed": key in there} for key, entry in entries.items()]
    if json_output:
        return print_json(rows)
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "MB", "score", "licence", ""):
        table.add_column(heading, no_wrap=heading != "licence", overflow="fold")
    for key, entry in entries.items():
        state = "installed" if key in there else "not supported" if entry.unsupported else ""
        size, score = f"{entry.size_mb:g}" if entry.size_mb else "", (entry.score or "").split(" (")[0]
        table.add_row(key, size, score, entry.licence, state)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _list_remote(entries: dict[str, Published], json_output: bool) -> None:
    """Weight files of the repositories that entries are in."""
    from dvis_cli.checkpoints import hub

    repositories = sorted({entry.hub for entry in entries.values() if entry.hub is not None})
    if not repositories:
        raise UsageError("no entry of that name lies on the hub")
    rows: list[dict[str, Any]] = []
    failed = []
    for repo in repositories:
        try:
            found = hub.repository(repo)
        except CheckpointError as error:
            failed.append(str(error))
            continue
        rows += [
            {"hub": repo, "path": f.path, "bytes": f.size, "sha256": f.sha256}
            for f in hub.matching(found, ())
        ]
    if json_output:
        print_json(rows)
    else:
        for row in rows:
            typer.echo(f"{row['hub']}  {row['path']}  {_megabytes(row['bytes'])}")
    if failed:
        raise CheckpointError(
            f"{len(failed)} of {len(repositories)} repositories cannot be listed: {failed[0]}"
        )


@app.command("pull")
def pull(
    name: Annotated[str, typer.Argument(help="A name from 'dvis weights list'.")],
    file: Annotated[str | None, typer.Option(help="Take the file of the repository that matches.")] = None,
    as_name: Annotated[str | None, typer.Option("--as", help="Keep it under another name.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Accept size and licence without a question.")
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch weights, after saying what they are, how large and under which licence."""
    import dataclasses

    from dvis_cli.checkpoints.installed import installed
    from dvis_cli.checkpoints.published import check_name, published

    entry = published(name)
    if as_name is not None:
        entry = dataclasses.replace(entry, name=check_name(as_name))
    reporter = Reporter(quiet)
    found = installed(entry.name)
    if found is None:
        found = fetch(entry, reporter, yes, file)
    else:
        reporter.say(f"{entry.name} is installed: {found.path}")
    if json_output:
        print_json(_document(found))
    else:
        typer.echo(found.path)


def fetch(entry: Published, reporter: Reporter, yes: bool, file: str | None = None) -> Installed:
    """Say what an entry is, ask, and pull it with a progress display."""
    from dvis_cli.checkpoints.pull import plan, pull

    planned = plan(entry, file)
    _agree(planned, reporter, yes)
    size = planned.size
    with reporter.progress(entry.name, round(size / 1e6) if size else None, "MB") as bar:

        def on_bytes(done: int, total: int | None) -> None:
            bar.total = round(total / 1e6) if total else None
            bar.update(round(done / 1e6))

        found = pull(
            planned, on_bytes, lambda: reporter.say(f"{entry.name}: another process pulls it, waiting")
        )
    reporter.say(f"{found.path}: {_megabytes(found.size)}")
    return found


def _agree(planned: Plan, reporter: Reporter, yes: bool) -> None:
    """Show size and licence; without `--yes` somebody at a terminal must agree. Raises `UsageError`."""
    entry = planned.entry
    about = ", ".join(part for part in (entry.architecture, entry.data, entry.score) if part)
    lines = [
        f"{entry.name}: {about or 'nothing more is said of it'}",
        f"  from     {', '.join(file.address for file in planned.files)}",
        f"  size     {_megabytes(planned.size)}",
        f"  licence  {entry.licence}" + (f" ({entry.source})" if entry.source else ""),
    ]
    if yes:
        for line in lines:
            reporter.say(line)
        return
    print("\n".join(lines), file=sys.stderr)
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"{entry.name} was not fetched: without a terminal to ask at, --yes accepts its licence"
        )
    typer.confirm("Fetch it?", abort=True, err=True)


def make_ready(model: str | None, reporter: Reporter, yes: bool) -> None:
    """Pull the model that `--model` names if it can be pulled and is not on this machine."""
    from dvis_cli.checkpoints.registry import default_model, known_model, looks_like_file

    name = model if model is not None else default_model()
    if looks_like_file(name):
        return
    known = known_model(name)
    if not known.ready and known.published is not None:
        fetch(known.published, reporter, yes)


@app.command("add")
def add(
    file: Annotated[Path, typer.Argument(help="A weight file, or a folder of transformers.")],
    as_name: Annotated[str, typer.Option("--as", help="The name that --model will take.")],
    classes: Annotated[
        str | None, typer.Option(help="Its class list, such as coco_panoptic or vspw.")
    ] = None,
    semantic: Annotated[
        bool, typer.Option(help="It was trained for classes only: nothing is counted.")
    ] = False,
) -> None:
    """Copy a file of your own into the cache, under a name."""
    from dvis_cli.checkpoints.label_sets import label_set
    from dvis_cli.checkpoints.published import Published, check_name
    from dvis_cli.checkpoints.pull import add
    from dvis_cli.run.loading import inspect_weights

    reporter = Reporter()
    if classes is not None:
        label_set(classes)
    check_name(as_name)
    if not file.exists():
        raise CheckpointError(f"weights {file} do not exist")
    task: Any = "semantic" if semantic else "panoptic"
    entry = Published(as_name, "not known, added from a file", task, classes=classes)
    with reporter.warnings_as_lines():
        found = inspect_weights(file, entry.facts())
    if classes is not None and len(label_set(classes)) != found["classes"]:
        raise UsageError(f"{file} has {found['classes']} classes, {classes} has {len(label_set(classes))}")
    typer.echo(add(file, entry).path)


@app.command("info")
def info(
    name: Annotated[str, typer.Argument(help="A name from 'dvis weights list', or a weight file or folder.")],
    json_output: Json = False,
) -> None:
    """Say what weights are, and what a file on this machine holds, without running anything in it."""
    from dvis_cli.checkpoints.registry import known_model, looks_like_file

    found: dict[str, Any] = {}
    weights, facts = Path(name).expanduser(), None
    if not looks_like_file(name) and not weights.is_dir():
        known = known_model(name)
        facts = known.facts
        entry = known.published
        found = {**entry.document(), "address": entry.address} if entry else {"name": name}
        found["weights"] = str(known.weights) if known.weights else None
        weights = known.weights or Path()
    if not found or found["weights"]:
        from dvis_cli.run.loading import inspect_weights

        with Reporter().warnings_as_lines():
            found.update(inspect_weights(weights, facts))
    if json_output:
        return print_json(found)
    for key, value in found.items():
        typer.echo(f"{key:14} {value}")


@app.command("verify")
def verify(
    name: Annotated[str | None, typer.Argument(help="One name; without it all that apply.")] = None,
    remote: Annotated[
        bool, typer.Option(help="Check the addresses of the registry, fetching nothing.")
    ] = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare installed files with the checksums they came with, or the registry with its servers."""
    from dvis_cli.checkpoints.installed import installed_names
    from dvis_cli.checkpoints.published import all_published, published

    if remote:
        supported = [one for one in all_published().values() if not one.unsupported]
        entries = [published(name)] if name else supported
        checks = {entry.name: partial(_remote_problems, entry) for entry in entries}
    else:
        names = [name] if name else installed_names()
        checks = {one: partial(_local_problems, one) for one in names}
    rows = []
    with Reporter(quiet).progress("verify", len(checks), "models") as bar:
        for key, check in checks.items():
            rows.append({"name": key, "problems": check()})
            bar.advance()
    bad = [row for row in rows if row["problems"]]
    if json_output:
        print_json(rows)
    else:
        for row in rows:
            typer.echo(f"{row['name']:44} {'; '.join(row['problems']) or 'ok'}")
    if bad:
        raise CheckpointError(
            f"{len(bad)} of {len(rows)} are not as they should be, the first: {bad[0]['name']}"
        )


def _local_problems(name: str) -> list[str]:
    from dvis_cli.checkpoints.installed import installed, problems

    found = installed(name)
    if found is None:
        raise UsageError(f"{name!r} was not pulled or added; 'dvis weights list' shows what is installed")
    return problems(found)


def _remote_problems(entry: Published) -> list[str]:
    """What is wrong with an entry's address, size or checksum."""
    from dvis_cli.checkpoints.pull import plan

    try:
        planned = plan(entry)
    except UsageError as error:
        if entry.hub is not None and "match" in str(error):
            return [str(error)]
        raise
    except DvisError as error:
        return [str(error)]
    megabytes = (planned.size or 0) / 1e6
    if entry.size_mb and planned.size and not 0.9 <= megabytes / entry.size_mb <= 1.1:
        return [f"{megabytes:.0f} MB, the registry has {entry.size_mb:g}"]
    return []


@app.command("convert")
def convert(
    file: Annotated[
        str, typer.Argument(help="A whole model: a name, or any file that 'dvis segment' takes.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    half: Annotated[bool, typer.Option(help="Keep float16 numbers: half the size.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a model as one .safetensors file that carries its configuration and class list."""
    _check_target(out, overwrite)
    from dvis_cli.run.loading import load_model, save_weights

    reporter = Reporter()
    with reporter.warnings_as_lines():
        save_weights(load_model(file, device="cpu"), out, half=half)
    reporter.say(f"{out}: {_megabytes(out.stat().st_size)}")


@app.command("remove")
def remove(name: Annotated[str, typer.Argument(help="A name that was pulled or added.")]) -> None:
    """Delete installed weights, or what is left of an attempt to pull them."""
    from dvis_cli.checkpoints.installed import remove

    Reporter().say(f"removed {remove(name)}")


@app.command("path")
def path(
    name: Annotated[str | None, typer.Argument(help="Without it: the folder of all weights.")] = None,
) -> None:
    """Print where weights lie on this machine."""
    from dvis_cli.checkpoints.home import weights_folder
    from dvis_cli.checkpoints.registry import known_model
    from dvis_cli.run.loading import not_here

    if name is None:
        typer.echo(weights_folder())
        return
    known = known_model(name)
    if known.weights is None:
        raise UsageError(not_here(known))
    typer.echo(known.weights)


@app.command("random")
def random(
    model: Annotated[str, typer.Argument(help="A name from 'dvis models'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 7,
    overwrite: Overwrite = False,
) -> None:
    """Write a model of noise, to measure speed and memory without trained weights."""
    _check_target(out, overwrite)
    from dvis_cli.checkpoints.registry import known_model
    from dvis_cli.run.loading import categories_of, save_weights
    from dvis_cli.run.noise import random_model

    config = known_model(model).config
    save_weights(random_model(config, categories_of(config), seed), out)
    Reporter().say(f"{out}: {model}, random weights from seed {seed}")


def _document(found: Installed) -> dict[str, Any]:
    files = {name: digest.sha256 for name, digest in found.files.items()}
    return {**found.entry.document(), "path": str(found.path), "bytes": found.size, "sha256": files}


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:.1f} MB"


def _check_target(out: Path, overwrite: bool) -> None:
    if out.suffix != ".safetensors":
        raise OutputError(f"{out}: the file must end in .safetensors")
    if out.exists() and not overwrite:
        raise OutputError(f"{out} exists; --overwrite replaces it")
