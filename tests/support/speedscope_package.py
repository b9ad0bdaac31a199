"""The npm package of speedscope, which runs in a browser without a network.

It is fetched once, by npm, into build/, and checked against its published hash.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "1.25.0"
_SHA512 = "cpf9HWTZf1ijLXBJrk87Ve/54tnYx6rlf0gUThvn3ook6h63hLXVOQiMf44PT+XoV503cPfvfiT5gP5vojp6Ag=="
_BUILD = Path(__file__).resolve().parents[2] / "build"


class UnavailableError(Exception):
    """It can't be fetched; the message says why."""


def speedscope_folder() -> Path:
    """The folder of its page, index.html. Raises UnavailableError."""
    package = _BUILD / f"speedscope-{VERSION}"
    if not package.exists():
        _fetch(package)
    return package / "package/dist/release"


def _fetch(package: Path) -> None:
    if shutil.which("npm") is None:
        raise UnavailableError("needs npm")
    _BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_BUILD) as scratch:
        command = ["npm", "pack", f"speedscope@{VERSION}", "--pack-destination", scratch]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=scratch)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no reason is known"])[0]
            raise UnavailableError(f"npm can't fetch speedscope: {reason}")
        archive = Path(scratch, f"speedscope-{VERSION}.tgz")
        digest = hashlib.sha512(archive.read_bytes()).digest()
        assert base64.b64encode(digest).decode() == _SHA512, "this is another package"
        with tarfile.open(archive) as files:
            files.extractall(Path(scratch, "unpacked"))  # its hash is known, so its paths are
        try:
            Path(scratch, "unpacked").rename(package)
        except OSError:
            if not package.exists():  # another test has put it there meanwhile
                raise
