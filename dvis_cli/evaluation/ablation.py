"""What each run of a comparison did that the first one did not: the rows of the report's table 3."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUN_SETTINGS = "run.json"  # beside pred.json, where `dvis segment --dataset` made the run
_UNIMPORTANT = ("dvis_version", "input_sizes")


def methods(runs: Sequence[Path]) -> list[str]:
    """A name for what each run is: "Baseline" for the first, "+ multi scale (720, 800)" and the like for others.

    A run that does not say how it was made, such as a zip from elsewhere, is called by its name.
    """
    settings = [_settings_of(run) for run in runs]
    first = settings[0]
    names = ["Baseline"]
    for run, own in zip(runs[1:], settings[1:], strict=True):
        if first is None or own is None:
            names.append(run.name or str(run))
        else:
            names.append(", ".join(_differences(first, own)) or "same settings")
    return names


def _differences(first: dict[str, Any], own: dict[str, Any]) -> list[str]:
    found = []
    scales, base_scales = own.get("scales") or [], first.get("scales") or []
    if scales != base_scales:
        listed = ", ".join(map(str, scales))
        found.append(f"+ multi scale ({listed})" if len(scales) > 1 else f"scale {listed}")
    if own.get("flip") != first.get("flip"):
        found.append("+ flip" if own.get("flip") else "no flip")
    for key in dict.fromkeys((*first, *own)):
        if key in ("scales", "flip", *_UNIMPORTANT) or own.get(key) == first.get(key):
            continue
        value, base = own.get(key), first.get(key)
        if isinstance(value, dict) and isinstance(base, dict):
            found += [f"{key} {name} {value[name]}" for name in value if value[name] != base.get(name)]
        else:
            found.append(f"{key} {value}")
    return found


def _settings_of(run: Path) -> dict[str, Any] | None:
    try:
        document = json.loads((run / RUN_SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None
