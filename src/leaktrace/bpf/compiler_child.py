"""The child process that compiles: `python -m leaktrace.bpf.compiler_child SOCKET`.

Reads a JSON request from the socket, replies with the compiled program (`leaktrace.bpf.image`) or
with {"error": stage, "detail": …}, then exits. Only this module imports bcc, so a crash of LLVM
ends only this process.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import socket
import struct
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from leaktrace.bpf.image import LOAD_64_BITS, PSEUDO_MAP_FD

# Distributions install bcc for their own Python. It is pure Python over libbcc, so any Python can
# import it.
_DISTRIBUTION_FOLDERS = (
    "usr/lib/python3/dist-packages",
    "usr/lib/python3.*/site-packages",
    "usr/lib64/python3.*/site-packages",
    "usr/local/lib/python3.*/dist-packages",
    "usr/local/lib/python3.*/site-packages",
)


def find_bcc(root: Path = Path("/")) -> Path | None:
    """The folder of the distribution's bcc package, in the file system below `root`, or None.

    PyPI's `bcc` is an unrelated package; this one has a libbcc.py.
    """
    candidates: list[Path] = []
    for pattern in _DISTRIBUTION_FOLDERS:
        candidates += sorted(root.glob(f"{pattern}/bcc"), reverse=True)
    return next((folder for folder in candidates if (folder / "libbcc.py").is_file()), None)


def import_bcc() -> ModuleType:
    """Import that package, without adding its parent folder to sys.path.

    Raises ImportError with a reason, OSError when libbcc can't be loaded.
    """
    folder = find_bcc()
    if folder is None:
        raise ImportError("the Python package of bcc is not installed")
    spec = importlib.util.spec_from_file_location(
        "bcc", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is not a Python package")
    module = importlib.util.module_from_spec(spec)
    sys.modules["bcc"] = module
    spec.loader.exec_module(module)
    return module


# struct bpf_insn: code, registers (source in the upper half), offset, value
_INSTRUCTION = struct.Struct("<BBhi")


def compile_image(request: dict[str, Any]) -> dict[str, Any]:
    """Compile to the JSON value that `image.Image.from_json` reads.

    bcc raises bare Exception for every error. Its messages and clang's go to stderr, which the
    tracer reads. bcc also creates the maps: here those with CAPACITY_LATER have room for one entry.
    """
    # With this variable bcc takes kernel headers only from include/ in that folder.
    os.environ["BCC_KERNEL_SOURCE"] = request["kernel_source"]
    bcc = sys.modules["bcc"]
    try:
        # Without debug information, which bcc asks for and nobody reads, clang takes two thirds of
        # the time.
        compiled = bcc.BPF(text=request["source"], cflags=[*request["flags"], "-g0"])
    except Exception as error:  # bcc raises nothing narrower; the tracer reports it
        return {"error": "compile", "detail": str(error)}
    library, module = bcc.libbcc.lib, ctypes.c_void_p(compiled.module)
    maps, indices = [], {}
    for number in range(library.bpf_num_tables(module)):
        name = library.bpf_table_name(module, number)
        indices[library.bpf_table_fd(module, name)] = number
        maps.append(
            {
                "name": name.decode(),
                "kind": library.bpf_table_type_id(module, number),
                "key_bytes": library.bpf_table_key_size(module, name),
                "value_bytes": library.bpf_table_leaf_size(module, name),
                "capacity": library.bpf_table_max_entries_id(module, number),
                "flags": library.bpf_table_flags_id(module, number),
            }
        )
    programs = {}
    for number in range(library.bpf_num_functions(module)):
        name = library.bpf_function_name(module, number)
        programs[name.decode()] = _with_indices(compiled.dump_func(name), indices).hex()
    return {"maps": maps, "programs": programs}


def _with_indices(code: bytes, indices: dict[int, int]) -> bytes:
    """Instructions that refer to a map by its index, not by its descriptor in this process."""
    changed = bytearray(code)
    for at in range(0, len(code), _INSTRUCTION.size):
        operation, registers, _, value = _INSTRUCTION.unpack_from(code, at)
        if operation == LOAD_64_BITS and registers >> 4 == PSEUDO_MAP_FD:
            struct.pack_into("<i", changed, at + 4, indices[value])
    return bytes(changed)


def _declare(library: Any) -> None:  # noqa: ANN401
    """Declare functions of libbcc (bcc's bpf_module.h) that its Python package doesn't use."""
    for name, result in (
        ("bpf_num_tables", ctypes.c_size_t),
        ("bpf_table_name", ctypes.c_char_p),
        ("bpf_table_key_size", ctypes.c_size_t),
        ("bpf_table_leaf_size", ctypes.c_size_t),
    ):
        getattr(library, name).restype = result
    library.bpf_num_tables.argtypes = [ctypes.c_void_p]
    library.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    for function in (library.bpf_table_key_size, library.bpf_table_leaf_size):
        function.argtypes = [ctypes.c_void_p, ctypes.c_char_p]


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    # Loading LLVM takes a while, in which the tracer prepares the request.
    try:
        _declare(import_bcc().libbcc.lib)
        problem = ""
    except (ImportError, OSError) as error:
        problem = str(error)
    request = b""
    while chunk := connection.recv(1 << 20):
        request += chunk
    reply = (
        {"error": "import", "detail": problem} if problem else compile_image(json.loads(request))
    )
    connection.sendall(json.dumps(reply).encode())
    connection.close()
    sys.stdout.flush()
    # Skip the destructors of LLVM and bcc: the kernel frees everything faster.
    os._exit(0)


if __name__ == "__main__":
    main()
