"""Numbers of system calls by architecture (`machine` of uname(2)), as syscall(2) takes them.

A separate module, because the keeper imports it and has to stay small.
"""

from __future__ import annotations

BPF = {"x86_64": 321, "aarch64": 280}
PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
