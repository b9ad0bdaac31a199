"""Kernels to test on, from the distribution's packages: fetched and unpacked, never installed."""

from __future__ import annotations

import lzma
import re
from dataclasses import dataclass
from pathlib import Path

from distribution import Apt, UnavailableError, apt_alone, cache_directory, run


@dataclass(frozen=True)
class Kernel:
    """One kernel of the matrix."""

    name: str  # as tests show it
    packages: str  # regular expression: the newest package whose whole name matches is taken
    is_everywhere: bool = True  # False: may be skipped where the distribution hasn't got it
    has_headers: bool = False  # modules can be built for it


# Why each is tested. 5.10: the oldest that leaktrace supports (no attach cookies, maps reserve
# their memory). 6.1: no uprobe links, maps on demand. 6.12: uprobe links; kernel allocators have
# other names than in 6.1. The one with headers is that of ordinary installations.
KERNELS = (
    Kernel("5.10", r"linux-image-5\.10\.\d+-\d+-cloud-amd64", is_everywhere=False),
    Kernel("6.1", r"linux-image-6\.1\.\d+-\d+-cloud-amd64"),
    Kernel("6.12", r"linux-image-6\.(1[2-9]|[2-9]\d)\.\d+\S*-cloud-amd64"),
    Kernel("6.1-headers", r"linux-image-6\.1\.\d+-\d+-amd64", has_headers=True),
)

# The modules that are needed to mount the host's files.
_MODULES = ("virtio_pci", "virtiofs", "overlay")


@dataclass(frozen=True)
class UnpackedKernel:
    """A kernel, unpacked to a directory."""

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
            shown = run(
                ["modprobe", "-d", self.folder, "-S", self.release, "--show-depends", wanted]
            )
            for path in re.findall(r"^insmod (\S+)", shown, re.MULTILINE):  # others are built in
                modules[Path(path).name.removesuffix(".xz")] = _module(Path(path))
        return list(modules.items())


def fetch(kernel: Kernel) -> UnpackedKernel:
    """The newest kernel of that kind which the distribution offers; from the cache if it's there.

    Raises UnavailableError.
    """
    with apt_alone():
        package = _newest(kernel.packages)
        packages = [package, *(_headers_of(package) if kernel.has_headers else ())]
        folder = Apt().unpacked(packages, cache_directory())
    if not (folder / "lib").exists():
        (folder / "lib").symlink_to("usr/lib")  # newer packages; modprobe looks in lib/modules
    release = package.removeprefix("linux-image-")
    if not (folder / "lib/modules" / release / "modules.dep.bin").exists():
        run(["depmod", "-b", folder, release])
    return UnpackedKernel(folder, release)


def _newest(pattern: str) -> str:
    names = _matching(pattern)
    if not names:  # the lists of a fresh machine may be older than the kernel
        Apt().update()
        names = _matching(pattern)
    if not names:
        raise UnavailableError(f"apt knows no package {pattern}")
    return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _matching(pattern: str) -> list[str]:
    return [name for name in Apt().names("linux-image-") if re.fullmatch(pattern, name)]


def _headers_of(image: str) -> list[str]:
    """The packages that are needed to build a module: they depend on one another by exact names."""
    headers = image.replace("linux-image-", "linux-headers-")
    return [headers, *Apt().dependencies(headers, r"linux-(?:headers|kbuild)-\S+")]


def _module(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content
