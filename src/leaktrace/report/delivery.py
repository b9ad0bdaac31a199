"""How finished text gets to its place, so that neither a slow reader nor a full disk stops tracing.

A message is what a reporter writes at once: a report, or a batch of traced calls. It arrives whole
or not at all, as far as its destination allows that. What doesn't arrive is counted, and told on
stderr.

* A pipe, a terminal, a socket or a device is written by a thread. While its reader doesn't read,
  messages wait, 4 MiB at most. Then the oldest are left out, so that the last report arrives.
* A file is written at once. If its disk is full, the message is left out.
* What traces nothing waits for its reader, and ends if the disk is full.
"""

from __future__ import annotations

import os
import select
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from leaktrace.errors import OutputError
from leaktrace.notices import hint, notify
from leaktrace.own.interrupts import held_back

MOST_WAITING_BYTES = 4 << 20
# A reader that reads takes a message in less. So a closed pipe is known at once, as if no thread
# were between.
_AT_ONCE_S = 0.05
_ROOM_S = 1.0  # for one that is slow
_STALL_S = 0.5  # it has stopped if it takes nothing for so long
PATIENCE_S = 3.0  # for a reader that doesn't read, once the run was told to end
_LOOK_S = 0.1  # how often it is looked whether the run was told to end


@dataclass(frozen=True)
class Message:
    """`call_count`: how many traced calls it has; 0: it is a report."""

    data: bytes
    call_count: int = 0


@dataclass
class Missing:
    """What has not arrived."""

    unread_reports: int = 0  # the reader was too slow, or had stopped
    unread_calls: int = 0
    unwritten_reports: int = 0  # the disk was full, or failed
    unwritten_calls: int = 0


class Destination(ABC):
    """Where messages go."""

    def __init__(self, name: str) -> None:
        self.name = name  # for people
        self.missing = Missing()
        self._failure: OSError | None = None  # of the last message
        self._is_told = False

    @abstractmethod
    def put(self, message: Message) -> None:
        """Write it, or let it wait. Raises BrokenPipeError when the reader has closed the pipe."""

    def settle(self) -> None:  # noqa: B027 (with most, nothing waits)
        """Before the last message: write what waits, so that the last message can say what has not
        arrived. A reader that takes nothing is waited for three seconds at most: the process is
        still traced. Raises BrokenPipeError."""

    @abstractmethod
    def finish(self, is_ending: Callable[[], bool]) -> None:
        """Write what waits. When `is_ending` says that the run was told to end, a reader that takes
        nothing is waited for three seconds at most. Raises OutputError if the last message can't be
        written, and BrokenPipeError."""

    def _failed(self, message: Message, error: OSError) -> None:
        self._failure = error
        if message.call_count:
            self.missing.unwritten_calls += message.call_count
        else:
            self.missing.unwritten_reports += 1

    def _tell_failure(self) -> None:
        """Once, when it begins, and once, when it is over."""
        if self._failure is not None and not self._is_told:
            self._is_told = True
            notify(f"can't write to {self.name}: {self._failure.strerror}; tracing goes on")
            hint("free some space there; reports that can't be written are counted")
        elif self._failure is None and self._is_told:
            self._is_told = False
            reports = self.missing.unwritten_reports
            notify(f"{self.name} can be written again; reports not written until now: {reports:,}")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise OutputError(
                f"can't write the report to {self.name}: {self._failure.strerror}",
                "free some space there, or write somewhere else with --output",
            ) from self._failure


class FileDestination(Destination):
    """A regular file."""

    def __init__(self, name: str, write_message: Callable[[bytes], None]) -> None:
        """`write_message` raises OSError if it can't write all of it."""
        super().__init__(name)
        self._write_message = write_message

    def put(self, message: Message) -> None:
        try:
            self._write_message(message.data)
            self._failure = None
        except OSError as error:
            self._failed(message, error)
        self._tell_failure()

    def finish(self, is_ending: Callable[[], bool]) -> None:
        self._raise_failure()


