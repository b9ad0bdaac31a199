"""A command that leaktrace starts: held before its exec until the probes are on.

The child waits on a pipe. When the tracer dies before it lets go, the pipe closes and the child
leaves without running anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import shutil
import signal
from collections.abc import Sequence

from leaktrace.errors import TargetError
from leaktrace.model import Ending
from leaktrace.own import descriptors
from leaktrace.own.interrupts import ENDING, held_back

_PATIENCE_S = 5.0
_PR_SET_PDEATHSIG = 1  # prctl(2)


class StartedCommand:
    """The child process. `pid` is its process id from the start, before and after the exec."""

    def __init__(self, argv: Sequence[str]) -> None:
        """Raises TargetError when the command can't be found."""
        self.argv = tuple(argv)
        self.path = find_executable(argv[0])
        # Ignored by who started leaktrace, it would let the kernel forget how the command ended.
        self._on_child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        hold_read, self._hold = os.pipe()
        self._failure, failure_write = os.pipe()
        libc = ctypes.CDLL(None)
        # A signal's handler must not run in the child: it would end the tracer's business there.
        with held_back() as blocked:
            self.pid = os.fork()
            if self.pid == 0:
                self._become_the_command(hold_read, failure_write, libc, blocked)
        os.close(hold_read)
        os.close(failure_write)
        self._ending: Ending | None = None

    def _become_the_command(
        self, hold_read: int, failure_write: int, libc: ctypes.CDLL, blocked: set[int]
    ) -> None:
        try:
            # Python's handlers would write into the tracer's own wake-up pipe. What was ignored
            # when leaktrace was started stays so; SIGPIPE and SIGXFSZ are Python's doing.
            for number in (*ENDING, signal.SIGPIPE, signal.SIGXFSZ):
                if signal.getsignal(number) != signal.SIG_IGN or number not in ENDING:
                    signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            signal.signal(signal.SIGCHLD, self._on_child or signal.SIG_DFL)
            descriptors.give_back()
            os.close(self._hold)
            if os.read(hold_read, 1) != b"x":
                os._exit(127)
            # Should leaktrace be killed while it looks at the stopped command, the command goes on.
            # The keeper sees to that, too: a set-user-ID program forgets it (prctl(2)).
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
            # In a pid namespace of our own the kernel side learns from a first call who is traced,
            # and only then sees the exec. What comes before it is not recorded.
            libc.malloc(ctypes.c_size_t(1))
            os.execv(self.path, list(self.argv))
        except OSError as error:
            os.write(failure_write, str(error.errno).encode())
        finally:
            os._exit(127)

    def release(self) -> None:
        """Let it exec, and wait until it has. Raises TargetError when the exec fails."""
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
        """Continue it after it was stopped for a look at its mappings."""
        if self._ending is None:  # else its pid may be somebody else's
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGCONT)

    def wait(self) -> int:
        """Its exit status as the shell gives it: the code, or 128 + the signal."""
        ending = self.ending()
        return 128 + ending.signal if ending.signal is not None else ending.status or 0

    def ending(self) -> Ending:
        """How it has ended; waits for that."""
        if self._ending is None:
            _, status = os.waitpid(self.pid, 0)
            self._ending = Ending.from_wait_status(status)
        return self._ending

    def end(self) -> None:
        """Ask it to end if it still runs (SIGTERM, after some seconds SIGKILL), and reap it."""
        if self._hold >= 0:
            os.close(self._hold)  # it never ran: it leaves by itself
            os.close(self._failure)
            self._hold = -1
            self.wait()
            return
        if self._ending is not None:
            return
        pidfd = os.pidfd_open(self.pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(0):
            os.kill(self.pid, signal.SIGTERM)
            self.proceed()
            with contextlib.suppress(KeyboardInterrupt):
                poll.poll(_PATIENCE_S * 1000)
            if not poll.poll(0):
                os.kill(self.pid, signal.SIGKILL)
        os.close(pidfd)
        self.wait()


def find_executable(name: str) -> str:
    """The file that `name` runs, as execvp(3) finds it. Raises TargetError."""
    found = shutil.which(name)
    if found is not None:
        return found
    if "/" in name and os.path.exists(name):  # noqa: PTH110 (never raises)
        raise TargetError(
            f"can't run {name}: {os.strerror(errno.EACCES)}", "make it executable: chmod +x"
        )
    raise TargetError(f"can't find the command {name}", "check its spelling and PATH")
