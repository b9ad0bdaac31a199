"""Runs the distribution's memleak with fixes for two defects of bcc 0.26 that don't affect the
measurement:

    python3 run_memleak.py /usr/sbin/memleak-bpfcc ARGUMENTS

* bcc's Python passes one argument too few to libbcc's bpf_attach_uprobe, so that the offset of a
  reference counter is a random word of the stack, and the kernel refuses most probes;
* where tracefs is not mounted, it ends with a traceback when it removes an event that was never
  made.

Prints "asleep" on stderr when the probes are attached, and after each report. It then sleeps
INTERVAL seconds or until a line comes on stdin.
"""

import ctypes
import runpy
import select
import sys
import time
from typing import Any

import bcc

_ATTACH = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulonglong,
    ctypes.c_int,
    ctypes.c_uint32,
)
_attach_uprobe = _ATTACH(("bpf_attach_uprobe", bcc.lib))


def _attach(*arguments: Any) -> int:
    return int(_attach_uprobe(*arguments, 0))


def _sleep(seconds: Any) -> None:
    print("asleep", file=sys.stderr, flush=True)
    if select.select([sys.stdin], [], [], seconds)[0]:
        sys.stdin.readline()


if len(bcc.lib.bpf_attach_uprobe.argtypes) == 6:
    bcc.lib.bpf_attach_uprobe = _attach
bcc.lib.bpf_detach_uprobe = lambda _name: 0
time.sleep = _sleep  # memleak takes `sleep` from here
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
