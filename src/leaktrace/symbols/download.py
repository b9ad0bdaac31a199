"""A separate program that fetches a file from a server and writes it to a descriptor.

    python -m leaktrace.symbols.download PARENT ADDRESS FILE SILENCE_S MAX_BYTES

PARENT is the pid of the tracer, FILE the number of an inherited descriptor. On failure the program
writes the reason to stderr. Its exit status is 1 if the server doesn't have the file, or the file
is too large, and 2 if the server failed. It is separate from its user (debuginfod.py) because
killing it ends whatever a server does, and because HTTP and TLS take seven megabytes of memory.
"""

from __future__ import annotations

import http.client
import os
import sys
import time
import urllib.error
import urllib.request

from leaktrace.symbols.parent_death import end_with

NO_FILE, NO_SERVER = 1, 2

_PIECE_BYTES = 1 << 20
_SLOW_AFTER_S = 30
_SLOW_BYTES_PER_S = 10_000


class _FailedError(Exception):
    def __init__(self, reason: str, status: int = NO_SERVER) -> None:
        super().__init__(reason)
        self.status = status


def _download(address: str, file: int, silence_s: float, max_bytes: int) -> None:
    request = urllib.request.Request(address, headers={"User-Agent": "leaktrace"})
    try:
        with urllib.request.urlopen(request, timeout=silence_s) as answer:
            _copy(answer, file, max_bytes)
    except urllib.error.HTTPError as error:
        reason = "does not have it" if error.code == 404 else f"HTTP status {error.code}"
        raise _FailedError(reason, NO_FILE) from error
    except TimeoutError as error:
        raise _FailedError(f"sent nothing for {silence_s:g} s") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _FailedError(f"didn't answer for {silence_s:g} s") from error
        raise _FailedError(str(error.reason)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _FailedError(str(error) or type(error).__name__) from error


def _copy(answer: http.client.HTTPResponse, file: int, max_bytes: int) -> None:
    promised, received = answer.length, 0
    reason = f"the file is larger than the {max_bytes >> 20:,} MB left for debug files"
    too_large = _FailedError(reason, NO_FILE)
    if promised is not None and promised > max_bytes:
        raise too_large
    started_s = time.monotonic()
    while piece := answer.read1(_PIECE_BYTES):  # read1 doesn't wait for a whole piece
        received += len(piece)
        if received > max_bytes:
            raise too_large
        spent_s = time.monotonic() - started_s
        if spent_s > _SLOW_AFTER_S and received < spent_s * _SLOW_BYTES_PER_S:
            raise _FailedError(f"sends less than {_SLOW_BYTES_PER_S // 1000} KB per second")
        _write(file, piece)
    if promised is not None and received != promised:
        raise _FailedError("the connection broke off")


def _write(file: int, piece: bytes) -> None:
    left = memoryview(piece)
    try:
        while left:
            left = left[os.write(file, left) :]
    except OSError as error:
        raise _FailedError(f"its answer can't be written: {error.strerror}", NO_FILE) from error


def main() -> None:
    parent, address, file, silence_s, max_bytes = sys.argv[1:]
    end_with(int(parent))
    try:
        _download(address, int(file), float(silence_s), int(max_bytes))
    except _FailedError as failure:
        print(failure, file=sys.stderr)
        raise SystemExit(failure.status) from None


if __name__ == "__main__":
    main()
