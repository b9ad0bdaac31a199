"""A command that leaktrace starts. It is held before its exec until the probes are attached.

The child waits on a pipe. If the tracer dies before it releases the child, the pipe closes and the
child exits without running anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import shutil
import signal
import threading
from collections.abc import Sequence

from leaktrace.errors import TargetError
from leaktrace.model import Ending
from leaktrace.own import descriptors
from leaktrace.own.interrupts import ENDING, held_back
from leaktrace.own.oom import OWN_SCORE

_END_TIMEOUT_S = 5.0  # between SIGTERM and SIGKILL
_PR_SET_PDEATHSIG = 1  # prctl(2)


class StartedCommand:
    """The child process. `pid` is the same before and after the exec."""

    def __init__(self, argv: Sequence[str]) -> None:
        """Raises TargetError when the command can't be found."""
        self.argv = tuple(argv)
        self.path = find_executable(argv[0])
        # If leaktrace inherited an ignored SIGCHLD, wait(2) would get no status of the command.
        self._on_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        hold_read, self._hold = os.pipe()
        self._failure, failure_write = os.pipe()
        libc = ctypes.CDLL(None)
        # The tracer's signal handlers must not run in the child.
        with held_back() as blocked:
            self.pid = os.fork()
            if self.pid == 0:
                self._become_the_command(hold_read, failure_write, libc, blocked)
        os.close(hold_read)
        os.close(failure_write)
        self._pidfd = os.pidfd_open(self.pid)  # closed when it was waited for
        self._lock = threading.Lock()
        self._ending: Ending | None = None

    def _become_the_command(
        self, hold_read: int, failure_write: int, libc: ctypes.CDLL, blocked: set[int]
    ) -> None:
        try:
            # Python's handlers would write to the tracer's wake-up pipe. Signals that were ignored
            # when leaktrace started stay ignored; SIGPIPE and SIGXFSZ are ignored by Python itself.
            for number in (*ENDING, signal.SIGPIPE, signal.SIGXFSZ):
                if signal.getsignal(number) != signal.SIG_IGN or number not in ENDING:
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            signal.signal(signal.SIGCHLD, self._on_child or signal.SIG_DFL)
            descriptors.restore_limit()
            OWN_SCORE.end()
            os.close(self._hold)
            if os.read(hold_read, 1) != b"x":
                os._exit(127)
            # If leaktrace is killed while the command is stopped, the command continues. The keeper
            # does the same, because the exec of a set-user-ID program clears this (prctl(2)).
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
            # If leaktrace is in a pid namespace, the kernel side learns the target's pid from its
            # first call, and sees the exec only after that. Calls before the exec aren't recorded.
            libc.malloc(ctypes.c_size_t(1))
            os.execv(self.path, list(self.argv))
        except OSError as error:
            os.write(failure_write, str(error.errno).encode())
        finally:
            os._exit(127)

    def release(self) -> None:
        """Let it exec, and wait until it has done so. Raises TargetError when the exec fails."""
        try:
            os.write(self._hold, b"x")
        except BrokenPipeError:
            raise TargetError("the command was killed before it ran", "start it again") from None
        finally:
            os.close(self._hold)
            self._hold = -1
        code = os.read(self._failure, 16)  # empty once exec has closed the other end
        os.close(self._failure)
        if code:
            self.wait()
            raise TargetError(
                f"can't run {self.path}: {os.strerror(int(code))}",
                "check the file's format and permissions",
            )

    def proceed(self) -> None:
        """Continue it after it was stopped so that its mappings could be read. Any thread may call
        it. Raises TargetError if that is not permitted."""
        try:
            with self._lock:
                if self._ending is None:
                    signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)
        except ProcessLookupError:  # it has ended
            pass
        except PermissionError:
            raise TargetError(
                f"the command, process {self.pid}, was stopped and can't be continued: it is of "
                "another user by now",
                f"continue it: sudo kill -CONT {self.pid}; run leaktrace with CAP_KILL",
            ) from None

    def wait(self) -> int:
        """Wait for its end. Returns the exit status as a shell: the code, or 128 + the signal."""
        ending = self.ending()
        return 128 + ending.signal if ending.signal is not None else ending.status or 0

    def ending(self) -> Ending:
        """Wait for its end. Returns how it ended."""
        if self._ending is None:
            _, status = os.waitpid(self.pid, 0)
            with self._lock:
                self._ending = Ending.from_wait_status(status)
                os.close(self._pidfd)
        return self._ending

    def end(self) -> None:
        """End it if it is still running (SIGTERM, after some seconds SIGKILL), and reap it."""
        if self._hold >= 0:
            os.close(self._hold)  # it never ran, and exits on its own
            os.close(self._failure)
            self._hold = -1
            self.wait()
            return
        if self._ending is not None:
            return
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(0):
            os.kill(self.pid, signal.SIGTERM)
            self.proceed()
            with contextlib.suppress(KeyboardInterrupt):
                poll.poll(_END_TIMEOUT_S * 1000)
            if not poll.poll(0):
                os.kill(self.pid, signal.SIGKILL)
        self.wait()


def find_executable(name: str) -> str:
    """The file of a command, found as execvp(3) does. Raises TargetError."""
    found = shutil.which(name)
    if found is not None:
        return found
    if "/" in name and os.path.isdir(name):  # noqa: PTH112 (never raises)
        raise TargetError(f"can't run {name}: it is a directory", "name a program")
    if "/" in name and os.path.exists(name):  # noqa: PTH110 (never raises)
        raise TargetError(
            f"can't run {name}: {os.strerror(errno.EACCES)}", f"make it executable: chmod +x {name}"
        )
    raise TargetError(f"can't find the command {name}", "check its spelling and PATH")
