"""What is hooked: the functions that hand out or take back memory, as data.

Supporting a further function is a line here, and a program in bpf/user.bpf.c when its arguments
come in a shape of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

from leaktrace.abi import Function


@dataclass(frozen=True)
class Hook:
    """A function to hook: its symbol, the program for its arguments, whether its return matters."""

    symbol: str
    function: Function
    program: str
    argument_count: int  # that the program reads
    has_return: bool = True


RETURN_PROGRAM = "return_from"
ANY_ENTRY_PROGRAM = "enter_any"  # takes the place of the programs by shape where the kernel can

# An object that defines both is an allocator; the other functions are hooked where they exist.
REQUIRED = ("malloc", "free")

HEAP = (
    Hook("malloc", Function.MALLOC, "enter_size", 1),
    Hook("free", Function.FREE, "enter_free", 1, has_return=False),
    Hook("calloc", Function.CALLOC, "enter_count_size", 2),
    Hook("realloc", Function.REALLOC, "enter_realloc", 2),
    Hook("reallocarray", Function.REALLOCARRAY, "enter_reallocarray", 3),
    Hook("posix_memalign", Function.POSIX_MEMALIGN, "enter_posix_memalign", 3),
    Hook("aligned_alloc", Function.ALIGNED_ALLOC, "enter_alignment_size", 2),
    Hook("memalign", Function.MEMALIGN, "enter_alignment_size", 2),
    Hook("valloc", Function.VALLOC, "enter_size", 1),
    Hook("pvalloc", Function.PVALLOC, "enter_size", 1),
)

REGIONS = (
    Hook("mmap", Function.MMAP, "enter_mmap", 2),
    Hook("munmap", Function.MUNMAP, "enter_munmap", 2),
    Hook("mremap", Function.MREMAP, "enter_mremap", 4),
)

FUNCTION_NAMES = {hook.function: hook.symbol for hook in (*HEAP, *REGIONS)}
