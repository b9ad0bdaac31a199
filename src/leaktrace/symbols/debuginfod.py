"""Debug files by build-id from the servers the user named in DEBUGINFOD_URLS (debuginfod(8)).

Nothing is asked of anybody unless that variable is set. What was fetched is kept under
$XDG_CACHE_HOME/leaktrace/debuginfod and never asked for again.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import BinaryIO

from leaktrace.cache_directory import (
    UnusableCacheError,
    open_cache,
    open_kept,
    open_new,
    user_cache_directory,
)
from leaktrace.elf import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.symbols.names import printable

_MAX_BYTES = 4 << 30
_PIECE_BYTES = 1 << 20
_DEADLINE_S = 600  # for a whole file; the time-out is for each piece
_MIN_BUILD_ID = 8  # hexadecimal digits
_PURPOSE = "debuginfod"  # our directory's name; in it, one a build-id
_NAME = "debuginfo"


class DebuginfodError(Exception):
    """Why no server gave the file, one line."""


def fetch(build_id: str, timeout_s: float) -> ElfObject:
    """The debug file of a build-id, from the cache or a server.

    Raises DebuginfodError, ObjectFileError where the one in the cache is damaged.
    """
    if len(build_id) < _MIN_BUILD_ID or build_id.strip("0123456789abcdef"):
        raise DebuginfodError("no build-id that a server could know")
    servers = os.environ.get("DEBUGINFOD_URLS", "").split()
    home = user_cache_directory()
    if home is None:
        raise DebuginfodError("there is no home directory to keep files in")
    try:
        kept = _kept(home, build_id)
    except DebuginfodError:
        if servers:
            raise
        kept = None
    if kept is not None:
        return kept
    failures = []
    for server in servers:
        address = f"{server.rstrip('/')}/buildid/{build_id}/debuginfo"
        try:
            return _download(address, home, build_id, timeout_s)
        except DebuginfodError as error:
            failures.append(f"{_host(server)}: {error}")
    raise DebuginfodError("; ".join(failures) or "DEBUGINFOD_URLS is not set")


def _kept(home: Path, build_id: str) -> ElfObject | None:
    """What was fetched before."""
    try:
        with open_cache(home, _PURPOSE, build_id, create=False) as directory:
            descriptor = open_kept(directory, _NAME)
    except FileNotFoundError:
        return None
    except (OSError, UnusableCacheError) as error:
        raise _unusable(home, error) from error
    shown = str(home / "leaktrace" / _PURPOSE / build_id)
    try:
        return ElfObject.open(descriptor, shown, lambda: _open_again(home, build_id))
    finally:
        os.close(descriptor)


def _open_again(home: Path, build_id: str) -> int:
    try:
        with open_cache(home, _PURPOSE, build_id, create=False) as directory:
            return open_kept(directory, _NAME)
    except UnusableCacheError as error:
        raise ObjectFileError(str(error)) from error


def _unusable(home: Path, error: OSError | UnusableCacheError) -> DebuginfodError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return DebuginfodError(
        printable(f"files can't be kept below {home}, set XDG_CACHE_HOME to another: {reason}")
    )


def _host(server: str) -> str:
    try:
        return printable(urllib.parse.urlsplit(server).hostname or server)
    except ValueError:
        return printable(server)


def _download(address: str, home: Path, build_id: str, timeout_s: float) -> ElfObject:
    if not address.startswith(("http://", "https://")):
        raise DebuginfodError("not an http address")
    try:
        request = urllib.request.Request(address, headers={"User-Agent": "leaktrace"})
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return _keep(answer, home, build_id)
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


def _keep(answer: http.client.HTTPResponse, home: Path, build_id: str) -> ElfObject:
    """Writes the answer beside its place and moves it there, whole and checked."""
    try:
        with open_cache(home, _PURPOSE, build_id, create=True) as directory:
            return _keep_in(directory, answer, build_id)
    except (UnusableCacheError, NotADirectoryError, PermissionError) as error:
        raise _unusable(home, error) from error


def _keep_in(directory: int, answer: http.client.HTTPResponse, build_id: str) -> ElfObject:
    name = f".download-{secrets.token_hex(8)}"
    try:
        with os.fdopen(open_new(directory, name), "r+b") as file:
            _copy(answer, file)
            file.flush()
            elf = ElfObject.open(file.fileno(), shown="its answer")
        if elf.build_id != build_id:
            elf.close()
            raise DebuginfodError("the file it gave is of another build")
        os.rename(name, _NAME, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=directory)
        raise
    return elf


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
