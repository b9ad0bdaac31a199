"""The command `leaktrace`, and `python -m leaktrace`."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line."""
    # Until there is something to end in order, Ctrl-C just ends it: without a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from leaktrace import cli  # noqa: PLC0415 (while it is imported, too)

    cli.main()


if __name__ == "__main__":
    main()
