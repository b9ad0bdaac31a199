"""Compiled tables on disk, so that a library is compiled once and not at every start.

A file is found by the build-id and a hash of everything the table is made from, so that an object
which lies about its build-id can't put its rows in the place of another's. It is trusted no
further than that: checksum and order are checked on load, and a file that isn't ours, or isn't a
plain file, is not read. Nothing here fails: without a usable cache, tables are compiled.

    magic, TABLE_VERSION, bytes of metadata, number of rows, checksum of what follows
    metadata: JSON, padded to 8 bytes     rows: u64 each
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from leaktrace.cache_directory import UnusableCacheError, open_cache, open_kept, open_new
from leaktrace.elf import ElfObject
from leaktrace.unwind.rows import PC_SHIFT, Rows
from leaktrace.unwind.table import (
    MAX_EXTENT_BYTES,
    TABLE_VERSION,
    UnwindSource,
    UnwindTable,
    compile_source,
    index_rows,
    read_source,
)

DEFAULT_LIMIT_BYTES = 256 << 20
_PURPOSE = "unwind"  # our directory's name
_SUFFIX = ".rows"
_TEMPORARY_PREFIX = ".new-"
_TEMPORARY_LIFETIME_S = 3600  # older ones were left by a process that was killed

_MAGIC = b"LTUNWIND"
_CHECKSUM_BYTES = 16
_HEADER = struct.Struct(f"<8sIIQ{_CHECKSUM_BYTES}s")
_MAX_METADATA_BYTES = 1 << 16


class TableCache:
    """Tables by object, at most `limit_bytes` of them; the longest unused go first.

    `home` is the directory that holds all caches of the user; None switches caching off.
    `problem` says why the cache could not be used last time it was tried, "" when it could.
    """

    def __init__(self, home: Path | None, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.home = home
        self.limit_bytes = limit_bytes
        self.problem = "" if home else "no cache directory"

    def table_for(self, elf: ElfObject) -> UnwindTable:
        """The table of an object: from the cache, or compiled and put there.

        Raises ObjectFileError as `compile_object` does.
        """
        source = read_source(elf)
        table = self.load(source, elf.build_id)
        if table is None:
            table = compile_source(source)
            self.store(source, elf.build_id, table)
        return table

    def load(self, source: UnwindSource, build_id: str | None) -> UnwindTable | None:
        """The table that was stored for `source`, None where there is no sound one."""
        if self.home is None:
            return None
        name = _file_name(source, build_id)
        with self._problems_noted(), open_cache(self.home, _PURPOSE, create=False) as directory:
            descriptor = open_kept(directory, name)
            try:
                # Read, not mapped: a mapped file that somebody truncates kills the reader.
                data = _read_all(descriptor, self.limit_bytes)
                found = _decode(data)
                if found is None:
                    os.unlink(name, dir_fd=directory)
                    return None
                with suppress(OSError):
                    os.utime(descriptor)  # it was used: see _evict
                rows, skipped = found
                return index_rows(source, rows, skipped)
            finally:
                os.close(descriptor)
        return None

    def store(self, source: UnwindSource, build_id: str | None, table: UnwindTable) -> None:
        """Keep a table. It appears whole or not at all, whoever else is storing it."""
        data = _encode(table)
        if self.home is None or len(data) > self.limit_bytes:
            return
        with self._problems_noted(), open_cache(self.home, _PURPOSE, create=True) as directory:
            temporary = f"{_TEMPORARY_PREFIX}{secrets.token_hex(8)}"
            descriptor = open_new(directory, temporary)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                os.rename(
                    temporary,
                    _file_name(source, build_id),
                    src_dir_fd=directory,
                    dst_dir_fd=directory,
                )
            except OSError:
                with suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
                raise
            self._evict(directory)

    @contextmanager
    def _problems_noted(self) -> Iterator[None]:
        """Whatever goes wrong inside is no more than a table that isn't cached."""
        self.problem = ""
        try:
            yield
        except FileNotFoundError:
            pass  # nothing was stored yet, or another process removed it
        except (OSError, UnusableCacheError) as error:
            self.problem = str(error)

    def _evict(self, directory: int) -> None:
        """Remove the files longest unused until the rest fits; other processes may do the same."""
        kept: list[tuple[float, int, str]] = []
        with os.scandir(directory) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if entry.name.startswith(_TEMPORARY_PREFIX):
                    if time.time() - status.st_mtime > _TEMPORARY_LIFETIME_S:
                        kept.append((0, status.st_size, entry.name))
                elif entry.name.endswith(_SUFFIX):
                    kept.append((status.st_mtime, status.st_size, entry.name))
        total = sum(size for _, size, _ in kept)
        for used, size, name in sorted(kept):
            if used and total <= self.limit_bytes:
                break
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            total -= size


def _file_name(source: UnwindSource, build_id: str | None) -> str:
    return f"{build_id or 'no-build-id'}-{source.digest}{_SUFFIX}"


def _read_all(descriptor: int, limit_bytes: int) -> bytes:
    size = os.fstat(descriptor).st_size
    if size > limit_bytes:
        return b""
    with os.fdopen(descriptor, "rb", closefd=False, buffering=0) as file:
        return file.read(size)


def _encode(table: UnwindTable) -> bytes:
    metadata = json.dumps({"skipped": dict(table.skipped)}).encode()
    metadata += b" " * (-(_HEADER.size + len(metadata)) % 8)
    rows = table.rows.astype("<u8", copy=False).tobytes()
    checksum = _checksum(metadata, rows)
    header = _HEADER.pack(_MAGIC, TABLE_VERSION, len(metadata), len(table.rows), checksum)
    return header + metadata + rows


def _decode(data: bytes) -> tuple[Rows, Mapping[str, int]] | None:
    """Rows and the counts of what was skipped, None unless `data` is whole and sound."""
    if len(data) < _HEADER.size:
        return None
    magic, version, metadata_size, row_count, checksum = _HEADER.unpack_from(data)
    rows_at = _HEADER.size + metadata_size
    if (
        (magic, version) != (_MAGIC, TABLE_VERSION)
        or metadata_size > _MAX_METADATA_BYTES
        or row_count == 0
        or len(data) != rows_at + 8 * row_count
    ):
        return None
    metadata, row_bytes = data[_HEADER.size : rows_at], memoryview(data)[rows_at:]
    if _checksum(metadata, row_bytes) != checksum:
        return None
    rows: Rows = np.frombuffer(row_bytes, dtype="<u8")
    pcs = rows >> np.uint64(PC_SHIFT)
    if not np.all(pcs[1:] > pcs[:-1]) or int(pcs[-1]) > MAX_EXTENT_BYTES:
        return None
    try:
        skipped = json.loads(metadata)["skipped"]
        return rows, {str(reason): int(count) for reason, count in skipped.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _checksum(metadata: bytes, rows: bytes | memoryview) -> bytes:
    state = hashlib.blake2b(metadata, digest_size=_CHECKSUM_BYTES)
    state.update(rows)
    return state.digest()
