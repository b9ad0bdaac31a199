"""C libraries and allocators of several releases of Debian: fetched and unpacked, never installed.

Programs run on them as on the release that they come from: its dynamic linker, its C library, its
C++ library. They are linked with the oldest C library of the table, whose interface all have.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from distribution import Apt, UnavailableError, cache_directory, run

RELEASES = ("bullseye", "bookworm", "trixie")  # Debian 11, 12, 13
_RUNTIME = ("libc6", "libgcc-s1", "libstdc++6")
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Library:
    """One of the table."""

    name: str
    package: str
    release: str
    file: str  # what is loaded first, or what runs the program (musl)

    def __str__(self) -> str:
        return f"{self.name} of {self.release}"


LIBRARIES = (
    *(Library("glibc", "libc6", release, "") for release in RELEASES),
    *(Library("musl", "musl", release, "ld-musl-x86_64.so.1") for release in RELEASES),
    *(Library("jemalloc", "libjemalloc2", release, "libjemalloc.so.2") for release in RELEASES),
    Library("tcmalloc", "libtcmalloc-minimal4", "bullseye", "libtcmalloc_minimal.so.4"),
    Library("tcmalloc", "libtcmalloc-minimal4", "bookworm", "libtcmalloc_minimal.so.4"),
    Library("tcmalloc", "libtcmalloc-minimal4t64", "trixie", "libtcmalloc_minimal.so.4"),
    Library("mimalloc", "libmimalloc2.0", "bookworm", "libmimalloc.so.2"),
    Library("mimalloc", "libmimalloc3", "trixie", "libmimalloc.so.3"),
)


def unpacked(package: str, release: str) -> Path:
    """A directory with the contents of a package. Raises UnavailableError."""
    return _apt(release).unpacked([package], cache_directory() / "libraries")


def loader(library: Library) -> list[str | Path]:
    """The words before a program's own that run it on this library. Raises UnavailableError."""
    if library.name == "musl":
        return [_find(unpacked(library.package, library.release), library.file)]
    runtime = [unpacked(package, library.release) for package in _RUNTIME]
    directories = sorted({path.parent for root in runtime for path in root.glob("**/lib*.so.*")})
    words: list[str | Path] = [
        _find(runtime[0], "ld-linux-x86-64.so.2"),
        "--library-path",
        os.pathsep.join(map(str, directories)),
    ]
    if library.file:
        words += ["--preload", _find(unpacked(library.package, library.release), library.file)]
    return words


def oldest_interface() -> list[str]:
    """Flags for a compiler whose programs run on every C library of the table, but musl.

    Raises UnavailableError.
    """
    packages = ("libc6-dev", "libc6", "linux-libc-dev")
    root = _apt(RELEASES[0]).unpacked(packages, cache_directory() / "libraries" / "linked")
    for link in root.glob("**/*.so*"):  # as if the directory were the root
        if link.is_symlink() and (target := link.readlink()).is_absolute():
            if target.is_relative_to(root):
                continue
            link.unlink()
            link.symlink_to(root / target.relative_to("/"))
    places = [path for path in (root / "usr/lib", root / "lib") if path.is_dir()]
    libraries = [triplet for path in places for triplet in path.glob("*-linux-gnu")]
    return [
        f"--sysroot={root}",
        *(f"{option}{path}" for path in libraries for option in ("-B", "-L")),
        # The compiler's own C++ library wants the C library that it came with.
        "-Wl,--allow-shlib-undefined",
    ]


def _find(root: Path, name: str) -> Path:
    found = [path for path in sorted(root.glob(f"**/{name}")) if path.exists()]
    if not found:
        raise UnavailableError(f"no {name} in {root.name}")
    return found[0]


def _mirror() -> str:
    """Where this machine's apt has Debian's packages from. Raises UnavailableError."""
    wanted = "$(ORIGIN) $(COMPONENT) $(REPO_URI)"
    shown = run(["apt-get", "indextargets", "--format", wanted, "Identifier: Packages"])
    for line in shown.splitlines():
        origin, component, address = line.split(maxsplit=2)
        if (origin, component) == ("Debian", "main") and "security" not in address:
            return address
    raise UnavailableError("apt has no packages of Debian (is apt-get update needed?)")


def _apt(release: str) -> Apt:
    """An apt that knows this release and nothing else. Raises UnavailableError."""
    home = cache_directory() / "apt" / release
    sources = home / "sources.list"
    options = [
        *("-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=/dev/null"),
        *("-o", f"Dir::State::lists={home}/lists", "-o", f"Dir::Cache={home}/cache"),
        *("-o", "Dir::State::status=/dev/null", "-o", "APT::Sandbox::User=root"),
        *("-o", "APT::Update::Post-Invoke-Success::=true"),
    ]
    if not sources.exists():
        (home / "lists/partial").mkdir(parents=True, exist_ok=True)
        (home / "cache/archives/partial").mkdir(parents=True, exist_ok=True)
        signed = f"[signed-by={_KEYS}] " if _KEYS.exists() else ""
        new = home / "new.list"
        new.write_text(f"deb {signed}{_mirror()} {release} main\n")
        run(["apt-get", "-q", "-o", f"Dir::Etc::sourcelist={new}", *options[2:], "update"])
        new.rename(sources)
    return Apt(*options)
