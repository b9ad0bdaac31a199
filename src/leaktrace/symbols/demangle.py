"""C++ and Rust names as they are written in source code.

pycxxfilt (LLVM's demangler) demangles most names. It can't be trusted with all of them: a name of a
few hundred letters can refer back to its own parts and so expand to terabytes, and the demangler
then ends the process that it runs in. Names with many such references are demangled in a child
process with limits; if that fails, the name stays mangled.

Names that LLVM can't demangle also go to that child, which tries GCC's demangler (__cxa_demangle in
libstdc++, which every machine with bcc has). GCC writes some names, mostly in debug information, in
a form that only GCC understands, e.g. `sr8is_arrayIT_E5value` for a member of a type that depends
on a template argument.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import selectors
import subprocess
import sys
from collections.abc import Callable
from functools import cache, lru_cache

from leaktrace.own.children import child_environment
from leaktrace.printable import printable

try:
    from pycxxfilt import itanium_demangle, rust_demangle
except ImportError:  # no wheel for this machine: names are shown mangled
    AVAILABLE = False
else:
    AVAILABLE = True

MAX_NAME = 2048  # letters of a mangled name
_MAX_DEMANGLED = 1 << 20
# Each back reference can at most double the name: 2,048 letters << 8 are half a megabyte.
_HARMLESS_REFERENCES = 8
_CHILD_MEMORY_BYTES = 256 << 20
_CHILD_CPU_S = 10
_CHILD_TIMEOUT_S = 5.0
_CHILD_TIMEOUT_AT_THE_END_S = 0.3  # once the run should end
_POLL_S = 0.05  # between checks whether it should
_MAX_CHILD_FAILURES = 5  # after so many, no other child is started

# S_, S0_ … and T_, T0_ … in C++ (Itanium C++ ABI, 5.1.9), B…_ in Rust (RFC 2603).
_BACK_REFERENCE = re.compile(r"[STB][0-9A-Za-z]*_")

# LLVM's "f(int) (.isra.0)" is written as gdb and binutils do: "f(int) [clone .isra.0]".
_CLONE = re.compile(r" \((\.[^()]*)\)$")

# Legacy Rust names end in a hash and spell punctuation as $…$ (rustc_symbol_mangling::legacy).
_RUST_HASH = re.compile(r"::h[0-9a-f]{16}(?=$|\.)")
_RUST_ESCAPE = re.compile(r"\$(SP|BP|RF|LT|GT|LP|RP|C|u[0-9a-f]{1,6})\$")
_RUST_ESCAPES = {
    "SP": "@",
    "BP": "*",
    "RF": "&",
    "LT": "<",
    "GT": ">",
    "LP": "(",
    "RP": ")",
    "C": ",",
}


@lru_cache(maxsize=65_536)
def demangle(name: str) -> str:
    """The name as it is written in source code; a name that isn't mangled as it is.

    Printable in either case (leaktrace/printable.py).
    """
    if AVAILABLE and name.startswith(("_Z", "_R", "__Z", "___Z")) and len(name) <= MAX_NAME:
        risky = len(_BACK_REFERENCE.findall(name)) > _HARMLESS_REFERENCES
        text = None if risky else demangle_here(name)
        return printable(text or _isolated.demangle(name) or name)
    return printable(name)


def demangle_here(name: str) -> str | None:
    """Demangle in this process; None if that is not possible."""
    # LLVM's Rust demangler doesn't accept the suffixes of "….cold" and "….llvm.123".
    stem, dot, suffix = name.partition(".")
    rust_v0 = name.startswith("_R")
    try:
        text = rust_demangle(stem) if rust_v0 else itanium_demangle(name)
    except ValueError:
        return None
    if text is None:
        return None
    if rust_v0:
        return text if suffix.startswith("llvm") else text + dot + suffix
    if _RUST_HASH.search(text):
        return _legacy_rust(text)
    return _CLONE.sub(r" [clone \1]", text)


def _demangle_as_gcc(name: str) -> str | None:
    """Demangle with libstdc++; None if that is not possible. Not safe with any name: only the child
    process calls it."""
    function = _gcc_demangler()
    if function is None or not name.startswith("_Z"):  # "i" would be the type int
        return None
    status = ctypes.c_int(-1)
    text: int | None = function(
        name.encode("utf-8", "surrogateescape"), None, None, ctypes.byref(status)
    )
    if text is None or status.value != 0:
        return None
    shown = ctypes.string_at(text).decode("utf-8", "surrogateescape")
    ctypes.CDLL(None).free(ctypes.c_void_p(text))
    return _CLONE.sub(r" [clone \1]", shown.replace("> >", ">>").replace("> >", ">>"))


@cache
def _gcc_demangler() -> Callable[..., int | None] | None:
    """abi::__cxa_demangle (Itanium C++ ABI, 3.4); None if libstdc++ is not installed."""
    try:
        function = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p]
    return function


def _legacy_rust(text: str) -> str:
    text = _RUST_HASH.sub("", text).replace("..", "::")
    parts = (part.removeprefix("_") if part.startswith("_$") else part for part in text.split("::"))
    return _RUST_ESCAPE.sub(_unescape, "::".join(parts)).replace("<::", "<")


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code in _RUST_ESCAPES:
        return _RUST_ESCAPES[code]
    value = int(code[1:], 16)
    return chr(value) if value < sys.maxunicode and not 0xD800 <= value < 0xE000 else match[0]


class _IsolatedDemangler:
    """A child process that demangles one name at a time. It is restarted after a name has ended
    it."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self.interrupted: Callable[[], bool] = lambda: False

    def demangle(self, name: str) -> str | None:
        child = self._running_child()
        if child is None or child.stdin is None or child.stdout is None:
            return None
        try:
            child.stdin.write(name.encode("utf-8", "surrogateescape").replace(b"\n", b"?") + b"\n")
            child.stdin.flush()
            answer = self._read_line(child.stdout.fileno())
        except OSError:
            answer = b""
        if not answer.endswith(b"\n"):
            self._failures += _MAX_CHILD_FAILURES if self.interrupted() else 1
            self._child = None
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()
            return None
        return answer[:-1].decode("utf-8", "surrogateescape") or None

    def _running_child(self) -> subprocess.Popen[bytes] | None:
        if self._child is None and self._failures < _MAX_CHILD_FAILURES:
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-P", "-m", __name__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=child_environment(),
                    start_new_session=True,  # Ctrl-C is for the tracer
                )
            except OSError:
                self._failures = _MAX_CHILD_FAILURES
        return self._child

    def _read_line(self, descriptor: int) -> bytes:
        """A line; less than that when the time is up or the child has ended."""
        line = b""
        left_s = _CHILD_TIMEOUT_S
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while left_s > 0 and not line.endswith(b"\n"):
                if not selector.select(_POLL_S):
                    left_s -= _POLL_S
                    if self.interrupted():
                        left_s = min(left_s, _CHILD_TIMEOUT_AT_THE_END_S)
                    continue
                piece = os.read(descriptor, 65_536)
                if not piece or len(line) > _MAX_DEMANGLED:
                    break
                line += piece
        return line


_isolated = _IsolatedDemangler()


def hurry_when(interrupted: Callable[[], bool]) -> None:
    """Once `interrupted` returns true, names that take long to demangle stay mangled."""
    _isolated.interrupted = interrupted


def _serve() -> None:
    """The child process: for each line with a mangled name, write a line with the demangled name,
    or an empty one."""
    resource.setrlimit(resource.RLIMIT_AS, (_CHILD_MEMORY_BYTES, _CHILD_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin.buffer:
        soft = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime) + _CHILD_CPU_S
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
        name = line.rstrip(b"\n").decode("utf-8", "surrogateescape")
        text = demangle_here(name) or _demangle_as_gcc(name) or ""
        text = text[: _MAX_DEMANGLED // 4].replace("\n", " ")
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape") + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
