"""Debug files by build-id from the servers the user named in DEBUGINFOD_URLS (debuginfod(8)).

Nothing is asked of anybody unless that variable is set. What was fetched is kept under
$XDG_CACHE_HOME/leaktrace/debuginfod and never asked for again.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from leaktrace.elf import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.symbols.names import printable

_MAX_BYTES = 4 << 30
_PIECE_BYTES = 1 << 20
_DEADLINE_S = 600  # for a whole file; the time-out is for each piece
_MIN_BUILD_ID = 8  # hexadecimal digits


class DebuginfodError(Exception):
    """Why no server gave the file, one line."""


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where fetched files are kept."""
    base = environment.get("XDG_CACHE_HOME", "")
    cache = Path(base) if base.startswith("/") else Path(environment.get("HOME", "/")) / ".cache"
    return cache / "leaktrace" / "debuginfod"


def fetch(build_id: str, timeout_s: float, environment: Mapping[str, str] = os.environ) -> Path:
    """The debug file of a build-id, from the cache or a server. Raises DebuginfodError."""
    if len(build_id) < _MIN_BUILD_ID or build_id.strip("0123456789abcdef"):
        raise DebuginfodError("no build-id that a server could know")
    kept = cache_directory(environment) / build_id / "debuginfo"
    if kept.is_file():
        return kept
    failures = []
    for server in environment.get("DEBUGINFOD_URLS", "").split():
        address = f"{server.rstrip('/')}/buildid/{build_id}/debuginfo"
        try:
            _download(address, kept, build_id, timeout_s)
        except DebuginfodError as error:
            failures.append(f"{_host(server)}: {error}")
        else:
            return kept
    raise DebuginfodError("; ".join(failures) or "DEBUGINFOD_URLS is not set")


def _host(server: str) -> str:
    try:
        return printable(urllib.parse.urlsplit(server).hostname or server)
    except ValueError:
        return printable(server)


def _download(address: str, kept: Path, build_id: str, timeout_s: float) -> None:
    if not address.startswith(("http://", "https://")):
        raise DebuginfodError("not an http address")
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "leaktrace"})
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            _keep(answer, kept, build_id)
    except ObjectFileError as error:
        raise DebuginfodError(error.message) from error
    except urllib.error.HTTPError as error:
        error.close()
        reason = "does not have it" if error.code == 404 else f"HTTP status {error.code}"
        raise DebuginfodError(reason) from error
    except urllib.error.URLError as error:
        raise DebuginfodError(printable(str(error.reason))) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DebuginfodError(printable(str(error) or type(error).__name__)) from error


def _keep(answer: http.client.HTTPResponse, kept: Path, build_id: str) -> None:
    """Writes the answer beside its place and moves it there, whole and checked."""
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=kept.parent, prefix=".download-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            _copy(answer, file)
        with ElfObject.open(name, shown="its answer") as elf:
            if elf.build_id != build_id:
                raise DebuginfodError("the file it gave is of another build")
        Path(name).replace(kept)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def _copy(answer: http.client.HTTPResponse, file: BinaryIO) -> None:
    promised = answer.length
    received = 0
    deadline = time.monotonic() + _DEADLINE_S
    while piece := answer.read(_PIECE_BYTES):
        received += len(piece)
        if received > _MAX_BYTES:
            raise DebuginfodError(f"sends more than {_MAX_BYTES >> 30} GiB")
        if time.monotonic() > deadline:
            raise DebuginfodError(f"takes more than {_DEADLINE_S} s")
        file.write(piece)
    if promised is not None and received != promised:
        raise DebuginfodError("the connection broke off")
