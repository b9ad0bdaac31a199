"""The id of a call site, which stays the same from run to run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from leaktrace.site import Frame

CodeLocation = tuple[str, int]  # build ID (or module), virtual address in the module's file


def site_id(stack: Iterable[Frame | CodeLocation]) -> str:
    """16 hexadecimal digits that identify a stack, the same in every run of the same binaries.

    A hash of the build IDs (or paths, for files without one) and the addresses within the files,
    which address space randomisation doesn't change. Inlined frames don't count, so the id doesn't
    depend on debug information. Code without a file (JIT) counts by its name, and without a name by
    its address, which differs from run to run but distinguishes sites.
    """
    digest = hashlib.blake2b(digest_size=8)
    for frame in stack:
        if isinstance(frame, Frame):
            if frame.inlined:
                continue
            located = frame.module_offset is not None
            module = (frame.build_id or frame.module or "") if located else frame.module or ""
            name = frame.function or f"{frame.address:x}"
            place = f"{frame.module_offset:x}" if located else name
        else:
            module, place = frame[0], f"{frame[1]:x}"
        digest.update(f"{module}\0{place}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
