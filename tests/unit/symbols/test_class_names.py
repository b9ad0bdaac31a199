"""The classes of objects, compared with what the program itself says by typeid."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from leaktrace.symbols import demangle as module
from leaktrace.symbols.class_names import ClassNames
from leaktrace.targets.mappings import Mapping, read_mappings
from leaktrace.targets.present_memory import PresentMemory

# Prints the address, the first word and the class of each object; then waits for the end of stdin.
PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include <cxxabi.h>
#include <sstream>
#include <stdexcept>
#include <typeinfo>

struct Session { virtual ~Session() {} long number = 1; };
namespace app {
struct Base { virtual ~Base() {} long number = 2; };
struct Handler : Base { virtual void handle() {} };
template <class T> struct Box { virtual ~Box() {} T value{}; };
}
namespace { struct Hidden { virtual ~Hidden() {} }; }
struct Both : Session, app::Base { void *more = nullptr; };
struct Shared : virtual Session { virtual void share() {} };

template <class T> void say(const char *kind, T *object) {
  void *whole = dynamic_cast<void *>(object);
  int status = 0;
  char *name = abi::__cxa_demangle(typeid(*object).name(), nullptr, nullptr, &status);
  printf("%s %p %p %s\n", kind, whole, *reinterpret_cast<void **>(object), name);
  free(name);
}

int main() {
  struct Local : Session {};
  say("whole", new Session);
  say("whole", new app::Handler);
  say("whole", new app::Box<int>);
  say("whole", new app::Box<app::Box<Session>>);
  say("whole", new Hidden);
  say("whole", new Local);
  say("whole", new Both);
  say<Session>("whole", new Shared);
  say("whole", static_cast<app::Base *>(new Both));
  say<std::exception>("whole", new std::runtime_error("x"));
  say<std::exception>("whole", new std::exception);
  say<std::ios>("whole", new std::ostringstream);
  printf("end\n");
  fflush(stdout);
  getchar();
}
"""


