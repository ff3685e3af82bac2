"""Print the lowest versions that pyproject.toml allows: `python .ci/lowest.py > .ci/lowest.txt`."""

from __future__ import annotations

import re
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

LINTERS = ("ruff", "mypy", "types-")  # judge the code, not its run


def lowest(requirements: list[str]) -> list[str]:
    """`name==version` of every requirement that names a lower bound."""
    found = []
    for requirement in requirements:
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([^,;\s]+)", requirement)
        if match and not match[1].startswith(LINTERS):
            found.append(f"{match[1]}=={match[2]}")
    return found


def main() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    parts = ("train", "heif", "hub", "parquet", "test")  # all that the tests use
    wanted = [*project["dependencies"], *(one for part in parts for one in extras[part])]
    print("\n".join(["# Made by `python .ci/lowest.py` from pyproject.toml.", *sorted(set(lowest(wanted)))]))


if __name__ == "__main__":
    main()
