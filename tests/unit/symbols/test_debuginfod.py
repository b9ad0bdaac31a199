"""Debug files that are downloaded (debuginfod(8))."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from debug_samples import Sample, Server, assert_found, assert_missing, kept_files, offer, page

from leaktrace.elf.object import ElfObject
from leaktrace.symbols import debuginfod
from leaktrace.symbols.debug_files import find_debug_file
from leaktrace.targets.root import TargetRoot

pytestmark = pytest.mark.usefixtures("no_servers")


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
    """As with sudo, where that keeps $HOME."""
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
