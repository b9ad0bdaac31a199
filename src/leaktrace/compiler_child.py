"""The child process that compiles and loads: `python -m leaktrace.compiler_child SOCKET`.

Reads a JSON request from the socket, answers with the descriptors of maps and programs and a JSON
manifest of their names, or with {"error": stage, "detail": …}; then exits. The only importer of
bcc, so whatever LLVM does ends here.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

# Distributions install bcc for their own Python; it is pure Python over libbcc and works with any.
_DISTRIBUTION_FOLDERS = (
    "usr/lib/python3/dist-packages",
    "usr/lib/python3.*/site-packages",
    "usr/lib64/python3.*/site-packages",
    "usr/local/lib/python3.*/dist-packages",
    "usr/local/lib/python3.*/site-packages",
)


def find_bcc(root: Path = Path("/")) -> Path | None:
    """The folder of the distribution's bcc package on the machine whose files are below `root`.

    None where there is none. PyPI's `bcc` is an unrelated package; the real one has a libbcc.py.
    """
    candidates: list[Path] = []
    for pattern in _DISTRIBUTION_FOLDERS:
        candidates += sorted(root.glob(f"{pattern}/bcc"), reverse=True)
    return next((folder for folder in candidates if (folder / "libbcc.py").is_file()), None)


def import_bcc() -> ModuleType:
    """Load that one package, without putting the folder it lies in on sys.path.

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


def compile_and_load(request: dict[str, Any]) -> tuple[dict[str, Any], list[int]]:
    """Compile and load the first variant that the kernel takes.

    Returns the manifest and the descriptors in its order. bcc raises bare Exception for
    everything; what it and clang print goes to our stderr, which the tracer reads.
    """
    # With this variable set bcc takes kernel headers from include/ here, and nowhere else.
    os.environ["BCC_KERNEL_SOURCE"] = request["kernel_source"]
    manifest: dict[str, Any] = {}
    for variant in request["variants"]:
        manifest, descriptors = _compile_variant(request, variant)
        # A variant that is refused leaves the next one to try; nothing helps a missing privilege.
        if manifest.get("error") != "load" or "not permitted" in manifest["detail"]:
            return manifest, descriptors
    return manifest, []


def _compile_variant(
    request: dict[str, Any], variant: dict[str, Any]
) -> tuple[dict[str, Any], list[int]]:
    bcc = sys.modules["bcc"]
    try:
        loaded = bcc.BPF(text=request["source"], cflags=variant["flags"])
    except Exception as error:
        return {"error": "compile", "detail": str(error)}, []

    descriptors = [loaded[name].map_fd for name in variant["maps"]]
    for program in variant["programs"]:
        name, kind = program["name"], getattr(bcc.BPF, program["kind"])
        try:
            function = loaded.load_func(name, kind, None, program["attach_type"])
        except Exception as error:
            return {"error": "load", "name": name, "detail": str(error)}, []
        descriptors.append(function.fd)
        if program["tail_of"]:
            loaded[program["tail_of"]][ctypes.c_int(0)] = ctypes.c_int(function.fd)
    # Keep the module alive: its descriptors are sent after this returns.
    _KEPT.append(loaded)
    return {
        "variant": variant["name"],
        "maps": variant["maps"],
        "programs": [program["name"] for program in variant["programs"]],
    }, descriptors


_KEPT: list[Any] = []


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    # LLVM takes a while to be mapped: the tracer has that time to find out what to ask for.
    try:
        import_bcc()
        problem = ""
    except (ImportError, OSError) as error:
        problem = str(error)
    request = b""
    while chunk := connection.recv(1 << 20):
        request += chunk
    manifest: dict[str, Any]
    descriptors: list[int] = []
    if problem:
        manifest = {"error": "import", "detail": problem}
    else:
        manifest, descriptors = compile_and_load(json.loads(request))
    socket.send_fds(connection, [json.dumps(manifest).encode()], descriptors)
    connection.close()
    sys.stdout.flush()
    # Skip the destructors of LLVM and bcc: the kernel releases everything at once.
    os._exit(0)


if __name__ == "__main__":
    main()
