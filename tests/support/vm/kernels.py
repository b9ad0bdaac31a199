"""Kernels to test on, from the distribution's packages: fetched and unpacked, never installed."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kernel:
    """One kernel of the matrix."""

    name: str  # as tests show it
    packages: str  # regular expression: the newest package whose whole name matches is taken
    is_everywhere: bool = True  # False: may be skipped where the distribution hasn't got it
    has_headers: bool = False  # modules can be built for it


# What each is here for. 5.10: the oldest that leaktrace supports (no attach cookies, maps reserve
# their memory). 6.1: no uprobe links, maps on demand. 6.12: uprobe links; kernel allocators have
# other names than in 6.1. The one with headers is that of ordinary installations.
KERNELS = (
    Kernel("5.10", r"linux-image-5\.10\.\d+-\d+-cloud-amd64", is_everywhere=False),
    Kernel("6.1", r"linux-image-6\.1\.\d+-\d+-cloud-amd64"),
    Kernel("6.12", r"linux-image-6\.(1[2-9]|[2-9]\d)\.\d+\S*-cloud-amd64"),
    Kernel("6.1-headers", r"linux-image-6\.1\.\d+-\d+-amd64", has_headers=True),
)

# Of the modules, what it takes to mount the host's files.
_MODULES = ("virtio_pci", "virtiofs", "overlay")


class UnavailableError(Exception):
    """A kernel can't be had here. The message says why."""


@dataclass(frozen=True)
class UnpackedKernel:
    """A kernel in a directory of its own."""

    folder: Path
    release: str  # as uname -r says it

    @property
    def image(self) -> Path:
        """What qemu boots."""
        return self.folder / "boot" / f"vmlinuz-{self.release}"

    @property
    def build_arguments(self) -> list[str]:
        """For `make`, to build a module with the headers where they were unpacked to."""
        sources = self.folder / "usr/src"
        headers = f"linux-headers-{self.release}"
        common = headers.removesuffix("-amd64").removesuffix("-cloud") + "-common"
        return [f"KERNEL_BUILD={sources / common}", f"O={sources / headers}"]

    def modules(self) -> list[tuple[str, bytes]]:
        """Names and contents of the modules to load at boot, in order."""
        modules: dict[str, bytes] = {}
        for wanted in _MODULES:
            shown = _run(
                ["modprobe", "-d", self.folder, "-S", self.release, "--show-depends", wanted]
            )
            for path in re.findall(r"^insmod (\S+)", shown, re.MULTILINE):  # others are built in
                modules[Path(path).name.removesuffix(".xz")] = _module(Path(path))
        return list(modules.items())


def fetch(kernel: Kernel) -> UnpackedKernel:
    """The newest kernel of that kind which the distribution offers; from the cache if it's there.

    Raises UnavailableError.
    """
    package = _newest(kernel.packages)
    folder = _unpacked([package, *(_headers_of(package) if kernel.has_headers else ())])
    release = package.removeprefix("linux-image-")
    if not (folder / "lib/modules" / release / "modules.dep.bin").exists():
        _run(["depmod", "-b", folder, release])
    return UnpackedKernel(folder, release)


def cache_directory() -> Path:
    """Where kernels are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "leaktrace-tests"


def _newest(pattern: str) -> str:
    known = _run(["apt-cache", "pkgnames", "linux-image-"]).split()
    names = [name for name in known if re.fullmatch(pattern, name)]
    if not names:
        raise UnavailableError(f"apt knows no package {pattern} (is apt-get update needed?)")
    return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _headers_of(image: str) -> list[str]:
    """The packages it takes to build a module: they depend on one another by exact names."""
    headers = image.replace("linux-image-", "linux-headers-")
    needed = re.findall(
        r"Depends: (linux-(?:headers|kbuild)-\S+)", _run(["apt-cache", "depends", headers])
    )
    return [headers, *needed]


def _version(package: str) -> str:
    shown = _run(["apt-cache", "show", "--no-all-versions", package])
    found = re.search(r"^Version: (\S+)", shown, re.MULTILINE)
    if found is None:
        raise UnavailableError(f"apt offers no version of {package}")
    return found[1]


def _unpacked(packages: Sequence[str]) -> Path:
    """A directory with the contents of all these packages."""
    folder = cache_directory() / f"{packages[0]}_{_version(packages[0])}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        root = Path(temporary) / "root"
        # As root that may read what the user _apt may not.
        download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages]
        _run(download, cwd=Path(temporary))
        for archive in Path(temporary).glob("*.deb"):
            _run(["dpkg-deb", "-x", archive, root])
        if not (root / "lib").exists():
            (root / "lib").symlink_to("usr/lib")  # newer packages; modprobe looks in lib/modules
        root.rename(folder)
    return folder


def _module(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def _run(command: Sequence[str | Path], cwd: Path | None = None) -> str:
    """The output of a command. Raises UnavailableError with what it complains about."""
    if shutil.which(command[0]) is None:
        raise UnavailableError(f"needs {command[0]}")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        complaint = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise UnavailableError(f"{command[0]} failed: {complaint}")
    return done.stdout
