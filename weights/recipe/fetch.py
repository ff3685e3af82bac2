"""Fetch the packages that sources.json lists, check the files that are used, and join ISNet's model file.

    python fetch.py DATA      -> DATA/raw/<package>/..., DATA/isnet.onnx

Uses apt-get, pip and npm as they are set up here. Debian keeps one version of a package: another one than
listed is taken if its files have the listed checksums.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path

from isnet import assemble

SOURCES = Path(__file__).parent / "sources.json"


def fetch(source: dict, downloads: Path, folder: Path) -> None:
    """Download one package and unpack it into ``folder``."""
    name, version = source["name"], source["version"]
    before = set(downloads.iterdir())
    if source["registry"] == "debian":
        subprocess.run(["apt-get", "download", name], cwd=downloads, check=True)
    elif source["registry"] == "pypi":
        wanted = [f"{name}=={version}", "--no-deps", "-d", "."]
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", *wanted], cwd=downloads, check=True)
    else:
        subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=downloads, check=True)
    (package,) = set(downloads.iterdir()) - before
    folder.mkdir(parents=True, exist_ok=True)
    if source["registry"] == "debian":
        subprocess.run(["dpkg", "-x", package, folder], check=True)
    elif source["registry"] == "pypi":
        with zipfile.ZipFile(package) as archive:
            archive.extractall(folder)
    else:
        subprocess.run(["tar", "-xf", package, "-C", folder], check=True)
    package.unlink()


def wrong(source: dict, folder: Path) -> list[str]:
    """The listed files that are absent or have another checksum."""
    out = []
    for name, checksum in source["files"].items():
        path = folder / name
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != checksum:
            out.append(name)
    return out


def main(root: Path) -> None:
    downloads = root / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    for source in json.loads(SOURCES.read_text()):
        folder = root / "raw" / source.get("folder", source["name"])
        if wrong(source, folder):
            fetch(source, downloads, folder)
        missing = wrong(source, folder)
        if missing:
            raise SystemExit(
                f"{source['name']} {source['version']}: {missing[0]} is absent or not the file that was labelled"
            )
        print(source["name"], source["version"], source["licence"], sep="  ", flush=True)
    if not (root / "isnet.onnx").is_file():
        assemble(root / "raw" / "background-removal-data" / "package", root / "isnet.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
