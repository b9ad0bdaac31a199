"""Packages of the distribution, fetched with apt and unpacked, never installed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path


class UnavailableError(Exception):
    """A package can't be had here. The message says why."""


def cache_directory() -> Path:
    """Where packages are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "leaktrace-tests"


def run(command: Sequence[str | Path], cwd: Path | None = None) -> str:
    """The output of a command. Raises UnavailableError with its error message."""
    if shutil.which(command[0]) is None:
        raise UnavailableError(f"needs {command[0]}")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        complaint = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UnavailableError(f"{command[0]} failed: {complaint}")
    return done.stdout


@contextlib.contextmanager
def apt_alone() -> Iterator[None]:
    """Other processes that ask for this wait: apt finds nothing while its lists are updated."""
    cache_directory().mkdir(parents=True, exist_ok=True)
    with (cache_directory() / "apt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Apt:
    """apt as this machine has it, or with options that give it other sources."""

    def __init__(self, *options: str) -> None:
        self._options = options

    def names(self, prefix: str) -> list[str]:
        """The known packages whose names begin with this."""
        return run(["apt-cache", *self._options, "pkgnames", prefix]).split()

    def update(self) -> None:
        """Fetch the lists of packages again. Raises UnavailableError."""
        run(["apt-get", *self._options, "-q", "update"])

    def dependencies(self, package: str, pattern: str) -> list[str]:
        """The dependencies of a package that match."""
        shown = run(["apt-cache", *self._options, "depends", package])
        return re.findall(rf"Depends: ({pattern})", shown)

    def version(self, package: str) -> str:
        """The version that it would install. Raises UnavailableError."""
        shown = run(["apt-cache", *self._options, "show", "--no-all-versions", package])
        found = re.search(r"^Version: (\S+)", shown, re.MULTILINE)
        if found is None:
            raise UnavailableError(f"apt offers no version of {package}")
        return found[1]

    def unpacked(self, packages: Sequence[str], under: Path) -> Path:
        """A directory with the contents of all these packages, named like the first of them."""
        folder = under / f"{packages[0]}_{self.version(packages[0])}"
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            root = Path(temporary) / "root"
            # As root that may read what the user _apt may not.
            sandbox = ["-q", "-o", "APT::Sandbox::User=root"]
            command = ["apt-get", *self._options, *sandbox, "download", *packages]
            run(command, cwd=Path(temporary))
            for archive in Path(temporary).glob("*.deb"):
                run(["dpkg-deb", "-x", archive, root])
            root.rename(folder)
        return folder
