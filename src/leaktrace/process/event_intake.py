"""Takes in what the kernel side reports of a process: its regions, and that it executes, loads,
forks."""

from __future__ import annotations

from functools import cache

import numpy as np

from leaktrace.abi import process as abi
from leaktrace.bpf.events import EventStream
from leaktrace.process import notes
from leaktrace.process.traced import Traced
from leaktrace.targets.loader import LoadedObject
from leaktrace.tracing.events import decode_with_messages


class Intake:
    """Applies the events of one stream to one process, in the order in which they happened."""

    def __init__(self, stream: EventStream, traced: Traced) -> None:
        self._stream = stream
        self._traced = traced

    def take_in(self) -> bool:
        """Apply the events that have arrived. Returns whether they ask for the mappings to be read
        again at once."""
        traced = self._traced
        mapped = cache(traced.mappings)  # read once, if needed
        must_look = False
        for event, message in decode_with_messages(self._stream.drain()):
            generation = int(event["generation"])
            # The exec's own event comes first. If it is lost, any later event shows the exec.
            if generation > traced.generation:
                traced.execute(generation)
                mapped = cache(traced.mappings)
            is_current = generation == traced.generation
            match int(event["kind"]):
                case abi.EventCode.EXEC:
                    if event["address"] != event["tid"]:
                        self._detach_from_first_thread()
                        must_look = True
                case abi.EventCode.STARTED:
                    traced.begun = generation
                    must_look = True
                case abi.EventCode.UNKNOWN_CODE:
                    must_look = True
                case abi.EventCode.LOADED if is_current:
                    loaded = LoadedObject.from_message(message)
                    if traced.symbolizer.see_loaded(loaded, mapped):
                        must_look = True
                    else:  # the kernel side knows the object and walks through it already
                        traced.look_times.after_load()
                case abi.EventCode.FORKED:
                    traced.hooks.forked()
                case _ if is_current:
                    self._apply_region(event)
        return must_look

    def _detach_from_first_thread(self) -> None:
        self._traced.hooks.detach_objects()
        self._traced.notes.add(notes.THREAD_EXECUTED)

    def _apply_region(self, event: np.void) -> None:
        traced = self._traced
        if traced.own.takes(event):
            traced.regions.release(int(event["address"]), int(event["size"]))
        else:
            traced.regions.apply(event)
