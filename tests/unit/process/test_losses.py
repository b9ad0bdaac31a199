"""The report's words for each kind of loss, and whether the advice can be followed."""

from __future__ import annotations

import re

import numpy as np
import pytest
from harness.reports import WALKS

from leaktrace.abi import process as abi
from leaktrace.abi.process import ALLOCATION_LOSSES
from leaktrace.cli.trace import command as trace_command
from leaktrace.kernel.losses import describe_kernel_losses
from leaktrace.model import Loss
from leaktrace.options import Limits
from leaktrace.process import notes
from leaktrace.process.losses import describe_losses
from leaktrace.process.walkers import Walker

LIMITS = Limits()
LOSSES = {
    loss.name: loss for loss in describe_losses(np.zeros(abi.LOSS_COUNTERS, np.uint64), LIMITS)
}
KERNEL_LOSSES = describe_kernel_losses(np.zeros(64, np.uint64), 0, LIMITS)
OPTIONS = {word for option in trace_command.params for word in option.opts}


@pytest.mark.parametrize("loss", [*LOSSES.values(), *KERNEL_LOSSES], ids=lambda loss: loss.name)
def test_options_that_are_named_exist(loss: Loss) -> None:
    named = set(re.findall(r"(?<!\w)--?[a-z][-a-z]*", loss.hint.replace("doctor -p PID", "doctor")))
    assert named <= OPTIONS


@pytest.mark.parametrize("loss", [*LOSSES.values(), *KERNEL_LOSSES], ids=lambda loss: loss.name)
def test_what_is_full_can_be_made_larger(loss: Loss) -> None:
    """The hint also names the present size."""
    if re.search(r"\bfull\b", loss.meaning):
        assert re.search(r"raise --[-a-z]+ \(now [\d,]+\)", loss.hint)


def test_what_only_concerns_callers_is_not_lost() -> None:
    """Where a walk ends, the allocation is in the figures."""
    assert {loss.name for loss in LOSSES.values() if not loss.is_lost} == WALKS
    silent = {"guessed_stacks", "generated_code"}  # a note says what to do
    assert {name for name in WALKS if not LOSSES[name].hint} == silent


def test_a_return_probe_need_not_be_another_tools() -> None:
    """One of ours, interrupted by a signal whose handler allocates, ends a walk, too."""
    loss = LOSSES["foreign_probes"]
    assert "another tool" not in loss.meaning
    assert "leaktrace's own" in loss.hint


def test_kinds_of_allocations_that_are_missing() -> None:
    """Those that make a figure doubtful are not of walks, nor bytes of another counter."""
    assert abi.LossKind.ALLOCATION_BYTES not in ALLOCATION_LOSSES
    assert max(ALLOCATION_LOSSES) < abi.LossKind.WALKS


def test_a_note_is_kept_once() -> None:
    kept = notes.Notes()
    kept.add("b")
    kept.add("a", "b")
    assert list(kept) == ["b", "a"]


def test_why_stacks_are_walked_by_frame_pointers(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(machine: str, *, was_chosen: bool = False) -> list[str]:
        monkeypatch.setattr("leaktrace.process.notes.machine", lambda: machine)
        return list(notes.of_walker(Walker.FRAME_POINTERS, was_chosen=was_chosen))

    assert "this kernel refused" in said("x86_64")[0]
    assert "kernel" not in said("aarch64")[0]
    assert "not supported on aarch64" in said("aarch64")[0]
    assert said("x86_64", was_chosen=True) == []
