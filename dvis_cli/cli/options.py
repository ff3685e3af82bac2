"""Options of the command line from the fields of an options record (`run/options.py`)."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field
from functools import wraps
from typing import Annotated, Any, Union

import typer

from dvis_cli.run.options import Option, option_fields

# Options that many commands have.
Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes. Default: all cores.")]


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one parameter for each field of its options records, which it gets filled in.

    A parameter whose annotation is a dataclass with `option` fields is such a record.
    """
    signature = inspect.signature(command, eval_str=True)
    records = {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if hasattr(parameter.annotation, "__dataclass_fields__")
    }
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        one = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        parameters += _parameters(records[name]) if name in records else [one]

    @wraps(command)
    def filled(**values: Any) -> Any:
        for name, kind in records.items():
            values[name] = kind(
                **{
                    field.name: _value(field, look, values.pop(field.name))
                    for field, look in option_fields(kind)
                }
            )
        return command(**values)

    filled.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    filled.__annotations__ = {one.name: one.annotation for one in parameters}
    return filled


def _parameters(record: type) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(record)
    found = []
    for field, look in option_fields(record):
        declared = (
            typer.Argument(metavar=look.metavar, help=look.help, show_default=False)
            if look.argument
            else typer.Option(
                *look.flags, metavar=look.metavar, help=look.help, min=look.min, rich_help_panel=look.panel
            )
        )
        default = {MISSING: inspect.Parameter.empty, (): None}.get(field.default, field.default)
        default = None if look.parse else default  # it reads texts; None is the default's
        shown, kind = _shown_type(hints[field.name], look), inspect.Parameter.KEYWORD_ONLY
        found.append(
            inspect.Parameter(field.name, kind, default=default, annotation=Annotated[shown, declared])
        )
    return found


def _shown_type(hint: Any, look: Option) -> Any:
    """The annotation from which Typer reads a field's text."""
    if look.parse is not None:
        return str | None
    if typing.get_origin(hint) in (Union, types.UnionType):
        inner = next(one for one in typing.get_args(hint) if one is not type(None))
        return _shown_type(inner, look) | None
    if typing.get_origin(hint) is tuple:
        return list[typing.get_args(hint)[0]] | None  # type: ignore[misc]
    return hint


def _value(field: Field[Any], look: Option, value: Any) -> Any:
    """What the record holds for what Typer read."""
    if look.parse is not None:
        return look.parse(value, "--" + field.name.replace("_", "-"))
    if isinstance(value, list) or isinstance(field.default, tuple):
        return tuple(value or ())
    return value
