"""Reads the mappings of a process again when they may have changed, and follows the process there.

A command stops at the first call of each image that it executes, so that its objects are hooked
before anything is missed. It continues after the look.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from leaktrace.abi import process as abi
from leaktrace.errors import LeaktraceError, TargetError
from leaktrace.process import notes
from leaktrace.process.event_intake import EventDispatch, Intake
from leaktrace.process.probes.planner import ChosenNotMappedError
from leaktrace.process.traced import Traced
from leaktrace.targets.mappings import Mapping, NoMappingsError, read_mappings
from leaktrace.targets.process import is_running


class Looks:
    """Looks at one process."""

    def __init__(self, traced: Traced, events: EventDispatch) -> None:
        self._slot = traced.slot
        self._traced = traced
        self._intake = Intake(traced)
        self._events = events
        events.add(traced.slot.number, self._intake)
        self._is_looking = False

    def next_s(self) -> float | None:
        """When `look_if_due` is due, on the clock of time.monotonic(); None: it isn't."""
        if self._intake.must_look:
            return time.monotonic()
        traced = self._traced
        due = (
            traced.look_times.next_s(),
            traced.hooks.children_due_s(),
            traced.regions.next_look_s(),
        )
        return min((one for one in due if one is not None), default=None)

    def look_if_due(self, traced_pids: Collection[int]) -> None:
        """After an exec, find the libraries, which the loader maps one at a time. After a fork,
        remove the breakpoints that children have inherited, unless they are traced, too."""
        traced = self._traced
        if self._intake.must_look or traced.look_times.take_due():
            self._intake.must_look = False
            self.look()
            self.proceed_if_forgotten()
        children_s = traced.hooks.children_due_s()
        if children_s is not None and children_s <= time.monotonic():
            traced.hooks.repair_children(traced.mappings(), traced_pids)
        traced.regions.look_if_due()

    def take_in(self) -> None:
        """Take in the events that have arrived, and look if they ask for it."""
        self._events.take_in()
        self.look_if_asked()

    def look_if_asked(self) -> None:
        """Look if the events that were taken in ask for it."""
        if self._intake.must_look:
            self._intake.must_look = False
            self.look()
        self._traced.regions.look_if_due()

    def look(self) -> None:
        """Read the mappings: unwind tables and names for new objects, probes on new allocators.

        What goes wrong becomes a note.
        """
        traced = self._traced
        if self._is_looking:  # events that arrived meanwhile ask for another look
            traced.look_times.at_once()
            return
        if not traced.process.is_alive():
            return
        self._is_looking = True
        try:
            self.note_lost_loads()
            epoch, mappings = self._epoch_and_mappings()
            traced.see_mappings(mappings, epoch)
        except NoMappingsError:
            # A process that lives has mappings, except while it executes a program.
            if traced.process.is_alive() and not is_running(traced.pid):
                traced.notes.add(notes.FIRST_THREAD_EXITED)
        except TargetError as error:
            if traced.process.is_alive():
                traced.notes.add(error.message)
        except ChosenNotMappedError:
            pass
        except LeaktraceError as error:
            traced.notes.add(notes.of_untraced_object(error.message))
        finally:
            self._is_looking = False
        self._proceed_if_begun()

    def close(self) -> None:
        """No events come any more."""
        self._events.remove(self._slot.number)

    def note_lost_loads(self) -> None:
        """Find the epochs of which events of loaded objects may be lost (symbols/views.py)."""
        sent_up_to = int(self._slot.session_now()["sent_epoch"])
        lost = self._slot.program.losses.lookup(int(abi.LossKind.REGION_EVENTS))
        assert lost is not None  # an array has all its entries
        epoch = int(self._slot.session_now()["epoch"])
        self._traced.symbolizer.views.gaps.update(sent_up_to, int(lost), epoch)

    def _epoch_and_mappings(self) -> tuple[int, tuple[Mapping, ...]]:
        """The last epoch of which all events were taken in, and the mappings of that time or later.

        The events up to that epoch are applied before the mappings are used. So an object that was
        loaded and unloaded before is known, and is not confused with the one that took its place.
        """
        traced = self._traced
        while True:
            epoch = int(self._slot.session_now()["sent_epoch"])
            mappings = read_mappings(traced.pid)
            image = (traced.generation, traced.begun)
            self.take_in()
            if (traced.generation, traced.begun) == image:  # otherwise they are another program's
                return epoch, mappings

    def _proceed_if_begun(self) -> None:
        """Continue the command if it is stopped as its image was executed, or at the first call. If
        it has executed another program since then, it waits for that program's event."""
        traced = self._traced
        if traced.begun is None:
            return
        if traced.begun == self._slot.generation():
            stop = abi.stop_at(traced.generation, is_first_call=not traced.is_at_exec)
            self._proceed(stop)
        traced.begun, traced.is_at_exec = None, False

    def _proceed(self, stop: int) -> None:
        """Continue the command if it was really stopped: somebody else may have done it."""
        traced = self._traced
        is_left = stop <= traced.continued  # process/stop_watch.py did it
        traced.continued = max(traced.continued, stop)
        is_last = int(self._slot.session_now()["stop"]) == stop
        if traced.command is not None and is_last and not is_left:
            traced.files.see_start()
            traced.command.proceed()

    def proceed_if_forgotten(self) -> None:
        """Continue a command if the event of its stop was lost: it would stay stopped."""
        traced = self._traced
        if traced.command is None or not traced.process.is_stopped():
            return
        stop = int(self._slot.session_now()["stop"])
        if stop > traced.continued:
            self.look()
            self._proceed(stop)