class Running:
    """The program while it runs."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.said = []
        for line in iter(self.process.stdout.readline, "end\n"):
            assert line, "the program ended"
            _, address, word, name = line.rstrip("\n").split(" ", 3)
            # As LLVM writes it.
            self.said.append((int(address, 16), int(word, 16), name.replace("> >", ">>")))
        self.mappings = read_mappings(self.process.pid)


@contextmanager
def running(path: Path) -> Iterator[Running]:
    program = Running(path)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.communicate()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("classes") / "classes.cpp"
    path.write_text(PROGRAM)
    return path


@pytest.mark.skipif(not module.AVAILABLE, reason="needs the package pycxxfilt")
@pytest.mark.parametrize(
    "flags",
    [("-O2", "-s"), ("-O0", "-s", "-no-pie", "-fno-pie"), ("-O2", "-s", "-static")],
    ids=["pie", "fixed", "static"],
)
def test_classes_are_those_that_the_program_says(
    flags: tuple[str, ...], source: Path, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    path = tmp_path / "classes"
    built = subprocess.run([require_tool("g++"), *flags, "-o", path, source], check=False)
    if built.returncode and "-static" in flags:
        pytest.skip("static libraries are not installed")
    assert built.returncode == 0
    with running(path) as program, PresentMemory(program.process.pid) as memory:
        names = ClassNames(memory.read, program.mappings)
        found = [names.of_vtable(word) for _, word, _ in program.said]
        assert found == [name for _, _, name in program.said]
        assert len(program.said) == 12
        # Addresses in the heap, of code, and beside vtables, are none.
        objects = np.array([address for address, _, _ in program.said], dtype=np.uint64)
        words = np.array([word for _, word, _ in program.said], dtype=np.uint64)
        everything = np.concatenate([objects, words, words, words + np.uint64(4)])
        assert names.classes_of(everything) == {word: name for _, word, name in program.said}


def test_nothing_is_a_class_without_rtti(
    source: Path, tmp_path: Path, require_tool: Callable[[str], str]
) -> None:
    path, plain = tmp_path / "plain", tmp_path / "plain.cpp"
    plain.write_text(
        "#include <cstdio>\nstruct One { virtual ~One() {} };\n"
        'int main() { One *one = new One; printf("x %p %p One\\nend\\n", one, *(void **)one);\n'
        "fflush(stdout); getchar(); }\n"
    )
    subprocess.run([require_tool("g++"), "-fno-rtti", "-o", path, plain], check=True)
    with running(path) as program, PresentMemory(program.process.pid) as memory:
        names = ClassNames(memory.read, program.mappings)
        assert [names.of_vtable(word) for _, word, _ in program.said] == [None]


# --- hostile memory --------------------------------------------------------------------------

BASE, SIZE = 0x10000, 0x4000
FILE = Mapping(BASE, BASE + SIZE, "r--p", 0, "08:01", 7, "/lib/hostile.so")
HEAP = Mapping(BASE + SIZE, BASE + 2 * SIZE, "rw-p", 0, "00:00", 0, "[heap]")
VTABLE, TYPEINFO, NAME = BASE + 0x100, BASE + 0x200, BASE + 0x300
META_VTABLE, META_TYPEINFO, META_NAME = BASE + 0x400, BASE + 0x500, BASE + 0x600


class Memory:
    """Bytes that a test chooses."""

    def __init__(self) -> None:
        self.bytes = bytearray(2 * SIZE)
        self.put(VTABLE - 16, 0, TYPEINFO)
        self.put(TYPEINFO, META_VTABLE, NAME)
        self.put_text(NAME, b"7Session\0")
        self.put(META_VTABLE - 8, META_TYPEINFO)
        self.put(META_TYPEINFO + 8, META_NAME)
        self.put_text(META_NAME, b"N10__cxxabiv117__class_type_infoE\0")

    def put(self, address: int, *words: int) -> None:
        self.put_text(
            address, struct.pack(f"<{len(words)}Q", *(word % (1 << 64) for word in words))
        )

    def put_text(self, address: int, text: bytes) -> None:
        self.bytes[address - BASE : address - BASE + len(text)] = text

    def read(self, address: int, size: int) -> bytes:
        assert BASE <= address < BASE + len(self.bytes)
        return bytes(self.bytes[address - BASE : address - BASE + size])

    def name(self, word: int = VTABLE) -> str | None:
        return ClassNames(self.read, [FILE, HEAP]).of_vtable(word)


def test_a_class_made_by_hand() -> None:
    assert Memory().name() == ("Session" if module.AVAILABLE else "7Session")


@pytest.mark.parametrize("to_top", [8, 1 << 63, -(1 << 40), 0x55501234])
def test_an_offset_to_top_must_make_sense(to_top: int) -> None:
    memory = Memory()
    memory.put(VTABLE - 16, to_top)
    assert memory.name() is None


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"Session",
        b"7Ses sion",
        b"7\x1b[31mX",
        b"\xff\xfe\xfd",
        b"*",
        b"i",
        b"7" + b"A" * 5000,
        b"7" + b"A" * (SIZE - 0x301),  # goes on to the end of the file
    ],
)
def test_a_name_must_look_like_one(name: bytes) -> None:
    memory = Memory()
    memory.put_text(META_NAME + 0x100, name[: SIZE - 0x700] + b"\0")
    memory.put(TYPEINFO + 8, META_NAME + 0x100)
    assert memory.name() is None


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (VTABLE - 8, 0),
        (VTABLE - 8, TYPEINFO + 1),
        (VTABLE - 8, 1 << 63),
        (VTABLE - 8, (1 << 64) - 8),
        (VTABLE - 8, BASE + SIZE + 0x200),  # in the heap
        (VTABLE - 8, VTABLE - 8),  # itself
        (TYPEINFO, 0),
        (TYPEINFO, VTABLE),  # of another class than those of typeinfo
        (TYPEINFO + 8, BASE + SIZE),
        (TYPEINFO + 8, (1 << 64) - 1),
        (META_TYPEINFO + 8, NAME),
    ],
)
def test_all_must_be_in_files_and_a_typeinfo_must_be_one(place: int, value: int) -> None:
    memory = Memory()
    memory.put(place, value)
    memory.put(BASE + SIZE + 0x200, META_VTABLE, NAME)
    assert memory.name() is None


@pytest.mark.parametrize("word", [0, 1, 8, BASE, VTABLE + 1, BASE + SIZE, (1 << 64) - 8])
def test_words_that_are_no_vtable(word: int) -> None:
    assert Memory().name(word) is None


def test_memory_that_cannot_be_read() -> None:
    names = ClassNames(lambda _address, _size: b"", [FILE])
    assert names.of_vtable(VTABLE) is None
    assert ClassNames(Memory().read, []).classes_of(np.array([VTABLE], dtype=np.uint64)) == {}


def test_a_name_is_printable() -> None:
    memory = Memory()
    memory.put_text(NAME, b"7\xff\xfe\xfd\x80abc\0")
    name = memory.name()
    assert name is None or name.isprintable()
