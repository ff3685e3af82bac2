"""A page of HTML from its parts: one file that runs its own script and nothing else, whatever the names in it are."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from string import Template


def fill_page(page: Path, scripts: Sequence[str], data: str, sources: str = "", **values: str) -> str:
    """The text of a page.

    Args:
        page: its template; the style sheet beside it has its name and `.css`.
        scripts: file names beside it.
        data: JSON, which is escaped here.
        sources: what it may load beside pictures that lie beside it, as a Content-Security-Policy says it.
        values: for the template's other places, escaped where they need to be.
    """
    script = "\n".join(page.with_name(name).read_text(encoding="utf-8") for name in scripts)
    style = page.with_suffix(".css").read_text(encoding="utf-8")
    for character in "<>&\u2028\u2029":
        data = data.replace(character, f"\\u{ord(character):04x}")
    return Template(page.read_text(encoding="utf-8")).substitute(
        POLICY=f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; {sources}"
        "img-src 'self' file:; base-uri 'none'; form-action 'none'",
        STYLE=style,
        SCRIPT=script,
        DATA=data,
        **values,
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
