"""Separate debug information, in every place where it may be."""

from __future__ import annotations

import lzma
import os
from pathlib import Path

import pytest
from debug_samples import Sample, assert_found, assert_missing

from leaktrace.elf.object import ElfObject
from leaktrace.errors import ObjectFileError
from leaktrace.options import SymbolOptions
from leaktrace.symbols.debug_files import mini_symbols
from leaktrace.symbols.debug_information import LookupContext

pytestmark = pytest.mark.usefixtures("no_servers")


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
    """An absolute symbolic link is resolved as in the target."""
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


@pytest.mark.parametrize("inlines", [True, False])
def test_no_lines(sample: Sample, inlines: bool) -> None:
    """Debug information may still be read, for inlined functions, but no line of it is shown."""
    sample.strip()
    sample.put(sample.by_build_id())
    context = LookupContext.of(SymbolOptions(lines=False, inlines=inlines))
    frame = sample.frame(sample.module(context=context))
    assert frame.source is None
    assert frame.function is not None
