"""Debug information that was moved out of an object, in all the places it may have gone."""

from __future__ import annotations

import http.server
import lzma
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from harness.lines import DEADLINE_S

from leaktrace.cache.directory import user_cache_directory
from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.model import Frame
from leaktrace.options import SymbolOptions
from leaktrace.symbols import debuginfod
from leaktrace.symbols.debug_files import find_debug_file, mini_symbols
from leaktrace.symbols.debug_information import LookupContext
from leaktrace.symbols.lookups import Lookups
from leaktrace.symbols.module import Module
from leaktrace.targets.root import TargetRoot

SOURCE = """
int counter;
__attribute__((noinline)) static int hidden(int n) { counter += n; return counter; }
int visible(int n) { return hidden(n) + 1; }
"""
HIDDEN_LINE = 3


@pytest.fixture(autouse=True)
def no_servers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test asks a server of the machine's user, or uses what the user has fetched."""
    monkeypatch.delenv("DEBUGINFOD_URLS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


class Sample:
    """A library within a root of its own, stripped, and its debug file, not yet anywhere."""

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


@pytest.fixture
def sample(tmp_path: Path, require_tool: Callable[[str], str]) -> Sample:
    require_tool("objcopy")
    return Sample(tmp_path, require_tool("gcc"))


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


def test_by_build_id(sample: Sample) -> None:
    sample.strip()
    sample.put(sample.by_build_id())
    assert_found(sample, sample.module())


def test_by_build_id_in_the_second_root(sample: Sample, tmp_path: Path) -> None:
    """The target's container has no debug files, but the host does."""
    sample.strip()
    empty = tmp_path / "empty"
    empty.mkdir()
    sample.put(sample.by_build_id())
    assert_found(sample, sample.module(empty, sample.root))


def test_a_debug_file_of_another_build_is_refused(sample: Sample) -> None:
    sample.strip()
    place = sample.put(sample.by_build_id())
    data = bytearray(place.read_bytes())
    at = data.index(bytes.fromhex(sample.build_id))
    data[at] ^= 1
    place.write_bytes(data)
    assert_missing(sample, sample.module(), "another build")


@pytest.mark.parametrize(
    "place",
    [
        "/opt/lib/libsample.debug",
        "/opt/lib/.debug/libsample.debug",
        "/usr/lib/debug/opt/lib/libsample.debug",
    ],
)
def test_by_debuglink(sample: Sample, place: str) -> None:
    sample.strip("--remove-section=.note.gnu.build-id", f"--add-gnu-debuglink={sample.debug}")
    sample.put(place)
    sample.build_id = None  # type: ignore[assignment]
    assert_found(sample, sample.module())


def test_debuglink_with_another_crc_is_refused(sample: Sample) -> None:
    sample.strip(f"--add-gnu-debuglink={sample.debug}")
    place = sample.put("/opt/lib/libsample.debug")
    with place.open("ab") as file:
        file.write(b"more")
    assert_missing(sample, sample.module(), "CRC")


def test_debuglink_leads_nowhere_else(sample: Sample, tmp_path: Path) -> None:
    """A name with a slash would lead out of the directories that are searched."""
    outside = tmp_path / "root" / "elsewhere.debug"
    outside.write_bytes(sample.debug.read_bytes())
    sample.strip(f"--add-gnu-debuglink={sample.debug}")
    data = sample.library.read_bytes()
    assert data.count(b"libsample.debug\0") == 1
    sample.library.write_bytes(data.replace(b"libsample.debug\0", b"../../else.debu\0"))
    (tmp_path / "root" / "else.debu").write_bytes(sample.debug.read_bytes())
    assert_missing(sample, sample.module(), "no debug file is installed")


def test_links_stay_within_the_targets_root(sample: Sample, tmp_path: Path) -> None:
    """An absolute symbolic link means what it means to the target."""
    sample.strip()
    place = sample.root / sample.by_build_id().lstrip("/")
    place.parent.mkdir(parents=True)
    place.symlink_to("/store/libsample.debug")
    (tmp_path / "store").mkdir()
    assert_missing(sample, sample.module())
    sample.put("/store/libsample.debug")
    assert_found(sample, sample.module())


def test_what_is_no_file_is_no_debug_file(sample: Sample) -> None:
    sample.strip()
    place = sample.root / sample.by_build_id().lstrip("/")
    place.parent.mkdir(parents=True)
    os.mkfifo(place)
    assert_missing(sample, sample.module(), "not a regular file")


def test_nothing_anywhere(sample: Sample) -> None:
    sample.strip()
    module = sample.module()
    assert_missing(sample, module, "no debug file is installed", "DEBUGINFOD_URLS is not set")
    assert module.frames(0, 1 << 40, True)[-1].unknown


def test_dynamic_symbols_of_a_stripped_library_remain(sample: Sample) -> None:
    vaddr = ElfObject.open(sample.library).functions(["visible"])["visible"].vaddr
    sample.strip()
    frame = sample.module().frames(vaddr + 2, vaddr + 2, False)[-1]
    assert (frame.function, frame.offset) == ("visible", 2)


def test_minisymtab(sample: Sample, tmp_path: Path) -> None:
    """As Fedora does it: .gnu_debugdata is an xz-compressed object that holds only .symtab."""
    mini = tmp_path / "mini"
    sample.objcopy("--strip-debug", sample.debug, mini)
    packed = tmp_path / "mini.xz"
    packed.write_bytes(lzma.compress(mini.read_bytes()))
    sample.strip(f"--add-section=.gnu_debugdata={packed}")
    frame = sample.frame(sample.module())
    assert (frame.function, frame.offset, frame.source) == ("hidden", 0, None)


@pytest.mark.parametrize("damage", ["cut", "noise", "bomb"])
def test_damaged_minisymtab(sample: Sample, tmp_path: Path, damage: str) -> None:
    content = {
        "cut": lzma.compress(sample.debug.read_bytes())[:-40],
        "noise": b"\xfd7zXZ\0" + bytes(200),
        "bomb": lzma.compress(bytes(65 << 20), preset=0),
    }[damage]
    packed = tmp_path / "mini.xz"
    packed.write_bytes(content)
    sample.strip(f"--add-section=.gnu_debugdata={packed}")
    with pytest.raises(ObjectFileError, match="gnu_debugdata"):
        mini_symbols(ElfObject.open(sample.library))
    assert_missing(sample, sample.module())


# -- debuginfod ---------------------------------------------------------------------------------


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


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("DEBUGINFOD_URLS", f"{running.url}/")
        yield running
        running.shutdown()
        thread.join()


def page(sample: Sample) -> str:
    return f"/buildid/{sample.build_id}/debuginfo"


def offer(server: Server, sample: Sample) -> None:
    body = sample.debug.read_bytes()
    server.answers[page(sample)] = (200, body, len(body))


def kept_files(sample: Sample) -> Path:
    home = user_cache_directory()
    assert home
    return home / "leaktrace/debuginfod" / sample.build_id


def test_a_debuginfod_server_is_asked_once(sample: Sample, server: Server) -> None:
    sample.strip()
    offer(server, sample)
    assert_found(sample, sample.module())
    assert_found(sample, sample.module())
    assert server.asked == [page(sample)]
    kept = kept_files(sample) / "debuginfo"
    assert kept.read_bytes() == sample.debug.read_bytes()
    assert [file.name for file in kept.parent.iterdir()] == ["debuginfo"]


def test_no_server_is_asked_for_what_is_installed(sample: Sample, server: Server) -> None:
    sample.strip()
    offer(server, sample)
    sample.put(sample.by_build_id())
    assert_found(sample, sample.module())
    assert server.asked == []


def test_no_server_is_asked_unless_the_user_names_one(
    sample: Sample, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.strip()
    offer(server, sample)
    monkeypatch.setenv("DEBUGINFOD_URLS", " ")
    assert_missing(sample, sample.module(), "DEBUGINFOD_URLS is not set")
    assert server.asked == []


def test_the_next_server_is_asked_too(
    sample: Sample, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.strip()
    offer(server, sample)
    monkeypatch.setenv("DEBUGINFOD_URLS", f"{server.url}/empty {server.url}")
    assert_found(sample, sample.module())
    assert server.asked == ["/empty" + page(sample), page(sample)]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((404, b"", 0), "does not have it"),
        ((503, b"", 0), "HTTP status 503"),
        ((200, b"\x7fELF", 4000), "broke off"),
        ((200, b"<html>", 6), "not an ELF file"),
    ],
    ids=["missing", "ill", "cut", "nonsense"],
)
def test_a_server_that_fails_is_a_reason(
    sample: Sample, server: Server, answer: tuple[int, bytes, int], reason: str
) -> None:
    sample.strip()
    server.answers[page(sample)] = answer
    assert_missing(sample, sample.module(), reason)
    kept = kept_files(sample)
    assert list(kept.glob("*")) == []  # nothing half or wrong is kept


def test_a_server_with_the_file_of_another_build(sample: Sample, server: Server) -> None:
    sample.strip()
    body = bytearray(sample.debug.read_bytes())
    body[body.index(bytes.fromhex(sample.build_id))] ^= 1
    server.answers[page(sample)] = (200, bytes(body), len(body))
    assert_missing(sample, sample.module(), "another build")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "file:///etc/passwd", "ftp://127.0.0.1", "http://[", "nonsense"]
)
def test_addresses_that_lead_nowhere(
    sample: Sample, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    sample.strip()
    monkeypatch.setenv("DEBUGINFOD_URLS", url)
    assert_missing(sample, sample.module(), "debuginfod: ")


def test_a_cache_that_cannot_be_written_is_a_reason(
    sample: Sample, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.strip()
    offer(server, sample)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert_missing(sample, sample.module(), "debuginfod: ")


def test_a_kept_file_is_not_followed_when_it_is_a_link(
    sample: Sample, server: Server, tmp_path: Path
) -> None:
    sample.strip()
    kept = kept_files(sample)
    kept.mkdir(parents=True)
    (kept / "debuginfo").symlink_to(sample.debug)
    assert_missing(sample, sample.module(), "debuginfod: files can't be kept below")


@pytest.mark.usefixtures("require_root")
@pytest.mark.parametrize("owned", ["home", "home/.cache", "home/.cache/leaktrace"])
def test_root_keeps_nothing_in_the_home_of_another(
    sample: Sample,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owned: str,
) -> None:
    """As by sudo, where that leaves $HOME as it is."""
    sample.strip()
    offer(server, sample)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / owned).mkdir(parents=True)
    os.chown(tmp_path / owned, 65534, 65534)
    assert_missing(sample, sample.module(), "belongs to another user")
    assert list((tmp_path / owned).iterdir()) == []
    monkeypatch.delenv("DEBUGINFOD_URLS")
    assert_missing(sample, sample.module(), "DEBUGINFOD_URLS is not set")


def test_root_is_not_led_elsewhere_by_a_link(
    sample: Sample,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    require_root: None,
) -> None:
    sample.strip()
    offer(server, sample)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
    assert_missing(sample, sample.module(), "debuginfod: files can't be kept below")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_without_a_home_there_is_no_place_to_keep_files(
    sample: Sample, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample.strip()
    monkeypatch.setattr(debuginfod, "user_cache_directory", lambda: None)
    assert_missing(sample, sample.module(), "no home directory")


def test_an_object_with_debug_information_needs_no_other(sample: Sample, server: Server) -> None:
    elf = ElfObject.open(sample.library)
    found = find_debug_file(elf, "/opt/lib/libsample.so", (TargetRoot("/"),))
    assert found.elf is elf
    assert server.asked == []


# -- servers that are slow ------------------------------------------------------------------------


@contextmanager
def slow_server(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[[socket.socket], None]
) -> Iterator[list[bytes]]:
    """A server that treats each connection so; yields the requests that it got."""
    requests: list[bytes] = []

    def converse(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            requests.append(connection.recv(65_536))
            serve(connection)

    def listen(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=converse, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=listen, args=(listener,), daemon=True).start()
        monkeypatch.setenv("DEBUGINFOD_URLS", f"http://127.0.0.1:{listener.getsockname()[1]}")
        yield requests
        listener.shutdown(socket.SHUT_RDWR)


def say_nothing(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def drip(connection: socket.socket, head: bytes) -> None:
    connection.sendall(head)
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def drip_a_head(connection: socket.socket) -> None:
    drip(connection, b"HTTP/1.1 200 OK\r\nX-Slow: ")


def drip_a_body(connection: socket.socket) -> None:
    drip(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")


def send_without_end(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(bytes(65_536))


@pytest.mark.parametrize(
    ("serve", "reason"),
    [
        (say_nothing, "sent nothing for 1 s"),
        (drip_a_head, "took more than 4 s"),
        (drip_a_body, "took more than 4 s"),
    ],
)
def test_a_server_that_takes_long_is_asked_once_a_run(
    sample: Sample,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[socket.socket], None],
    reason: str,
) -> None:
    sample.strip()
    options = SymbolOptions(download_timeout_s=1, download_deadline_s=4)
    context = LookupContext.of(options)
    with slow_server(monkeypatch, serve) as requests:
        assert_missing(sample, sample.module(context=context), reason)
        assert len(requests) == 1
        assert_missing(sample, sample.module(context=context), reason, "not asked again")
        assert len(requests) == 1
    assert list(kept_files(sample).iterdir()) == []


@pytest.mark.parametrize("promised", [False, True])
def test_a_download_is_bounded(
    sample: Sample, server: Server, monkeypatch: pytest.MonkeyPatch, promised: bool
) -> None:
    sample.strip()
    monkeypatch.setattr(debuginfod, "MAX_BYTES", 3 << 20)
    if promised:
        server.answers[page(sample)] = (200, b"", 4 << 20)
        assert_missing(sample, sample.module(), "more than the 3 MB")
    else:
        with slow_server(monkeypatch, send_without_end):
            assert_missing(sample, sample.module(), "more than the 3 MB")
    assert list(kept_files(sample).iterdir()) == []


def test_what_a_killed_process_left_is_removed(sample: Sample, server: Server) -> None:
    sample.strip()
    offer(server, sample)
    kept = kept_files(sample)
    kept.mkdir(parents=True, mode=0o700)
    for name, age_s in ((".download-old", 7200), (".download-new", 0)):
        (kept / name).touch()
        os.utime(kept / name, (time.time() - age_s,) * 2)
    assert_found(sample, sample.module())
    assert {file.name for file in kept.iterdir()} == {".download-new", "debuginfo"}


def test_names_come_later_and_then_are_there(
    sample: Sample, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looked up beside: nobody waits for a server, and nothing stays as it was without it."""
    sample.strip()
    may_answer = threading.Event()

    def answer(connection: socket.socket) -> None:
        may_answer.wait()
        body = sample.debug.read_bytes()
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    lookups = Lookups()
    module = sample.module(context=LookupContext.of(SymbolOptions(), lookups))
    with slow_server(monkeypatch, answer):
        frame = sample.frame(module)
        assert (frame.function, frame.source) == (None, None)
        assert frame.unknown and "being looked up" in frame.unknown
        lookups.wait(is_last=False)
        assert lookups.awaited() == ("the debug file of libsample.so from 127.0.0.1",)
        assert sample.frame(module) == frame
        before = lookups.arrived
        may_answer.set()
        until(lambda: lookups.arrived != before and not lookups.awaited())
    assert_found(sample, module)


def test_giving_up_leaves_nothing(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    sample.strip()
    lookups = Lookups()
    module = sample.module(context=LookupContext.of(SymbolOptions(), lookups))
    others = children_of(os.getpid())  # the demangler's, which other tests have started
    with slow_server(monkeypatch, drip_a_body) as requests:
        sample.frame(module)
        until(lambda: bool(requests) and bool(list(kept_files(sample).iterdir())))
        children = children_of(os.getpid()) - others
        assert children
        lookups.close()
        until(lambda: not children & children_of(os.getpid()))
        until(lambda: not list(kept_files(sample).iterdir()))


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def children_of(pid: int) -> set[str]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return {word for file in files for word in file.read_text().split()}


def test_a_signal_ends_a_wait(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a last report, too, which would go on for as long as the server says nothing."""
    sample.strip()
    ends_s: list[float] = []
    interrupted = False
    lookups = Lookups(lambda: interrupted)
    module = sample.module(context=LookupContext.of(SymbolOptions(download_timeout_s=600), lookups))
    with slow_server(monkeypatch, say_nothing):
        sample.frame(module)
        lookups.wait(is_last=False)

        def wait() -> None:
            monkeypatch.setattr("leaktrace.symbols.lookups._LAST_S", 600.0)
            lookups.wait(is_last=True)
            ends_s.append(time.monotonic())

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.2)
        assert not ends_s
        interrupted = True
        thread.join(DEADLINE_S)
        assert ends_s
        lookups.wait(is_last=True)  # after a signal: not for long
        lookups.close()
