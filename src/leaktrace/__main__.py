"""The command `leaktrace`, and `python -m leaktrace`."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line."""
    # Until there is something to clean up, Ctrl-C ends the process without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        from leaktrace.own.standard_streams import reserve_closed_numbers  # noqa: PLC0415

        reserve_closed_numbers()
        from leaktrace.cli import main as cli  # noqa: PLC0415 (its failures are explained, too)
    except (MemoryError, OSError, ImportError) as error:
        _give_up(error)
    cli.main()


def _give_up(error: BaseException) -> NoReturn:
    """Exit when not even the module that explains errors could be loaded."""
    with contextlib.suppress(OSError):
        message = f"leaktrace: leaktrace can't be loaded: {str(error) or 'not enough memory'}\n"
        message += "  hint: reinstall it, or raise the limits of this shell: ulimit -v, ulimit -n\n"
        os.write(2, message.encode(errors="backslashreplace"))
    os._exit(3)


if __name__ == "__main__":
    main()
