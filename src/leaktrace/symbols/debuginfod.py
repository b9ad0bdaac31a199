"""Debug files by build ID from the servers in DEBUGINFOD_URLS (debuginfod(8)).

No server is asked unless the user sets that variable. A file that was fetched is kept under
$XDG_CACHE_HOME/leaktrace/debuginfod and not fetched again. A server that doesn't answer, takes too
long or breaks the connection is not asked again in the same run.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
import urllib.parse
from pathlib import Path

from leaktrace.cache.directory import (
    UnusableCacheError,
    open_cache,
    open_kept,
    open_new,
    user_cache_directory,
)
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.options import SymbolOptions
from leaktrace.printable import printable
from leaktrace.symbols.lookups import Lookups

MAX_BYTES = 2 << 30  # of a debug file
_MIN_BUILD_ID = 8  # hexadecimal digits
_PURPOSE = "debuginfod"  # the name of the directory, which contains one per build ID
_NAME = "debuginfo"
_DOWNLOAD_PREFIX = ".download-"
_DOWNLOAD_LIFETIME_S = 3600  # older ones were left behind by a process that was killed
_NO_SERVER = 2  # exit status of leaktrace.symbols.download


class DebuginfodError(Exception):
    """Why no server returned the file, in one line."""


class _ServerError(DebuginfodError):
    """The server failed, and is not worth another request."""


def has_servers() -> bool:
    """Whether the user has set DEBUGINFOD_URLS."""
    return bool(os.environ.get("DEBUGINFOD_URLS", "").strip())


def kept_file(build_id: str) -> ElfObject | None:
    """The file that was fetched earlier, None if there is none.

    Raises DebuginfodError, or ObjectFileError when the file is damaged.
    """
    if len(build_id) < _MIN_BUILD_ID or build_id.strip("0123456789abcdef"):
        raise DebuginfodError("its build ID is not valid for a debuginfod server")
    home = _home()
    try:
        with open_cache(home, _PURPOSE, build_id, create=False) as directory:
            descriptor = open_kept(directory, _NAME)
    except FileNotFoundError:
        return None
    except (OSError, UnusableCacheError) as error:
        raise _unusable(home, error) from error
    shown = str(home / "leaktrace" / _PURPOSE / build_id)
    try:
        kept = ElfObject.open(descriptor, shown, lambda: _open_again(home, build_id))
    finally:
        os.close(descriptor)
    if kept.build_id != build_id:
        raise DebuginfodError("the file kept from it belongs to another build")
    return kept


class Servers:
    """The servers of one run."""

    def __init__(self, lookups: Lookups, options: SymbolOptions) -> None:
        self._lookups = lookups
        self._options = options
        self._given_up: dict[str, str] = {}  # why, by server

    def hosts(self) -> str:
        """The hosts that are asked, as text."""
        hosts = [_host(server) for server in _servers() if server not in self._given_up]
        return ", ".join(dict.fromkeys(hosts))

    def fetch(self, build_id: str) -> ElfObject:
        """The debug file of a build ID, from the first server that has it.

        Raises DebuginfodError and CancelledError.
        """
        home = _home()
        failures = []
        for server in _servers():
            if server in self._given_up:
                failures.append(f"{_host(server)}: {self._given_up[server]}, not asked again")
                continue
            address = f"{server.rstrip('/')}/buildid/{build_id}/debuginfo"
            try:
                return self._download(address, home, build_id)
            except DebuginfodError as error:
                if isinstance(error, _ServerError):
                    self._given_up[server] = str(error)
                failures.append(f"{_host(server)}: {error}")
        raise DebuginfodError("; ".join(failures))

    def _download(self, address: str, home: Path, build_id: str) -> ElfObject:
        if not address.startswith(("http://", "https://")):
            raise DebuginfodError("not an http address")
        try:
            with open_cache(home, _PURPOSE, build_id, create=True) as directory:
                _remove_leftovers(directory)
                return self._keep_in(directory, address, build_id)
        except ObjectFileError as error:
            raise DebuginfodError(error.message) from error
        except (OSError, UnusableCacheError) as error:
            raise _unusable(home, error) from error

    def _keep_in(self, directory: int, address: str, build_id: str) -> ElfObject:
        """Write the answer to a temporary file, check it, and rename it: the file appears complete
        or not at all."""
        name = f"{_DOWNLOAD_PREFIX}{secrets.token_hex(8)}"
        file = open_new(directory, name)
        try:
            self._write(address, file, _room(directory))
            elf = ElfObject.open(file, shown="its answer")
            if elf.build_id != build_id:
                elf.close()
                raise DebuginfodError("the file it returned belongs to another build")
            os.fsync(file)
            os.rename(name, _NAME, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=directory)
            raise
        finally:
            os.close(file)
        return elf

    def _write(self, address: str, file: int, room_bytes: int) -> None:
        silence_s, deadline_s = self._options.download_timeout_s, self._options.download_deadline_s
        arguments = [str(os.getpid()), address, str(file), str(silence_s), str(room_bytes)]
        try:
            ended = self._lookups.run("leaktrace.symbols.download", arguments, [file], deadline_s)
        except subprocess.TimeoutExpired:
            raise _ServerError(f"took more than {deadline_s:g} s") from None
        except OSError as error:
            raise DebuginfodError(
                f"the child process that fetches it can't start: {error}"
            ) from error
        if ended.returncode:
            said = ended.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
            kind = _ServerError if ended.returncode == _NO_SERVER else DebuginfodError
            raise kind(printable(said)[:200] or f"the download ended with {ended.returncode}")


def _servers() -> list[str]:
    return os.environ.get("DEBUGINFOD_URLS", "").split()


def _home() -> Path:
    home = user_cache_directory()
    if home is None:
        raise DebuginfodError("there is no home directory for its files")
    return home


def _room(directory: int) -> int:
    """How many bytes a file may have: at most half of the free space."""
    status = os.fstatvfs(directory)
    return min(MAX_BYTES, status.f_bavail * status.f_frsize // 2)


def _remove_leftovers(directory: int) -> None:
    with os.scandir(directory) as entries:
        for entry in entries:
            age_s = time.time() - entry.stat(follow_symlinks=False).st_mtime
            if entry.name.startswith(_DOWNLOAD_PREFIX) and age_s > _DOWNLOAD_LIFETIME_S:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry.name, dir_fd=directory)


def _open_again(home: Path, build_id: str) -> int:
    try:
        with open_cache(home, _PURPOSE, build_id, create=False) as directory:
            return open_kept(directory, _NAME)
    except UnusableCacheError as error:
        raise ObjectFileError(str(error)) from error


def _unusable(home: Path, error: OSError | UnusableCacheError) -> DebuginfodError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return DebuginfodError(
        printable(f"files can't be kept below {home} ({reason}): set XDG_CACHE_HOME to another")
    )


def _host(server: str) -> str:
    try:
        return printable(urllib.parse.urlsplit(server).hostname or server)
    except ValueError:
        return printable(server)
