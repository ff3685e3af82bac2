"""Fill the tables of docs/performance.md from docs/measurements/*.json, and draw its picture.

`python docs/performance.py`; the tests check that it was run.
A table stands between `<!-- NAME -->` and `<!-- end -->`; what is outside is written by hand.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE, PICTURE = HERE / "performance.md", HERE / "images" / "frame-time.svg"
COLOURS = ("#4c78a8", "#72b7b2", "#54a24b", "#eeca3b", "#f58518", "#e45756", "#b279a2", "#9d755d", "#bab0ac")
WIDTH, BAR, GAP, LEFT = 900, 26, 40, 170  # pixels


def measurements() -> dict[str, dict[str, Any]]:
    """Every recorded `dvis bench --json`, by file name."""
    return {
        path.stem: json.loads(path.read_text()) for path in sorted((HERE / "measurements").glob("*.json"))
    }


def tables(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {
        "speed": _table(
            "measurement | precision | input | GFLOP | network, frames/s | of a matrix product | "
            "file to files, frames/s | outside the network | peak of RAM | growth a frame",
            [_speed(name, one) for name, one in found.items()],
        ),
        "stages": _table(
            "measurement | stage | ms | GFLOP | of a matrix product",
            [
                [
                    name,
                    stage["stage"],
                    f"{stage['ms']:.0f}",
                    f"{stage['gflop']:.1f}",
                    f"{stage['share_of_peak']:.0%}",
                ]
                for name, one in found.items()
                for stage in one["network"]["stages"]
            ],
        ),
        "threads": _table(
            "measurement | thread | ms a frame",
            [[name, thread, parts] for name, one in found.items() for thread, parts in _threads(one)],
        ),
        "against": _table(
            "measurement | dvis, s | transformers, s | times | with our allocator settings, s | times",
            [_against(name, one["against"]) for name, one in found.items() if one["against"]],
        ),
        "machines": _table(
            "measurement | date | machine | command",
            [[name, one["date"], _machine(one), f"`{one['command']}`"] for name, one in found.items()],
        ),
    }


def _speed(name: str, one: dict[str, Any]) -> list[str]:
    network, files = one["network"], one["files"]
    growth = files["memory"]["slope_a_frame"]
    return [
        name,
        one["model"]["precision"],
        "{} x {}".format(*network["input"]),
        f"{network['gflop']:.0f}",
        f"{network['fps']:.2f}",
        f"{network['share_of_peak']:.0%} of {one['peak_gflops']:.0f} GFLOP/s",
        f"{files['fps']:.2f}",
        f"{files['outside_network']:.0%}",
        f"{files['memory']['ram'] / 2**20:.0f} MiB",
        "" if growth is None else f"{growth / 2**10:.1f} KiB",
    ]


def _threads(one: dict[str, Any]) -> list[tuple[str, str]]:
    threads: dict[str, list[str]] = {}
    for stage in one["files"]["stages"]:
        threads.setdefault(stage["thread"], []).append(f"{stage['stage']} {stage['ms']:.1f}")
    return [(thread, ", ".join(parts)) for thread, parts in threads.items()]


def _against(name: str, rival: dict[str, Any]) -> list[str]:
    seconds, times = rival["seconds"], rival["times"]
    row = [name, f"{seconds['dvis']:.2f}"]
    for kind in ("transformers", "transformers, our allocator settings"):
        row += [f"{seconds[kind]:.2f}", f"{times[kind]:.2f}"] if kind in seconds else ["", ""]
    return row


def _machine(one: dict[str, Any]) -> str:
    machine = one["machine"]
    processor = f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores"
    return f"{machine['gpu'] or processor}; PyTorch {machine['torch']}"


def _table(head: str, rows: list[list[str]]) -> str:
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def picture(found: dict[str, dict[str, Any]]) -> str:
    """A bar for each measurement: shares of a frame's time in the main thread."""
    names = list(dict.fromkeys(s["stage"] for one in found.values() for s in _main(one)))
    colour = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    parts, y = [], GAP
    for title, one in found.items():
        stages, x = _main(one), float(LEFT)
        whole = sum(stage["ms"] for stage in stages)
        parts.append(f'<text x="{LEFT - 8}" y="{y + 17}" text-anchor="end">{title}</text>')
        for stage in stages:
            width = stage["ms"] / whole * (WIDTH - LEFT - 110)
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour[stage["stage"]]}"/>'
            )
            x += width
        parts.append(f'<text x="{x + 8:.1f}" y="{y + 17}">{whole:.0f} ms</text>')
        y += GAP
    for number, name in enumerate(names):
        x, row = LEFT + number % 4 * 180, y + number // 4 * 22
        parts.append(f'<rect x="{x}" y="{row}" width="12" height="12" fill="{colour[name]}"/>')
        parts.append(f'<text x="{x + 17}" y="{row + 11}">{name}</text>')
    height = y + (len(names) + 3) // 4 * 22 + 10
    style = 'font-family="sans-serif" font-size="13" fill="#555"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" {style}>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _main(one: dict[str, Any]) -> list[dict[str, Any]]:
    """Stages of the main thread that take a hundredth of it or more, the others as one."""
    stages = [s for s in one["files"]["stages"] if s["thread"] == "main"]
    whole = sum(stage["ms"] for stage in stages)
    large = [s for s in stages if s["ms"] >= whole / 100 and s["stage"] != "everything else"]
    rest = whole - sum(stage["ms"] for stage in large)
    return [*large, {"stage": "everything else", "ms": rest}]


def page(text: str) -> str:
    """The page with its tables filled in."""
    for name, table in tables(measurements()).items():
        text, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda m, t=table: f"{m[1]}{t}\n{m[2]}",
            text,
            flags=re.S,
        )
        assert count == 1, name
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    PICTURE.write_text(picture(measurements()))
