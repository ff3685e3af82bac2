"""What goes into the packages that users install, and that the list of lowest versions is in step."""

from __future__ import annotations

import email
import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
MB = 2**20


def _script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_the_wheel_has_types_notices_and_the_model(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (metadata,) = (email.message_from_bytes(file.read(n)) for n in names if n.endswith("/METADATA"))
    assert {
        "dvis_cli/py.typed",
        "dvis_cli/bundled/dvis-lite.safetensors",
        "dvis_cli/bundled/street.mp4",
        *(
            f"dvis_cli/writers/report/{name}"
            for name in ("page.html", "page.css", "maps.js", "picture.js", "page.js", "table.js")
        ),
        *(f"dvis_cli/batch/index.{kind}" for kind in ("html", "css", "js")),
    } <= names
    assert {Path(n).name for n in names if "/licenses/" in n} == {"LICENSE", "NOTICE"}
    assert {"Typing :: Typed", "Programming Language :: Python :: 3.10"} <= set(
        metadata.get_all("Classifier")
    )
    assert not metadata.get_all("Project-URL")  # none is published yet; none is invented
    assert "](docs/" not in metadata.get_payload() and "](weights/" not in metadata.get_payload()


def test_the_sdist_is_what_a_wheel_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    (wheel,) = built.glob("*.whl")
    with tarfile.open(sdist) as file:
        folders = {name.split("/")[1] for name in file.getnames()}
    assert "tests" not in folders and "docs" not in folders
    assert sdist.stat().st_size < wheel.stat().st_size + MB


def test_readme_links_of_a_package_index() -> None:
    index_readme = _script(ROOT / "hatch_build.py").index_readme
    text = "![a](docs/a.jpg) [b](docs/b.md) [c](https://c.org) [d](#d)"
    assert index_readme(text, "") == " b [c](https://c.org) [d](#d)"
    assert index_readme(text, "https://x.org/r/") == (
        "![a](https://x.org/r/docs/a.jpg) [b](https://x.org/r/docs/b.md) [c](https://c.org) [d](#d)"
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is of Python 3.11")
def test_lowest_versions_are_in_step() -> None:
    done = subprocess.run(
        [sys.executable, ".ci/lowest.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == (ROOT / ".ci" / "lowest.txt").read_text(), (
        "run python .ci/lowest.py > .ci/lowest.txt"
    )
