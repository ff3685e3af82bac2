"""The README as a package index shows it, where relative links lead nowhere and no picture has an address.

With `DVIS_README_BASE=https://...` at build time links and pictures point below that address; without it (nobody has
published one yet) pictures give way to their captions and links to their texts.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)\s]+)\)")


def index_readme(text: str, base: str) -> str:
    """Markdown whose links are all absolute, or gone."""

    def replace(match: re.Match[str]) -> str:
        picture, label, target = match.groups()
        if base:
            return f"{picture}[{label}]({base.rstrip('/')}/{target})"
        return "" if picture else label

    return re.sub(r"\n{3,}", "\n\n", LINK.sub(replace, text))


class ReadmeHook(MetadataHookInterface):
    """Fills in `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": index_readme(text, os.environ.get("DVIS_README_BASE", "")),
        }
