"""The house rules, checked from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "dvis_cli"
FILES = sorted(PACKAGE.rglob("*.py"))
STAGES = (
    "video",
    "segmenter",
    "tracker",
    "refiner",
    "fusion",
    "tasks",
    "writers",
    "datasets",
    "checkpoints",
)

# A room may import rooms of a larger number, or itself. Rooms of equal number never import one another.
LEVELS = {
    "__main__": -2,
    "cli": -1,
    "training": 0,
    "batch": 1,
    "bench": 1,
    "challenge": 1,
    "run": 2,
    "export": 2.5,  # a video that runs can be exported, too
    **dict.fromkeys(STAGES, 3),
    "layers": 4,
    "demux": 4,
    "structures": 5,
    "coco_masks": 6,
    "config": 6,
    "files": 6,
    "threads": 6,
    "errors": 7,
    "__init__": 8,  # the version; what it re-exports is imported lazily
}


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """Rooms of this package that a file imports, at any depth of its code."""
    package = ("dvis_cli", *path.relative_to(PACKAGE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "dvis_cli":
                top = parts[1] if len(parts) > 1 else "__init__"
                found.add(top if top in LEVELS else "__init__")
    return found


def imports_at_the_top(path: Path) -> set[Path]:
    """Files of this package that a file imports when it is loaded itself."""
    package = path.relative_to(PACKAGE.parent).parent.parts
    found: set[Path] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = Path(*base, *(node.module or "").split("."))
            for name in (stem, *(stem / alias.name for alias in node.names)):
                file = PACKAGE.parent / name.with_suffix(".py")
                found |= {file} if file in FILES else set()
    return found - {path}


def test_no_import_goes_in_a_circle() -> None:
    done: set[Path] = set()

    def follow(path: Path, way: tuple[Path, ...]) -> None:
        assert path not in way, " -> ".join(str(one.relative_to(PACKAGE)) for one in (*way, path))
        if path not in done:
            for other in imports_at_the_top(path):
                follow(other, (*way, path))
            done.add(path)

    for path in FILES:
        follow(path, ())


def test_no_function_has_more_than_twelve_parameters() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if any("triton.jit" in ast.unparse(decorator) for decorator in node.decorator_list):
                    continue  # a kernel takes numbers and pointers, no records
                count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
                assert count <= 12, f"{path.relative_to(PACKAGE)}: {node.name}"


def test_every_room_has_a_level() -> None:
    assert {room(path) for path in FILES} <= set(LEVELS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return  # its imports are for type checkers only
    here = room(path)
    for target in imported_rooms(path) - {here}:
        assert LEVELS[target] > LEVELS[here], f"{path.relative_to(PACKAGE)} imports {target}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 420, "a file is about 400 lines at the most"
    assert "utils" not in path.name
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "say in one line what the file is for"


def test_the_story_of_a_video_is_short() -> None:
    assert len((PACKAGE / "run" / "video.py").read_text().splitlines()) < 200


def test_tests_stay_readable() -> None:
    for path in Path(__file__).parent.glob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, f"{path.name}: split it by subject"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["segment", "--help"]])
def test_help_is_light(arguments: list[str]) -> None:
    code = (
        "import sys, dvis_cli.cli as c\n"
        f"sys.argv = ['dvis', *{arguments!r}]\n"
        "try:\n    c.main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'cv2', 'av', 'numpy', 'scipy', 'torchvision'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_nothing() -> None:
    code = "import sys, dvis_cli; assert dvis_cli.__version__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_network_does_not_load_the_compiler() -> None:
    """`torch._dynamo` and what comes with it takes as long to import as the rest of torch."""
    code = "import sys, dvis_cli.run.video; assert 'torch' in sys.modules; assert 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
