"""Takes in what the kernel side reports of the traced processes: their regions, and that they
execute, load, fork."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.bpf.events import EventStream
from leaktrace.process import notes
from leaktrace.process.traced import Traced
from leaktrace.targets.loader import LoadedObject
from leaktrace.targets.mappings import Mapping
from leaktrace.tracing.events import decode_with_messages


@dataclass(frozen=True)
class Fork:
    """A process has forked another one."""

    pid: int  # of the new process; 0: not known
    parent_pid: int
    slot: int  # of the parent; MAX_SLOTS: it is not traced (yet)


class EventDispatch:
    """Takes the events of one stream to the processes that they are about, in the order in which
    they happened."""

    def __init__(self, stream: EventStream) -> None:
        self._stream = stream
        self._intakes: dict[int, Intake] = {}  # by slot
        self._forks: list[Fork] = []

    def add(self, slot: int, intake: Intake) -> None:
        """Events of this slot go to this process from now on."""
        self._intakes[slot] = intake

    def remove(self, slot: int) -> None:
        """No process has this slot any more."""
        self._intakes.pop(slot, None)

    def take_in(self) -> None:
        """Apply the events that have arrived."""
        touched: set[Intake] = set()
        for event, message in decode_with_messages(self._stream.drain()):
            if int(event["kind"]) == abi.EventCode.FORKED:
                where = (int(event[name]) for name in ("address", "size", "slot"))
                self._forks.append(Fork(*where))
            intake = self._intakes.get(int(event["slot"]))
            if intake is not None and int(event["time_ns"]) >= intake.since_ns:
                intake.apply(event, message)
                touched.add(intake)
        for intake in touched:
            intake.forget_mappings()

    @property
    def has_forks(self) -> bool:
        """Whether `take_forks` has something to return."""
        return bool(self._forks)

    def take_forks(self) -> list[Fork]:
        """The forks since the last call."""
        forks, self._forks = self._forks, []
        return forks


class Intake:
    """Applies the events of one process."""

    def __init__(self, traced: Traced) -> None:
        self._traced = traced
        self.since_ns = traced.slot.since_ns  # events from before are about another process
        self._mapped: tuple[Mapping, ...] | None = None
        self.must_look = False  # an event asks for the mappings to be read again at once

    def forget_mappings(self) -> None:
        """Those that were read for some events may have changed for others."""
        self._mapped = None

    def _mappings(self) -> tuple[Mapping, ...]:
        if self._mapped is None:
            self._mapped = self._traced.mappings()
        return self._mapped

    def apply(self, event: np.void, message: bytes) -> None:
        """Apply one event; `message` is all of it."""
        traced = self._traced
        generation = int(event["generation"])
        # The exec's own event comes first. If it is lost, any later event shows the exec.
        if generation > traced.generation:
            traced.execute(generation)
            self.forget_mappings()
        is_current = generation == traced.generation
        match int(event["kind"]):
            case abi.EventCode.EXEC:
                if event["address"] != event["tid"]:
                    self._detach_from_first_thread()
                    self.must_look = True
                if traced.command is not None and generation > traced.first_generation:
                    traced.begun, traced.is_at_exec = generation, True
                    self.must_look = True
            case abi.EventCode.STARTED:
                traced.begun, traced.is_at_exec = generation, False
                self.must_look = True
            case abi.EventCode.UNKNOWN_CODE:
                self.must_look = True
            case abi.EventCode.LOADED if is_current:
                loaded = LoadedObject.from_message(message)
                if traced.symbolizer.see_loaded(loaded, self._mappings):
                    self.must_look = True
                else:  # the kernel side knows the object and walks through it already
                    traced.look_times.after_load()
            case abi.EventCode.FORKED:
                traced.hooks.forked()
            case _ if is_current:
                self._apply_region(event)

    def _detach_from_first_thread(self) -> None:
        self._traced.hooks.detach_objects()
        self._traced.notes.add(notes.THREAD_EXECUTED)

    def _apply_region(self, event: np.void) -> None:
        traced = self._traced
        if traced.own.takes(event):
            traced.regions.displace(event)
        else:
            traced.regions.apply(event)
