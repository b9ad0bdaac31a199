"""Which mapped object the user means."""

from __future__ import annotations

import pytest

from leaktrace.process.probes.planner import is_called

FOLDER = "/usr/lib/x86_64-linux-gnu"


@pytest.mark.parametrize(
    ("name", "choice", "is_meant"),
    [
        ("libsqlite3.so.0.8.6", "libsqlite3.so.0.8.6", True),
        ("libsqlite3.so.0.8.6", "libsqlite3.so.0", True),  # what ldd(1) shows
        ("libsqlite3.so.0.8.6", "libsqlite3.so", True),
        ("libsqlite3.so.0.8.6", "sqlite3", True),
        ("libsqlite3.so.0.8.6", f"{FOLDER}/libsqlite3.so.0.8.6", True),
        ("libc-2.31.so", "c", True),
        ("libsqlite3.so.0.8.6", "libsqlite3.so.0.8", True),
        ("libsqlite3.so.0.8.6", "libsqlite3.so.1", False),
        ("libsqlite3.so.08", "libsqlite3.so.0", False),
        ("libsqlite3.so.0.8.6", "libsqlite", False),
        ("libcrypto.so.3", "c", False),
        ("server.so.old", "server", False),
    ],
)
def test_the_name_of_an_object(name: str, choice: str, is_meant: bool) -> None:
    assert is_called(f"{FOLDER}/{name}", choice) is is_meant
