"""Compiled programs: cached and reused, never a wrong one; loaded, or refused with a reason."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

import pytest

from leaktrace.bpf import load as loader
from leaktrace.bpf import syscalls
from leaktrace.bpf.build import ImageRequest, compiler_started_early
from leaktrace.bpf.compiler_process import CompilerChild
from leaktrace.bpf.image import Image
from leaktrace.bpf.load import ProgramKind, RefusedError
from leaktrace.bpf.syscalls import MapDefinition
from leaktrace.errors import ProgramError
from leaktrace.process.program import FRAGMENTS
from leaktrace.process.walkers import Walker
from leaktrace.ranking.new_pages import RANKING_FRAGMENTS

pytestmark = pytest.mark.usefixtures("require_bpf")

KNOBS = Walker.TAIL_CALLS.knobs()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "leaktrace/programs"


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on nothing can be compiled."""

    def refuse(*_: object) -> None:
        raise AssertionError("the compiler is started")

    monkeypatch.setattr(CompilerChild, "__init__", refuse)


def compiled(knobs: Mapping[str, int] = KNOBS) -> Image:
    return ImageRequest(FRAGMENTS, knobs).finish()


@pytest.fixture(scope="module")
def kept_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of one compilation, for all tests."""
    directory = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(directory))
        compiled()
    return directory / "leaktrace/programs"


@pytest.fixture
def first(cache: Path, kept_once: Path) -> Image:
    """The program that was compiled and cached."""
    shutil.copytree(kept_once, cache)
    return compiled()


def test_what_was_compiled_is_used_again(first: Image, no_compiler: None) -> None:
    assert compiled() == first
    with compiler_started_early():
        assert compiled() == first


def test_another_knob_is_another_program(first: Image, cache: Path) -> None:
    other = compiled({**KNOBS, "MIN_SIZE": 4096})
    assert other.maps == first.maps
    assert other.programs["enter_any"] != first.programs["enter_any"]
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "other", "not compressed"])
def test_a_damaged_file_is_compiled_again(cache: Path, damage: str) -> None:
    """The program is the one that is compiled fastest."""
    first = ImageRequest(RANKING_FRAGMENTS, {}).finish()
    (kept,) = cache.iterdir()
    data = kept.read_bytes()
    middle = len(data) // 2
    kept.write_bytes(
        {
            "cut": data[:middle],
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "empty": b"",
            "other": b'{"maps": 3}',
            "not compressed": hashlib.blake2b(b"{}", digest_size=16).hexdigest().encode() + b"\n{}",
        }[damage]
    )
    assert ImageRequest(RANKING_FRAGMENTS, {}).finish() == first
    assert kept.read_bytes() == data


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"maps": [{}], "programs": {}}', '{"maps": 3}'])
def test_what_is_not_an_image(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a compiled program|Expecting value"):
        Image.from_json(text.encode())


def test_an_image_survives_being_sent(first: Image) -> None:
    assert Image.from_json(first.to_json()) == first
    assert json.loads(first.to_json())["maps"][0]["name"] == first.maps[0].name


def test_maps_are_made_as_large_as_asked(first: Image) -> None:
    capacities = {"allocations": 1234, "unwind_rows": 77}
    loaded = loader.load(
        first, [ProgramKind("at_sched_process_exit", syscalls.PROG_TYPE_RAW_TRACEPOINT)], capacities
    )
    try:
        for name, capacity in capacities.items():
            fdinfo = Path(f"/proc/self/fdinfo/{loaded.maps[name]}").read_text()
            assert f"max_entries:\t{capacity}\n" in fdinfo
    finally:
        loaded.close()


def test_a_map_that_cannot_be_made(first: Image) -> None:
    with pytest.raises(ProgramError, match="can't make the map allocations: ") as caught:
        loader.load(first, [], {"allocations": 0})
    assert caught.value.hint == "lower --max-allocs"


def test_a_refused_program_says_what_the_verifier_said() -> None:
    exit_without_result = struct.pack("<BBhi", 0x95, 0, 0, 0)
    image = Image((MapDefinition("one", 2, 4, 8, 1, 0),), {"bad": exit_without_result})
    before = set(Path("/proc/self/fd").iterdir())
    with pytest.raises(RefusedError, match=r"refused the BPF program bad: R0 !read_ok"):
        loader.load(image, [ProgramKind("bad", syscalls.PROG_TYPE_KPROBE)], {})
    assert set(Path("/proc/self/fd").iterdir()) == before
