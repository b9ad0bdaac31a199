"""The kernel's answers to loading a program, and the loader's reactions."""

from __future__ import annotations

import ctypes
import errno

import numpy as np
import pytest

from leaktrace.bpf import load as loader
from leaktrace.bpf import syscalls
from leaktrace.bpf.image import Image
from leaktrace.bpf.iterators import TRACE_ITER
from leaktrace.bpf.load import ProgramKind, RefusedError
from leaktrace.bpf.syscalls import MapDefinition
from leaktrace.errors import EnvironmentUnfitError, LeaktraceError, ProgramError

PROGRAM = Image((), {"one": bytes(8)})
KINDS = [ProgramKind("one", syscalls.PROG_TYPE_KPROBE)]


def answering(monkeypatch: pytest.MonkeyPatch, *answers: int) -> list[int]:
    """A kernel that gives these answers, then repeats the last one. Returns the commands it
    gets."""
    commands: list[int] = []

    def bpf(command: int, _attributes: ctypes.Array[ctypes.c_char]) -> int:
        commands.append(command)
        return answers[min(len(commands), len(answers)) - 1]

    monkeypatch.setattr(syscalls, "bpf", bpf)
    return commands


def test_a_verifier_that_a_signal_interrupts_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = answering(monkeypatch, -errno.EAGAIN, -errno.EAGAIN, 1234)
    assert loader.load(PROGRAM, KINDS, {}).programs == {"one": 1234}
    assert len(commands) == 3


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (errno.EAGAIN, ProgramError, "can't load the BPF program one: Resource temporarily"),
        (errno.ENOMEM, ProgramError, "can't load the BPF program one: Cannot allocate memory"),
        (errno.EMFILE, EnvironmentUnfitError, "too many open files"),
        (errno.EPERM, EnvironmentUnfitError, "does not permit loading BPF programs"),
        (errno.EACCES, RefusedError, "refused the BPF program one: Permission denied"),
        (errno.EINVAL, RefusedError, "refused the BPF program one: Invalid argument"),
    ],
)
def test_only_what_the_verifier_refuses_is_tried_another_way(
    monkeypatch: pytest.MonkeyPatch, code: int, error: type[LeaktraceError], message: str
) -> None:
    answering(monkeypatch, -code)
    with pytest.raises(error, match=message) as caught:
        loader.load(PROGRAM, KINDS, {})
    assert isinstance(caught.value, RefusedError) == (error is RefusedError)
    assert caught.value.hint


def test_a_tracing_program_says_what_it_is_attached_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets of union bpf_attr (include/uapi/linux/bpf.h)."""
    given: list[bytes] = []

    def bpf(_command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
        given.append(attributes.raw)
        return -errno.EINVAL

    monkeypatch.setattr(syscalls, "bpf", bpf)
    kind = ProgramKind("one", syscalls.PROG_TYPE_TRACING, TRACE_ITER, attach_btf_id=0x1234)
    with pytest.raises(RefusedError):
        loader.load(PROGRAM, [kind], {})
    assert len(given) > 1  # again, for the verifier's log
    for attributes in given:
        words = np.frombuffer(attributes, dtype="<u4")
        assert (words[0], words[68 // 4], words[108 // 4]) == (26, 28, 0x1234)
        assert not words[72 // 4 : 108 // 4].any()


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("allocations", "--max-allocs"),
        ("sites", "--max-stacks"),
        ("threads", "--max-threads"),
        ("trace_events", "--event-buffer-size"),
        ("unwind_rows", "--stack-walker fp"),
    ],
)
def test_a_map_too_large_names_the_option_that_makes_it_smaller(
    monkeypatch: pytest.MonkeyPatch, name: str, option: str
) -> None:
    answering(monkeypatch, -errno.ENOMEM)
    image = Image((MapDefinition(name, 1, 8, 8, 1, 0),), {})
    with pytest.raises(ProgramError, match=f"can't make the map {name}: ") as caught:
        loader.load(image, [], {})
    assert option in caught.value.hint
