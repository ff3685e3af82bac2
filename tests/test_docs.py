"""The documentation against the program: every command and option is described, every README command runs."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import media
import pytest
import typer

from dvis_cli.cli import app
from dvis_cli.cli.export import ANY
from dvis_cli.export.formats import parse_formats

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "weights" / "README.md"]
BOILERPLATE = {"--help", "--install-completion", "--show-completion"}


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its full name."""
    subcommands = getattr(command, "commands", None)
    if subcommands:
        for name, sub in subcommands.items():
            yield from commands(sub, (*path, name))
    else:
        yield path, command


ALL = dict(commands(typer.main.get_command(app)))


def test_the_command_page_is_what_the_commands_say() -> None:
    spec = importlib.util.spec_from_file_location("commands", ROOT / "docs" / "commands.py")
    assert spec and spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.page() == made.PAGE.read_text(), "run python docs/commands.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_no_option_is_made_up(page: Path) -> None:
    known = {o for c in ALL.values() for p in c.params for o in (*p.opts, *p.secondary_opts)}
    known |= {"--help", "--version", "--debug"}
    for line in re.findall(r"`dvis [^`]*`", page.read_text()):
        assert set(re.findall(r"(?<=\s)--[a-z-]+", line)) <= known, f"{page.name}: {line}"


def shell_lines(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", " ")
    return [line.split("#")[0].strip() for line in text.splitlines() if line.strip().startswith("dvis ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_in_the_pages_exist(page: Path) -> None:
    """Every `dvis ...` line of every page names a real command and real options."""
    for line in shell_lines(page):
        words = shlex.split(line)[1:]
        if words[0] == "export" and ("export", words[1]) not in ALL:  # a list of formats
            parse_formats(words[1].split(","))
            words[1] = ANY
        names = [path for path in ALL if tuple(words[: len(path)]) == path]
        if not names:
            assert words[0].startswith("-"), line
            continue
        known = {o for p in ALL[names[0]].params for o in (*p.opts, *p.secondary_opts)} | BOILERPLATE
        used = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= known, f"{page.name}: {line}: unknown {used - known}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("line, name", [(0, "street"), (1, "input")])
def test_the_readmes_first_commands_run(tmp_path: Path, line: int, name: str) -> None:
    command = shell_lines(ROOT / "README.md")[line]
    assert command == f"dvis segment {'--demo' if name == 'street' else 'input.mp4'} -o out"
    media.write_video(tmp_path / "input.mp4", media.moving_squares(3, 64, 96), fps=10)
    done = subprocess.run(
        [sys.executable, "-m", "dvis_cli", *shlex.split(command)[1:], "--max-frames", "3"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = sorted(p.name for p in (tmp_path / "out" / name).iterdir())
    assert names == ["overlay.mp4", "panoptic", "segments.json"]


def test_the_readmes_python_runs(tmp_path: Path) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)[0]
    assert '"DVIS_offline_R50.pth"' in code
    media.write_video(tmp_path / "input.mp4", media.moving_squares(3, 64, 96), fps=10)
    code = code.replace('"DVIS_offline_R50.pth"', '"tiny"')
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("0 [")
