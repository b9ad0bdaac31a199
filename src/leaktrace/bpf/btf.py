"""The running kernel's type information (BTF), read by libbpf.

It gives the arguments of a tracepoint and the offset of a struct member, which a kernel version
only suggests. Source: include/uapi/linux/btf.h.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator

from leaktrace.bpf import syscalls
from leaktrace.errors import EnvironmentUnfitError

_KIND_PTR, _KIND_STRUCT, _KIND_UNION, _KIND_TYPEDEF = 2, 4, 5, 8
_KIND_VOLATILE, _KIND_CONST, _KIND_RESTRICT, _KIND_FUNC, _KIND_FUNC_PROTO = 9, 10, 11, 12, 13
_QUALIFIERS = (_KIND_VOLATILE, _KIND_CONST, _KIND_RESTRICT)
_MAX_NESTING = 16


class _Type(ctypes.Structure):
    """struct btf_type"""

    _fields_ = [
        ("name_offset", ctypes.c_uint32),
        ("info", ctypes.c_uint32),
        ("type_or_size", ctypes.c_uint32),
    ]

    @property
    def kind(self) -> int:
        return int(self.info) >> 24 & 31

    @property
    def member_count(self) -> int:
        return int(self.info) & 0xFFFF


class _Member(ctypes.Structure):
    """struct btf_member; with two words only, struct btf_param."""

    _fields_ = [
        ("name_offset", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("offset", ctypes.c_uint32),
    ]


class KernelTypes:
    """The types of vmlinux. Types are spelled as in C without qualifiers: "kmem_cache *"."""

    def __init__(self, path: str | None = None) -> None:
        """`path`: a file of BTF instead of the running kernel's.

        Raises EnvironmentUnfitError when the kernel has none.
        """
        library = syscalls.libbpf()
        library.btf__load_vmlinux_btf.restype = ctypes.c_void_p
        library.btf__parse.restype = ctypes.c_void_p
        handle = (
            library.btf__load_vmlinux_btf()
            if path is None
            else library.btf__parse(os.fsencode(path), None)
        )
        # libbpf 1.x returns NULL, older ones an error pointer.
        if not handle or handle > (1 << 64) - 4096:
            raise EnvironmentUnfitError(
                "this kernel has no type information (BTF)",
                "it needs CONFIG_DEBUG_INFO_BTF=y; --kernel-probes kprobe works without it",
            )
        self._library = library
        self._handle = ctypes.c_void_p(handle)
        library.btf__type_by_id.restype = ctypes.POINTER(_Type)
        library.btf__type_by_id.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        library.btf__name_by_offset.restype = ctypes.c_char_p
        library.btf__name_by_offset.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
        library.btf__find_by_name_kind.argtypes = (
            ctypes.c_void_p,
            ctypes.c_char_p,
            ctypes.c_uint32,
        )

    def close(self) -> None:
        """Free the copy (some megabytes). No other method may be called afterwards."""
        self._library.btf__free(self._handle)
        self._handle = ctypes.c_void_p(None)

    def tracepoint_arguments(self, name: str) -> tuple[str, ...] | None:
        """The types of a raw tracepoint's arguments, or None if this kernel has no such tracepoint.

        Every tracepoint has a type `btf_trace_NAME`, a pointer to a probe function. The first
        argument of that function is not the tracepoint's (include/trace/bpf_probe.h).
        """
        found = self._find(f"btf_trace_{name}", _KIND_TYPEDEF)
        if found is None:
            return None
        pointer = self._type(found.type_or_size)
        if pointer.kind != _KIND_PTR:
            return None
        prototype = self._type(pointer.type_or_size)
        if prototype.kind != _KIND_FUNC_PROTO:
            return None
        address = ctypes.addressof(prototype) + ctypes.sizeof(_Type)
        words = (ctypes.c_uint32 * (2 * prototype.member_count)).from_address(address)
        return tuple(self._spell(number) for number in words[3::2])

    def member_offset(self, struct: str, member: str) -> int | None:
        """The offset of a member in bytes, also of one in an anonymous struct; None: not known."""
        found = self._find(struct, _KIND_STRUCT)
        return None if found is None else self._offset_in(found, member, 0)

    def function_id(self, name: str) -> int | None:
        """The number of a function's type, by which a program is attached to it; None: there is no
        such function."""
        return self._number(name, _KIND_FUNC)

    def _offset_in(self, struct: _Type, member: str, depth: int) -> int | None:
        for name, number, offset_bits in self._members(struct):
            if name == member:
                return offset_bits // 8
            inner = self._type(number)
            if not name and inner.kind in (_KIND_STRUCT, _KIND_UNION) and depth < _MAX_NESTING:
                offset = self._offset_in(inner, member, depth + 1)
                if offset is not None:
                    return offset_bits // 8 + offset
        return None

    def _members(self, struct: _Type) -> Iterator[tuple[str, int, int]]:
        address = ctypes.addressof(struct) + ctypes.sizeof(_Type)
        for member in (_Member * struct.member_count).from_address(address):
            # If the struct has bit fields, the upper eight bits are a size.
            yield self._name(member.name_offset), int(member.type), int(member.offset) & 0xFFFFFF

    def _spell(self, number: int) -> str:
        stars = ""
        for _ in range(_MAX_NESTING):
            if number == 0:
                return f"void{stars}"
            kind = self._type(number)
            if kind.kind == _KIND_PTR:
                stars = " *" if not stars else stars + "*"
            elif kind.kind not in _QUALIFIERS:
                return self._name(kind.name_offset) + stars
            number = int(kind.type_or_size)
        return "?"

    def _find(self, name: str, kind: int) -> _Type | None:
        number = self._number(name, kind)
        return None if number is None else self._type(number)

    def _number(self, name: str, kind: int) -> int | None:
        number = int(self._library.btf__find_by_name_kind(self._handle, name.encode(), kind))
        return number if number > 0 else None

    def _type(self, number: int) -> _Type:
        found: _Type = self._library.btf__type_by_id(self._handle, number).contents
        return found

    def _name(self, offset: int) -> str:
        name = self._library.btf__name_by_offset(self._handle, offset)
        return (name or b"").decode("utf-8", "replace")
