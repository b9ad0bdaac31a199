"""Runs the distribution's memleak with two defects of bcc 0.26 mended, neither of which has to do
with what is measured:

    python3 run_memleak.py /usr/sbin/memleak-bpfcc ARGUMENTS

* bcc's Python passes one argument too few to libbcc's bpf_attach_uprobe, so that the offset of a
  reference counter is whatever lies on the stack, and the kernel refuses most probes;
* where tracefs is not mounted, it ends with a traceback, on removing an event that was never made.

Says "attached" on stderr when the probes are on, and before each report: memleak says nothing then,
and sleeps.
"""

import ctypes
import runpy
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
_sleep = time.sleep


def _attach(*arguments: Any) -> int:
    return int(_attach_uprobe(*arguments, 0))


def _tell_and_sleep(seconds: Any) -> None:
    print("attached", file=sys.stderr, flush=True)
    _sleep(seconds)


if len(bcc.lib.bpf_attach_uprobe.argtypes) == 6:
    bcc.lib.bpf_attach_uprobe = _attach
bcc.lib.bpf_detach_uprobe = lambda _name: 0
time.sleep = _tell_and_sleep  # memleak takes `sleep` from here
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
