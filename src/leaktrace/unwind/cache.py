"""Compiled tables on disk, so that a library is compiled once and not at every start.

A file is found by the build ID and a hash of everything that the table is made from, so an object
that lies about its build ID can't replace the rows of another one. Checksum and order are checked
on load; a file of another user, or one that isn't a plain file, is not read. Nothing here fails:
without a usable cache, tables are compiled.

    magic, TABLE_VERSION, bytes of metadata, number of rows, checksum of what follows
    metadata: JSON, padded to 8 bytes     rows: u64 each
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from leaktrace.cache.files import FileCache
from leaktrace.elf.object import ElfObject
from leaktrace.unwind.budget import TableBudget
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

_MAGIC = b"LTUNWIND"
_CHECKSUM_BYTES = 16
_HEADER = struct.Struct(f"<8sIIQ{_CHECKSUM_BYTES}s")
_MAX_METADATA_BYTES = 1 << 16


class TableCache:
    """Tables by object, at most `limit_bytes` of them; `home` as for `FileCache`."""

    def __init__(self, home: Path | None, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self._files = FileCache(home, "unwind", ".rows", limit_bytes)

    @property
    def problem(self) -> str:
        """Why the last use of the cache failed, "" if it didn't."""
        return self._files.problem

    def table_for(self, elf: ElfObject, budget: TableBudget | None = None) -> UnwindTable:
        """The table of an object: from the cache, or compiled and put there.

        `budget` is that of a run, None for a single table. Raises ObjectFileError as
        `compile_object` does, and OverBudgetError.
        """
        budget = budget or TableBudget()
        source = read_source(elf)
        # Objects are left out whether or not their tables are in the cache.
        budget.admit(elf.shown, source.digest, source.size_bytes)
        table = self.load(source, elf.build_id)
        if table is None:
            with budget.building():
                table = compile_source(source, budget.check)
            self.store(source, elf.build_id, table)
        return table

    def load(self, source: UnwindSource, build_id: str | None) -> UnwindTable | None:
        """The table that was stored for `source`, None without a valid one."""
        name = _file_name(source, build_id)
        data = self._files.read(name)
        if data is None:
            return None
        found = _decode(data)
        if found is None:
            self._files.remove(name)
            return None
        return index_rows(source, *found)

    def store(self, source: UnwindSource, build_id: str | None, table: UnwindTable) -> None:
        """Store a table."""
        self._files.write(_file_name(source, build_id), _encode(table))


def _file_name(source: UnwindSource, build_id: str | None) -> str:
    return f"{build_id or 'no-build-id'}-{source.digest}"


def _encode(table: UnwindTable) -> bytes:
    metadata = json.dumps({"skipped": dict(table.skipped)}).encode()
    metadata += b" " * (-(_HEADER.size + len(metadata)) % 8)
    rows = table.rows.astype("<u8", copy=False).tobytes()
    checksum = _checksum(metadata, rows)
    header = _HEADER.pack(_MAGIC, TABLE_VERSION, len(metadata), len(table.rows), checksum)
    return header + metadata + rows


def _decode(data: bytes) -> tuple[Rows, Mapping[str, int]] | None:
    """Rows and the counts of what was skipped; None unless `data` is complete and valid."""
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
