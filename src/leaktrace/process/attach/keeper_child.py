"""The process that holds the probes: `python -I -S -B keeper_child.py SOCKET TRACER`.

SOCKET and TRACER are descriptors: one end of a socket pair, and a pidfd. keeper.py starts it.

The process lives a little longer than leaktrace, however leaktrace ends, and removes the probes.
The kernel can't write to the memory of a target while the process that asks for it is being killed:
if SIGKILL hits a process that is attaching or removing probes, breakpoints stay permanently
(kernel/events/uprobes.c: "failed to unregister, leaking uprobe"). So a separate process does that,
which users have no reason to kill. If it is killed anyway, breakpoints stay only if it was just
attaching probes.

It is small, and imports only what it needs. Each request is one message: a JSON object, with the
file descriptors that it refers to. The answer contains the number of the request, and an errno.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import sys
import time

sys.path.append(os.path.abspath(__file__ + "/../../../.."))  # noqa: PTH100

from leaktrace.bpf.probe_calls import link_uprobes, open_uprobe_event
from leaktrace.errors import system_error

TYPE_CHECKING = False  # as in typing, whose import takes memory
if TYPE_CHECKING:
    from typing import Any

TITLE = b"probe-keeper"
_MESSAGE_BYTES = 1 << 18
_MOST_DESCRIPTORS = 2
_TRIES, _PAUSE_S = 50, 0.1  # while a file is in use
_PR_SET_NAME = 15  # prctl(2)
# Signals of a terminal, and those that end services: the keeper ends when leaktrace does.
_IGNORED = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGTERM,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGPIPE,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
)


class Keeper:
    """Holds probes by the numbers of the requests that made them, a command that may have to be
    continued, and what else has to be undone."""

    def __init__(self) -> None:
        self._probes: dict[int, list[int]] = {}
        self._command = -1  # a pidfd
        self._writes: list[tuple[str, str]] = []

    def answer(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """Carry out a request. Returns 0, or an errno."""
        match request["do"]:
            case "link" | "event":
                try:
                    self._probes[request["number"]] = _attach(request, *descriptors)
                except OSError as error:
                    return error.errno or errno.EIO
                finally:
                    _close(descriptors)
            case "remove":
                self._remove(request["numbers"])
            case "guard":
                (self._command,) = descriptors
            case "undo":
                self._writes = request["writes"]
        return 0

    def remove_all(self) -> None:
        self._remove(list(self._probes))

    def _remove(self, numbers: list[int]) -> None:
        """Have the last descriptors of probes closed, and return when the probes are removed.

        A copy of this process closes them by exiting, because a process that is exiting can't be
        killed (prepare_signal in kernel/signal.c).
        """
        held = [descriptor for number in numbers for descriptor in self._probes.pop(number, [])]
        if not held:
            return
        try:
            copy, gate = _copy_that_waits()
        except OSError:  # no more processes or descriptors are allowed
            _close(held)
            return
        _close(held)
        os.close(gate)
        os.waitpid(copy, 0)

    def undo(self) -> None:
        """Write what leaktrace would have written at its end."""
        for path, value in self._writes:
            for _ in range(_TRIES):
                try:
                    with open(path, "w") as file:  # noqa: PTH123
                        file.write(value)
                except OSError as error:
                    if error.errno == errno.EBUSY:
                        time.sleep(_PAUSE_S)
                        continue
                break

    def continue_command(self) -> None:
        """Continue the command if it is stopped. Call it when nothing can stop it again."""
        if self._command >= 0:
            with contextlib.suppress(OSError):  # it may have ended
                signal.pidfd_send_signal(self._command, signal.SIGCONT)


def _copy_that_waits() -> tuple[int, int]:
    """Fork a copy of this process, with all its descriptors. It exits when the gate is closed.

    Returns the pid of the copy and the descriptor of the gate. Raises OSError.
    """
    waits, gate = os.pipe()
    try:
        copy = os.fork()
        if copy == 0:
            os.close(gate)
            os.read(waits, 1)
            os._exit(0)
    except OSError:
        os.close(gate)
        raise
    finally:
        os.close(waits)
    return copy, gate


def _attach(request: dict[str, Any], program: int, file: int) -> list[int]:
    """Returns the descriptors that hold the probes. Raises OSError."""
    path = f"/proc/self/fd/{file}"
    if request["do"] == "event":
        return open_uprobe_event(
            program,
            path,
            request["offset"],
            request["cookie"],
            kind=request["kind"],
            config=request["config"],
            pid=request["pid"],
        )
    link = link_uprobes(
        program,
        path,
        request["offsets"],
        request["cookies"],
        pid=request["pid"],
        is_return=request["is_return"],
    )
    if link < 0:
        raise system_error(-link)
    return [link]


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _serve(connection: socket.socket, keeper: Keeper) -> bool:
    """Answer requests until the tracer says that it has finished (returns true) or has ended
    (returns false)."""
    room = socket.CMSG_LEN(_MOST_DESCRIPTORS * array.array("i").itemsize)
    while True:
        try:
            message, extra, flags, _ = connection.recvmsg(_MESSAGE_BYTES, room)
        except ConnectionResetError:
            return False
        if not message:
            return False
        descriptors = array.array("i")
        for _, _, data in extra:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        request = json.loads(message)
        if request["do"] == "end":
            return True
        if flags & socket.MSG_CTRUNC:  # no room for descriptors (ulimit -n)
            _close(descriptors.tolist())
            failed = errno.EMFILE
        else:
            failed = keeper.answer(request, descriptors.tolist())
        try:
            connection.send(json.dumps({"number": request["number"], "errno": failed}).encode())
        except (BrokenPipeError, ConnectionResetError):
            return False


def _await_end(process: int) -> None:
    poll = select.poll()
    poll.register(process, select.POLLIN)
    poll.poll()


def _isolate() -> None:
    """Make this process independent: it ignores signals of a terminal, keeps no directory busy, is
    the last one that the OOM killer chooses, and pkill(1) doesn't find it by the name leaktrace."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # waitpid(2) wouldn't work if it were ignored
    os.chdir("/")
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("-1000")  # needs CAP_SYS_RESOURCE
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NAME, b"probe-keeper", 0, 0, 0)
    # ps(1) shows the memory from arg_start to arg_end (proc(5)).
    with open("/proc/self/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if start and end > start:
        title = TITLE[: end - start - 1].ljust(end - start, b"\0")
        ctypes.memmove(start, title, len(title))


def main() -> None:
    connection, tracer = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    _isolate()
    keeper = Keeper()
    has_finished = _serve(connection, keeper)
    keeper.remove_all()
    if not has_finished:
        _await_end(tracer)  # it may hold perf events of page faults
        keeper.continue_command()
        keeper.undo()
    os._exit(0)


if __name__ == "__main__":
    main()
