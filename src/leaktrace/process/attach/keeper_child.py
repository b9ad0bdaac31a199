"""The process that holds the probes: `python -I -S -B keeper_child.py SOCKET TRACER`;
see keeper.py.

It lives a little longer than leaktrace, however leaktrace ends, and takes the probes off. The
kernel can't write to a process on behalf of somebody who is being killed: where SIGKILL meets the
one that puts probes on or takes them off, breakpoints stay for ever (kernel/events/uprobes.c:
"failed to unregister, leaking uprobe"). So that one is this process, which nobody has a reason to
kill. Should somebody kill it all the same, only the moment in which it puts probes on matters.

It is small, and imports nothing but what it needs. Each request is one message: a JSON object, with
the file descriptors that it speaks of. The answer has its number, and the errno of what failed.
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

sys.path.append(os.path.abspath(__file__ + "/../../../.."))  # noqa: PTH100

from leaktrace.bpf.probe_calls import link_uprobes, open_uprobe_event
from leaktrace.errors import system_error

TYPE_CHECKING = False  # as in typing, which needs memory
if TYPE_CHECKING:
    from typing import Any

TITLE = b"probe-keeper"
_MESSAGE_BYTES = 1 << 18
_MOST_DESCRIPTORS = 2
_PR_SET_NAME = 15  # prctl(2)
# Those of a terminal, and those that end services: the end of leaktrace is what ends the keeper.
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
    """Holds probes by the numbers of the requests that made them, and a command that may stop."""

    def __init__(self) -> None:
        self._probes: dict[int, list[int]] = {}
        self._command = -1  # a pidfd

    def answer(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """Do as asked. Returns 0, or an errno."""
        match request["do"]:
            case "link" | "event":
                try:
                    self._probes[request["number"]] = _attach(request, *descriptors)
                except OSError as error:
                    return error.errno or errno.EIO
                finally:
                    _close(descriptors)
            case "take off":
                self._take_off(request["numbers"])
            case "guard":
                (self._command,) = descriptors
        return 0

    def take_all_off(self) -> None:
        self._take_off(list(self._probes))

    def _take_off(self, numbers: list[int]) -> None:
        """Have the last descriptors of probes closed, and return when the probes are off.

        A copy of this process does that by exiting, because what exits can't be killed any more
        (prepare_signal in kernel/signal.c).
        """
        held = [descriptor for number in numbers for descriptor in self._probes.pop(number, [])]
        if not held:
            return
        try:
            copy, gate = _copy_that_waits()
        except OSError:  # no process or no descriptor more is allowed
            _close(held)
            return
        _close(held)
        os.close(gate)
        os.waitpid(copy, 0)

    def continue_command(self) -> None:
        """Once nothing can stop it any more, one that is stopped goes on."""
        if self._command >= 0:
            with contextlib.suppress(OSError):  # it may have ended
                signal.pidfd_send_signal(self._command, signal.SIGCONT)


def _copy_that_waits() -> tuple[int, int]:
    """A copy of this process, with all its descriptors. It exits when the one returned is closed.

    Raises OSError.
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
    """Returns the descriptors that keep the probes alive; raises OSError."""
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
    """Answer until the tracer says that it has finished (true), or is gone (false)."""
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


def _stand_apart() -> None:
    """Stay out of the way: no signals of a terminal, no directory held, the last one to be ended
    when memory runs out, and not among those that pkill(1) finds by the name leaktrace."""
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would keep waitpid(2) from waiting
    os.chdir("/")
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
        file.write("-1000")  # it takes CAP_SYS_RESOURCE
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_NAME, b"probe-keeper", 0, 0, 0)
    # What ps(1) shows lies where the kernel has put it: fields arg_start and arg_end, proc(5).
    with open("/proc/self/stat") as file:  # noqa: PTH123
        fields = file.read().rpartition(")")[2].split()
    begin, end = int(fields[45]), int(fields[46])
    if begin and end > begin:
        title = TITLE[: end - begin - 1].ljust(end - begin, b"\0")
        ctypes.memmove(begin, title, len(title))


def main() -> None:
    connection, tracer = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    _stand_apart()
    keeper = Keeper()
    ended_in_order = _serve(connection, keeper)
    keeper.take_all_off()
    if not ended_in_order:
        _await_end(tracer)  # which may hold events of page faults
        keeper.continue_command()
    os._exit(0)


if __name__ == "__main__":
    main()
