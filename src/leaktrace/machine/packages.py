"""The packages that leaktrace needs, and how to install them on this distribution."""

from __future__ import annotations

import ctypes
import re

from leaktrace.bpf import syscalls
from leaktrace.bpf.compiler_child import find_bcc
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.machine.machine import Feature, Machine, State

# Package names by /etc/os-release's ID or ID_LIKE: bcc's Python package, libbpf, the installer.
_PACKAGES = {
    "debian": ("python3-bpfcc", "libbpf1", "apt-get install"),
    "ubuntu": ("python3-bpfcc", "libbpf1", "apt-get install"),
    "fedora": ("python3-bcc", "libbpf", "dnf install"),
    "rhel": ("python3-bcc", "libbpf", "dnf install"),
    "arch": ("python-bcc", "libbpf", "pacman -S"),
    "suse": ("python3-bcc", "libbpf1", "zypper install"),
    "alpine": ("py3-bcc", "libbpf", "apk add"),
}


def install_hint(machine: Machine, what: str) -> str:
    """How to install `what` ("bcc" or "libbpf") on this machine's distribution (os-release(5))."""
    text = machine.read("/etc/os-release") or machine.read("/usr/lib/os-release") or ""
    fields = dict(re.findall(r"""^(\w+)=["']?(.*?)["']?$""", text, re.MULTILINE))
    index = ("bcc", "libbpf").index(what)
    for family in [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]:
        if family in _PACKAGES:
            return f"install it: {_PACKAGES[family][2]} {_PACKAGES[family][index]}"
    return {
        "bcc": "install bcc's Python package from your distribution (PyPI's bcc is unrelated)",
        "libbpf": "install libbpf 1.x from your distribution",
    }[what]


def bcc(machine: Machine) -> Feature:
    """bcc's Python package. It is searched for, not imported: that would map LLVM into this
    process."""
    folder = find_bcc(machine.root)
    if folder is None:
        hint = install_hint(machine, "bcc")
        return Feature("bcc", State.MISSING, "its Python package isn't installed", hint, True)
    try:
        text = (folder / "version.py").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    version = re.search(r"""__version__\s*=\s*['"]([^'"]+)['"]""", text)
    number = version[1] if version else "unknown version"
    return Feature("bcc", State.OK, f"{number} in {folder}", required=True)


def libbpf(machine: Machine) -> Feature:
    """libbpf 1.x, as the library that this process loads."""
    if machine.is_running:
        detail = _loaded_libbpf()
    else:
        places = ("/usr/lib*/libbpf.so.1", "/usr/lib/*/libbpf.so.1", "/lib/*/libbpf.so.1")
        detail = next((str(path) for path in machine.find(*places)), None)
    if detail is None:
        hint = install_hint(machine, "libbpf")
        return Feature("libbpf", State.MISSING, "its library isn't installed", hint, True)
    return Feature("libbpf", State.OK, detail, required=True)


def _loaded_libbpf() -> str | None:
    """The version of the libbpf that this process uses, None without libbpf."""
    try:
        library = syscalls.libbpf()
    except EnvironmentUnfitError:
        return None
    version = library.libbpf_version_string  # libbpf 0.6 and later
    version.restype = ctypes.c_char_p
    return str(version().decode())
