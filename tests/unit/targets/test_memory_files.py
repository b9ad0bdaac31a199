"""Which file systems are in memory, as the machine itself says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from leaktrace.targets.mappings import device_text
from leaktrace.targets.memory_files import memory_devices


def device_of(path: str) -> str:
    return device_text(Path(path).stat().st_dev)


def test_this_machine() -> None:
    found = memory_devices(os.getpid())
    assert device_of("/dev/shm") in found
    assert device_of("/proc") not in found
    assert (
        device_of(__file__) not in found
        or "tmpfs"
        in subprocess.run(
            ["stat", "-f", "-c", "%T", __file__], capture_output=True, text=True, check=True
        ).stdout
    )


def test_a_process_that_has_ended() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert memory_devices(process.pid) == frozenset()
