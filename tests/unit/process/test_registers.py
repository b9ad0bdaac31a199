"""The records of the kernel side, as arrays."""

from __future__ import annotations

import numpy as np
import pytest

from leaktrace.abi import registers as abi
from leaktrace.arch import x86_64
from leaktrace.arch.machines import MACHINES
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.process import registers as module
from leaktrace.process.registers import RegisterReader
from leaktrace.targets.thread_registers import Registers


def records(*saved: list[int]) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Threads 101, 102, … with these words of struct pt_regs."""
    threads = np.zeros(len(saved), dtype=abi.SAVED_THREAD)
    threads["tid"] = np.arange(101, 101 + len(saved))
    threads["tgid"] = 101
    threads["registers"] = saved
    return threads


def test_registers_of_two_threads() -> None:
    threads = records(list(range(1000, 1021)), list(range(2000, 2021)))
    threads["is_running"] = (0, 1)
    threads["fs_base"] = (0x7F00_0000_0740, 0)
    read = Registers.from_records(threads.tobytes())
    assert read.tids.tolist() == [101, 102]
    assert read.is_running.tolist() == [False, True]
    assert read.stack_pointers.tolist() == [1019, 2019]
    assert read.thread_pointers.tolist() == [0x7F00_0000_0740, 0]
    assert read.words.tolist() == [list(range(1000, 1015)), list(range(2000, 2015))]
    assert read.words.dtype == read.stack_pointers.dtype == np.uint64
    assert read.words.flags["C_CONTIGUOUS"]


def test_no_thread() -> None:
    read = Registers.from_records(b"")
    assert read.words.shape == (0, 15)
    assert len(read.tids) == len(read.is_running) == len(read.thread_pointers) == 0


def test_a_worker_of_io_uring_has_no_registers_of_its_own() -> None:
    copied = [7] * abi.SAVED_REGISTERS
    worker = copied.copy()
    worker[x86_64.SAVED_IP] = worker[x86_64.SAVED_SP] = 0
    assert Registers.from_records(records(copied, worker).tobytes()).tids.tolist() == [101]


def test_part_of_a_record_is_an_error() -> None:
    with pytest.raises(ValueError, match="multiple of element size"):
        Registers.from_records(records([0] * abi.SAVED_REGISTERS).tobytes()[:-8])


def test_a_machine_with_other_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "this_machine", lambda: MACHINES["aarch64"])
    with pytest.raises(EnvironmentUnfitError, match="where this machine keeps the registers"):
        RegisterReader()
