"""`leaktrace dump`, compared with what the process has written, and with /proc/PID/mem."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.privileges import anybodys_python, nobody_with
from harness.tracer import COMMAND, Outcome, run_leaktrace, tracer_environment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="reads the memory of another process")

PAGE = os.sysconf("SC_PAGESIZE")
FILE_PAGES, PAGES = 3, 8
# A mapping of eight pages: the first and the third have text, the fourth can't be accessed, the
# others were never touched. And one of a file of three pages that was cut after the first.
PROGRAM = """
import ctypes, mmap, os, sys
page = mmap.PAGESIZE
memory = mmap.mmap(-1, 8 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
at = ctypes.addressof(ctypes.c_char.from_buffer(memory))
memory[: 2 * 8] = b"first page \\x1b[31m"
memory[2 * page : 3 * page] = bytes(range(256)) * (page // 256)
memory[3 * page : 3 * page + 6] = b"hidden"
shared = mmap.mmap(-1, 4 * page)
shared[page : page + 6] = b"shared"
shared_at = ctypes.addressof(ctypes.c_char.from_buffer(shared))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.mprotect(ctypes.c_void_p(at + 3 * page), ctypes.c_size_t(page), 0) == 0
path = sys.argv[1]
with open(path, "wb+") as file:
    file.write(b"file" * (3 * page // 4))
    file.flush()
    cut = mmap.mmap(file.fileno(), 3 * page)
    file.truncate(page)
print(at, shared_at, flush=True)
sys.stdin.read()
"""


class Process:
    """The program while it runs."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.address, self.shared = map(int, self.process.stdout.readline().split())

    @property
    def pid(self) -> int:
        return self.process.pid

    def memory(self, address: int, size: int) -> bytes:
        with Path(f"/proc/{self.pid}/mem").open("rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(size)

    def is_present(self, address: int) -> bool:
        with Path(f"/proc/{self.pid}/pagemap").open("rb", buffering=0) as pages:
            pages.seek(address // PAGE * 8)
            return bool(pages.read(8)[7] & 0x80)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    one = Process(tmp_path_factory.mktemp("dump") / "cut file")
    yield one
    one.process.kill()
    one.process.communicate()


def dump(process: Process, *words: str | int) -> Outcome:
    return run_leaktrace("dump", "-p", str(process.pid), *(str(one) for one in words))


def raw(process: Process, *words: str | int) -> tuple[bytes, str]:
    """The bytes in a pipe, and stderr."""
    done = subprocess.run(
        [*COMMAND, "dump", "-p", str(process.pid), *(str(one) for one in words)],
        capture_output=True,
        env=tracer_environment(),
        timeout=60,
        check=True,
    )
    return done.stdout, done.stderr.decode()


def test_bytes_of_an_address(process: Process, tmp_path: Path) -> None:
    whole, said = raw(process, hex(process.address), "--size", PAGES * PAGE)
    assert said == ""
    # What was never touched was not by this either.
    assert not any(process.is_present(process.address + at * PAGE) for at in (1, 4, 5, 6, 7))
    assert whole == process.memory(process.address, PAGES * PAGE)
    assert whole[: 2 * 8] == b"first page \x1b[31m"
    assert whole[2 * PAGE : 3 * PAGE] == bytes(range(256)) * (PAGE // 256)
    assert whole[3 * PAGE :].startswith(b"hidden")
    # At any address, of any size, to a file.
    output = tmp_path / "output"
    for offset, size in ((5, 1), (2 * PAGE - 3, 7), (3 * PAGE - 1, PAGE + 9)):
        outcome = dump(
            process, hex(process.address + offset), "--size", size, "--output", str(output)
        )
        assert (outcome.exit_code, outcome.stdout, outcome.stderr) == (0, "", "")
        assert output.read_bytes() == whole[offset : offset + size]


def test_shared_memory_does_not_grow(process: Process) -> None:
    def kib() -> int:
        text = Path(f"/proc/{process.pid}/status").read_text()
        return int(re.findall(r"RssShmem:\s+(\d+) kB", text)[0])

    before = kib()
    found, said = raw(process, hex(process.shared), "--size", 4 * PAGE)
    assert kib() == before
    assert (found, said) == (bytes(PAGE) + b"shared".ljust(3 * PAGE, b"\0"), "")
    assert found == process.memory(process.shared, 4 * PAGE)  # which makes it grow


def test_a_mapping_by_its_name(process: Process) -> None:
    (line,) = [
        one
        for one in Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        if one.endswith("[heap]")
    ]
    start, end = (int(one, 16) for one in line.split()[0].split("-"))
    found, said = raw(process, "[heap]")
    assert (said, found) == ("", process.memory(start, end - start))
    # The same by any address in it.
    assert raw(process, hex(end - 1))[0] == found


def test_pages_that_cannot_be_read(process: Process) -> None:
    found, said = raw(process, process.file.name)
    assert found == b"file" * (PAGE // 4) + bytes(2 * PAGE)
    assert re.fullmatch(
        r"leaktrace: 8,192 of 12,288 bytes can't be read: 0x[0-9a-f]+-0x[0-9a-f]+; zeros are "
        r"written in their place\n",
        said,
    )
    outcome = dump(process, process.file.name, "--hex")
    assert outcome.exit_code == 0
    assert "(8,192 bytes can't be read)" in outcome.stdout.splitlines()[-1]
    assert "8,192 of 12,288 bytes can't be read" in outcome.stderr


def test_nothing_that_can_be_read(process: Process, tmp_path: Path) -> None:
    output = tmp_path / "kept"
    output.write_text("kept")
    outcome = dump(process, "[vvar]", "--output", str(output))
    assert outcome.exit_code == 4
    happened, hint = outcome.stderr.splitlines()
    assert "none of the" in happened
    assert hint.startswith("  hint: ")
    assert output.read_text() == "kept"


def test_hexadecimal(process: Process) -> None:
    outcome = dump(process, hex(process.address), "--size", 40, "--hex")
    assert outcome.stdout.splitlines() == [
        f"{process.address:#014x}  66 69 72 73 74 20 70 61  67 65 20 1b 5b 33 31 6d  "
        "first page .[31m",
        f"{process.address + 16:#014x}  {'00 ' * 8} {'00 ' * 8} ................",
        f"{process.address + 32:#014x}  {'00 ' * 8}{' ' * 26}........",
    ]


def test_a_terminal_gets_no_binary(process: Process) -> None:
    words = ("-p", str(process.pid), hex(process.address), "--size", "16")
    for options, expected in (((), "67 65 20 1b"), (("--raw",), "first page \x1b[31m")):
        ours, theirs = os.openpty()
        running = subprocess.Popen(
            [*COMMAND, "dump", *words, *options], stdout=theirs, env=tracer_environment()
        )
        os.close(theirs)
        assert running.wait(60) == 0
        shown = os.read(ours, 10_000).decode()
        os.close(ours)
        assert expected in shown
        assert ("\x1b" in shown) == bool(options)


def test_all_mappings_of_a_file(process: Process) -> None:
    name = next(
        Path(line.split()[-1]).name
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        if "libc.so" in line
    )
    outcome = dump(process, name)
    assert outcome.exit_code == 2
    assert "mappings are called" in outcome.stderr
    assert "--all" in outcome.stderr
    expected = b""
    for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines():
        if line.endswith(f"/{name}"):
            start, end = (int(one, 16) for one in line.split()[0].split("-"))
            expected += process.memory(start, end - start)
    found, said = raw(process, name, "--all")
    assert found == expected
    assert len(said.splitlines()) > 1


@pytest.mark.parametrize(
    ("words", "happened", "status"),
    [
        (["0x"], "'0x' is no address", 2),
        (["0x10"], "nothing is mapped at 0x10", 4),
        (["[heap"], "no mapping is called [heap", 4),
        (["[heap]", "--output", "/dev/full"], "can't write to /dev/full", 1),
        (["[heap]", "--output", "/no/such/file"], "can't write to /no/such/file", 1),
    ],
)
def test_errors_are_two_lines(
    process: Process, words: list[str], happened: str, status: int
) -> None:
    outcome = dump(process, *words)
    assert outcome.exit_code == status, outcome.stderr
    first, hint = outcome.stderr.splitlines()
    assert happened in first
    assert hint.startswith("  hint: ")


def test_a_process_that_is_not_there(process: Process) -> None:
    outcome = run_leaktrace("dump", "-p", "4000000", "[heap]")
    assert outcome.exit_code == 4


def test_a_closed_pipe_ends_it_quietly(process: Process) -> None:
    running = subprocess.Popen(
        [*COMMAND, "dump", "-p", str(process.pid), "[heap]", "--hex"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=tracer_environment(),
    )
    assert running.stdout is not None
    running.stdout.close()
    assert running.stderr is not None
    assert running.stderr.read() == b""
    assert running.wait(60) == 0


def test_without_the_privilege(process: Process) -> None:
    python, environment = anybodys_python()
    command = [*nobody_with(), "env", python, "-m", "leaktrace", "dump", "-p", str(process.pid)]
    done = subprocess.run(
        [*command, "[heap]"],
        capture_output=True,
        text=True,
        env=tracer_environment(environment),
        timeout=60,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    happened, hint = done.stderr.splitlines()
    assert "CAP_SYS_PTRACE" in happened
    assert hint.startswith("  hint: ")
    assert process.process.poll() is None
