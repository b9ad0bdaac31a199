"""A debuginfod(8) server of elfutils on this machine, which has the debug files of a folder."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.lines import DEADLINE_S

_ATTEMPTS = 5  # the port that was free may be taken by another program
_LISTEN = "--listen-address"  # since elfutils 0.190; before, on all addresses


@contextmanager
def serving(program: str, folder: Path, build_id: str) -> Iterator[str]:
    """While entered: a server, whose address is returned once it has the debug file of this build
    ID."""
    said = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    only_here = [f"{_LISTEN}=127.0.0.1"] if _LISTEN in said else []
    for _ in range(_ATTEMPTS):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        with subprocess.Popen(
            [program, "-p", str(port), "-d", ":memory:", *only_here, "-F", folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as server:
            try:
                url = f"http://127.0.0.1:{port}"
                if _has(server, url, build_id):
                    yield url
                    return
            finally:
                server.kill()
    raise AssertionError("debuginfod does not start")


def _has(server: subprocess.Popen[bytes], url: str, build_id: str) -> bool:
    """Wait until it has scanned the folder. False if it has ended."""
    # No proxy of the environment is asked for an address of this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline_s = time.monotonic() + DEADLINE_S
    while server.poll() is None:
        try:
            with opener.open(f"{url}/buildid/{build_id}/debuginfo", timeout=DEADLINE_S):
                return True
        except OSError:  # not listening yet, or not yet there (404)
            assert time.monotonic() < deadline_s, f"debuginfod has no {build_id}"
            time.sleep(0.05)
    return False
