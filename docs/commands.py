"""Write docs/commands.md from what the commands say of themselves: `python docs/commands.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from dvis_cli.cli import app

PAGE = Path(__file__).with_suffix(".md")
BOILERPLATE = {"--help", "--install-completion", "--show-completion"}
HEAD = """# Commands

Every command and option, as `dvis COMMAND --help` prints them. `python docs/commands.py` makes this page; what to
do with them is on the [usage](usage.md) page.
"""


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below a group, with its full name."""
    subcommands = getattr(command, "commands", None)
    if not subcommands:
        yield path, command
        return
    for name, sub in subcommands.items():
        yield from commands(sub, (*path, name))


def page() -> str:
    """The text of docs/commands.md."""
    found = commands(typer.main.get_command(app))
    return HEAD + "".join(_section(" ".join(path), command) for path, command in found)


def _section(name: str, command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    usage = " ".join([name, "[OPTIONS]", *map(_usage, arguments)])
    text = f"\n## `dvis {name}`\n\n{_prose(command.help or '')}\n\n```\ndvis {usage}\n```\n"
    options = [p for p in command.params if p.param_type_name == "option" and not set(p.opts) & BOILERPLATE]
    rows: dict[str, list[str]] = {}
    for parameter in options:
        panel = getattr(parameter, "rich_help_panel", None) or ""
        rows.setdefault(panel, []).append(_row(parameter))
    for argument in arguments:
        if argument.help:
            text += f"\n`{argument.metavar or argument.name.upper()}`: {_prose(argument.help)}\n"
    for panel in sorted(rows, key=bool):
        text += f"\n| {panel or 'option'} | default | |\n|---|---|---|\n" + "".join(rows[panel])
    return text


def _usage(argument: Any) -> str:
    """An argument in the line of usage, which every version of typer would write in its own way."""
    name = argument.metavar or argument.name.upper()
    name += "..." if argument.nargs == -1 and not name.endswith("...") else ""
    return name if argument.required else f"[{name}]"


def _row(parameter: Any) -> str:
    names = [f"`{name}`" for name in parameter.opts]
    if not parameter.is_flag and (values := _values(parameter)):
        names[0] = names[0][:-1] + f" {values}`"
    off = [f"`{name}`" for name in parameter.secondary_opts]
    all_names = ", ".join(names) + (" / " + ", ".join(off) if off else "")
    return f"| {all_names} | {_default(parameter)} | {_prose(parameter.help or '')} |\n"


def _values(parameter: Any) -> str:
    if parameter.metavar:
        return parameter.metavar.replace("|", "\\|")
    descriptor = getattr(parameter, "type_descriptor", None)
    if descriptor is None:  # typer before 0.27
        choices = getattr(parameter.type, "choices", None) or parameter.type.name.split()[0]
    else:
        choices = descriptor.annotation
    if get_origin(choices) is list:
        choices = get_args(choices)[0]
    if get_origin(choices) is Literal:
        choices = get_args(choices)
    if isinstance(choices, type | str):
        return {int: "N", float: "X", "integer": "N", "float": "X"}.get(choices, "")
    return "\\|".join(map(str, choices))


def _default(parameter: Any) -> str:
    value = parameter.default
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None or callable(value) else f"`{value}`"


def _prose(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
