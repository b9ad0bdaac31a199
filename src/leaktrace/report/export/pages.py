"""One HTML page that needs no network: template, styles, scripts, libraries and data in one file.

A policy in the page (Content-Security-Policy) forbids it to load or send anything, and to run any
script but those that leaktrace wrote: they are named by their SHA-256. Data from the target is in
a block that is not a script, and is never put into the page as HTML.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import BinaryIO

from leaktrace import __version__

# In the order in which they need each other.
_LIBRARIES = (
    "d3-array",
    "d3-color",
    "d3-dispatch",
    "d3-ease",
    "d3-format",
    "d3-hierarchy",
    "d3-interpolate",
    "d3-time",
    "d3-time-format",
    "d3-timer",
    "d3-selection",
    "d3-transition",
    "d3-scale",
    "d3-flame-graph",
)
_LICENSES = ("LICENSE.d3", "LICENSE.d3-ease", "LICENSE.d3-flame-graph")

# Nothing but what is in the file.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src {}; base-uri 'none'"
_POLICY += "; form-action 'none'"

_FIELD = re.compile(r"\{\{(\w+)\}\}")
_IN_SCRIPT = str.maketrans({"<": r"\u003c", ">": r"\u003e", "&": r"\u0026"})


def write_page(
    output: BinaryIO,
    template: str,
    *,
    title: str,
    styles: Sequence[str],
    scripts: Sequence[str],
    data: object,
    parts: Mapping[str, str] | None = None,
) -> None:
    """Write a page from the files in `pages/`. `parts` are HTML for further fields of the
    template. Raises OSError."""
    libraries = "\n".join(_vendored(f"{name}.min.js") for name in _LIBRARIES)
    own = "\n".join(page_file(name) for name in scripts)
    fields = {
        "policy": _POLICY.format(f"{_hash_of(libraries)} {_hash_of(own)}"),
        "title": html.escape(title),
        "version": html.escape(__version__),
        "styles": "\n".join(page_file(name) for name in styles),
        "libraries": libraries,
        "scripts": own,
        "licenses": "\n\n".join(_vendored(name) for name in _LICENSES),
        "data": in_script(data),
        **(parts or {}),
    }
    # In one pass: what was put in is not searched for fields.
    page = _FIELD.sub(lambda found: fields[found[1]], page_file(template))
    output.write(page.encode())


def in_script(data: object) -> str:
    """JSON that can't end the block it is in. It is ASCII, so has no U+2028 either."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.translate(_IN_SCRIPT)


def _hash_of(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def page_file(name: str) -> str:
    """The text of a file in `pages/`."""
    return (resources.files(__package__) / "pages" / name).read_text(encoding="utf-8")


def _vendored(name: str) -> str:
    return (resources.files(__package__) / "vendor" / name).read_text(encoding="utf-8")