class DirectDestination(Destination):
    """Each message is waited for, and a failure ends the run: nothing is traced meanwhile."""

    def __init__(self, name: str, write_message: Callable[[bytes], None]) -> None:
        """`write_message` raises OSError if it can't write all of it."""
        super().__init__(name)
        self._write_message = write_message

    def put(self, message: Message) -> None:
        """Raises OutputError, too."""
        try:
            self._write_message(message.data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(
                f"can't write to {self.name}: {error.strerror}",
                "free some space there, or write somewhere else with --output",
            ) from error

    def finish(self, is_ending: Callable[[], bool]) -> None:
        """Nothing waits."""


class SharedFile:
    """A file to which others may write, too, as standard output: nothing can be taken back. After
    a part of a message, the next one starts a new line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_torn = False

    def write_message(self, data: bytes) -> None:
        """Raises OSError."""
        left = memoryview(b"\n" + data if self._is_torn else data)
        while left:
            left = left[_write_some(self._descriptor, left) :]
            self._is_torn = bool(left)


def _write_some(descriptor: int, data: memoryview) -> int:
    """How many bytes were written. Raises OSError."""
    while True:
        try:
            return os.write(descriptor, data)
        except BlockingIOError:  # somebody who has the same pipe has made it non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()


class QueuedDestination(Destination):
    """A pipe, a terminal, a socket or a device, written by a thread."""

    def __init__(
        self,
        name: str,
        descriptor: int,
        most_waiting_bytes: int = MOST_WAITING_BYTES,
        *,
        is_quiet: bool = False,
    ) -> None:
        """`is_quiet`: nothing is told of messages that were left out, because each one takes the
        place of those before."""
        super().__init__(name)
        self._descriptor = descriptor
        self._most_waiting_bytes = most_waiting_bytes
        self._waiting: deque[Message] = deque()
        self._waiting_bytes = 0
        self._writing: Message | None = None
        self._taken_bytes = 0
        self._stopped_at_bytes = -1  # what had been taken when waiting was in vain
        self._is_broken = False
        self._is_quiet = is_quiet
        self._is_told_unread = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, message: Message) -> None:
        with self._changed:
            was_idle = self._is_idle()
            self._wait_for_room(len(message.data))
            self._waiting.append(message)
            self._waiting_bytes += len(message.data)
            # The newest one is never left out.
            while self._waiting_bytes > self._most_waiting_bytes and len(self._waiting) > 1:
                self._leave_out(self._waiting.popleft())
            self._changed.notify_all()
            if self._thread is None:
                self._start()
            if was_idle:
                self._changed.wait_for(lambda: self._is_idle() or self._is_broken, _AT_ONCE_S)
            if self._is_broken:
                raise BrokenPipeError
        if self._is_quiet:
            return
        self._tell_failure()
        if (self.missing.unread_reports or self.missing.unread_calls) and not self._is_told_unread:
            self._is_told_unread = True
            notify(f"the reader of {self.name} is too slow, or has stopped: tracing goes on")
            hint("reports that it doesn't take in time are left out, and counted")

    def _wait_for_room(self, size_bytes: int) -> None:
        """A reader that is slow, but reads, is waited for a little: meanwhile what comes stays in
        the buffers of the kernel side. Not one that has stopped."""
        if self._is_quiet:
            return
        give_up_s = time.monotonic() + _ROOM_S

        def has_room() -> bool:
            return self._waiting_bytes + size_bytes <= self._most_waiting_bytes or not self._waiting

        while not has_room() and not self._is_broken and time.monotonic() < give_up_s:
            taken_bytes = self._taken_bytes
            if taken_bytes == self._stopped_at_bytes:
                return
            self._changed.wait_for(lambda: has_room() or self._is_broken, _STALL_S)
            if taken_bytes == self._taken_bytes:
                self._stopped_at_bytes = taken_bytes

    def settle(self) -> None:
        self._wait_until_idle(lambda: True)

    def finish(self, is_ending: Callable[[], bool]) -> None:
        if not self._wait_until_idle(is_ending):
            with self._changed:
                unread = len(self._waiting) + (self._writing is not None)
            raise OutputError(
                f"the reader of {self.name} does not read: the last "
                f"{'report was' if unread == 1 else f'{unread:,} reports were'} not taken",
                "write to a file with --output, or let the reader read on",
            )
        self._raise_failure()

    def _wait_until_idle(self, is_ending: Callable[[], bool]) -> bool:
        """Whether all was taken; not if the reader takes nothing for some time after the run was
        told to end. Raises BrokenPipeError."""
        give_up_s: float | None = None
        taken_bytes = self._taken_bytes
        with self._changed:
            while not (self._is_idle() or self._is_broken):
                if is_ending() and (give_up_s is None or taken_bytes != self._taken_bytes):
                    give_up_s = time.monotonic() + PATIENCE_S
                    taken_bytes = self._taken_bytes
                if give_up_s is not None and time.monotonic() >= give_up_s:
                    return False
                self._changed.wait(_LOOK_S)
            if self._is_broken:
                raise BrokenPipeError
        return True

    def _start(self) -> None:
        # Signals are for the main thread.
        with held_back():
            self._thread = threading.Thread(target=self._write_all, name="writer", daemon=True)
            self._thread.start()

    def _is_idle(self) -> bool:
        return self._writing is None and not self._waiting

    def _leave_out(self, message: Message) -> None:
        self._waiting_bytes -= len(message.data)
        if message.call_count:
            self.missing.unread_calls += message.call_count
        else:
            self.missing.unread_reports += 1

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._writing = None
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                self._writing = message = self._waiting.popleft()
                self._waiting_bytes -= len(message.data)
            try:
                self._write(message.data)
                self._failure = None
            except BrokenPipeError:
                with self._changed:
                    self._is_broken = True
                    self._changed.notify_all()
                return
            except OSError as error:
                self._failed(message, error)

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            written = _write_some(self._descriptor, left)
            self._taken_bytes += written
            left = left[written:]
