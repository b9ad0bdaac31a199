"""A program whose debug information is in another file, and servers that have it."""

from __future__ import annotations

import http.server
import subprocess
from pathlib import Path

from leaktrace.cache.directory import user_cache_directory
from leaktrace.elf.object import ElfObject
from leaktrace.options import SymbolOptions
from leaktrace.site import Frame
from leaktrace.symbols.debug_information import LookupContext
from leaktrace.symbols.module import Module
from leaktrace.targets.root import TargetRoot

SOURCE = """
int counter;
__attribute__((noinline)) static int hidden(int n) { counter += n; return counter; }
int visible(int n) { return hidden(n) + 1; }
"""


HIDDEN_LINE = 3


class Sample:
    """A stripped library within its own root directory, and its debug file, not placed yet."""

    def __init__(self, directory: Path, compiler: str) -> None:
        self.root = directory / "root"
        self.library = self.root / "opt/lib/libsample.so"
        self.library.parent.mkdir(parents=True)
        self.debug = directory / "libsample.debug"
        self._compile(compiler, directory)
        elf = ElfObject.open(self.library)
        self.vaddr = elf.functions(["hidden"])["hidden"].vaddr
        self.build_id = elf.build_id or ""
        self.objcopy("--only-keep-debug", self.library, self.debug)

    def _compile(self, compiler: str, directory: Path) -> None:
        (directory / "sample.c").write_text(SOURCE)
        options = ["-shared", "-fPIC", "-g", "-O1", "-Wl,--build-id=sha1"]
        files = ["-o", str(self.library), str(directory / "sample.c")]
        subprocess.run([compiler, *options, *files], check=True)

    def objcopy(self, *arguments: str | Path) -> None:
        subprocess.run(["objcopy", *map(str, arguments)], check=True)

    def strip(self, *more: str) -> None:
        self.objcopy("--strip-all", *more, self.library)

    def put(self, path: str) -> Path:
        """The debug file at a path within the root."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(self.debug.read_bytes())
        return place

    def module(self, *roots: Path, context: LookupContext | None = None) -> Module:
        return Module(
            ElfObject.open(self.library),
            "/opt/lib/libsample.so",
            tuple(TargetRoot(str(root)) for root in (roots or (self.root,))),
            context or LookupContext.of(SymbolOptions(download_timeout_s=5)),
        )

    def frame(self, module: Module) -> Frame:
        return module.frames(self.vaddr, self.vaddr, False)[-1]

    def by_build_id(self) -> str:
        return f"/usr/lib/debug/.build-id/{self.build_id[:2]}/{self.build_id[2:]}.debug"


def assert_found(sample: Sample, module: Module) -> None:
    frame = sample.frame(module)
    assert frame.function == "hidden"
    assert frame.source is not None
    assert frame.source.line == HIDDEN_LINE
    assert frame.build_id == sample.build_id
    assert module.problem == ""


def assert_missing(sample: Sample, module: Module, *reasons: str) -> None:
    frame = sample.frame(module)
    assert frame.function is None
    assert frame.source is None
    assert frame.unknown and "stripped" in frame.unknown
    assert frame.module == "/opt/lib/libsample.so"
    assert all(reason in module.problem for reason in reasons), module.problem


class Server(http.server.ThreadingHTTPServer):
    """A debuginfod server on this machine: `answers` has (status, body, promised length)."""

    daemon_threads = True

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes, int]] = {}
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, body, promised = self.server.answers.get(self.path, (404, b"", 0))
        self.send_response(status)
        self.send_header("Content-Length", str(promised))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def page(sample: Sample) -> str:
    return f"/buildid/{sample.build_id}/debuginfo"


def offer(server: Server, sample: Sample) -> None:
    body = sample.debug.read_bytes()
    server.answers[page(sample)] = (200, body, len(body))


def kept_files(sample: Sample) -> Path:
    home = user_cache_directory()
    assert home
    return home / "leaktrace/debuginfod" / sample.build_id
