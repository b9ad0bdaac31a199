"""Frames at the leaf of a stack that only pass a request for memory on, or its release.

These are operator new and delete, the allocator classes of the C++ library, the shims of Rust.
Their caller requested the memory, or released it. Nothing is dropped from the middle of a stack.
"""

from __future__ import annotations

import re
from dataclasses import replace

from leaktrace.options import ReportOptions
from leaktrace.site import Frame, Stack

_PLUMBING = re.compile(
    r"""
      operator\ (?:new|delete)
    | (?:std|__gnu_cxx)::(?:__1::|__cxx11::)?
      (?:(?:__)?new_allocator|__new_allocator|allocator|allocator_traits|__alloc_traits
        |__detail::_Hashtable_alloc|__libcpp_allocate|__libcpp_operator_new)\b
    | std::_(?:Vector_base|Deque_base|List_base|Rb_tree)<.*>::
      _M_(?:allocate|get_node|deallocate|put_node)\w*
    | (?:__rust|__rdl|__rg|__rde)_(?:alloc|realloc|alloc_zeroed|dealloc)
    | <?alloc::alloc::
    | (?:__GI_)?(?:___?libc_)?(?:malloc|calloc|realloc|reallocarray|memalign|aligned_alloc|valloc
        |free|pvalloc|posix_memalign|mmap|mmap64|mremap)(?:_impl|_hook_ini)?$
    """,
    re.VERBOSE,
)


def is_plumbing(frame: Frame) -> bool:
    """Whether a frame at the leaf of a stack only passes a request for memory on."""
    return frame.function is not None and _PLUMBING.match(frame.function) is not None


def readable(stack: Stack, asked: ReportOptions) -> Stack:
    """The stack without plumbing at its leaf (unless `full_stacks`), and at most `depth` deep.

    Inlined functions belong to the frame that they are inlined into. A stack of plumbing only is
    returned unchanged.
    """
    first = 0
    if not asked.full_stacks:
        first = next((i for i, f in enumerate(stack.frames) if not is_plumbing(f)), 0)
    frames = stack.frames[first:]
    if asked.depth is not None:
        ends = [end for end, frame in enumerate(frames, 1) if not frame.inlined]
        frames = frames[: ends[: asked.depth][-1]] if ends else frames
    return replace(stack, frames=frames)
