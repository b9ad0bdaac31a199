"""Where the objects of a process come from, also when it has ended since its memory was copied."""

from __future__ import annotations

import subprocess

import pytest

from leaktrace.errors import ObjectFileError, TargetError
from leaktrace.roots.module_data import ObjectFiles
from leaktrace.targets.mappings import read_mappings


@pytest.mark.parametrize("ends_before", [True, False])
def test_of_a_process_that_has_ended_since(ends_before: bool) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"x")
        process.stdin.flush()
        process.stdout.read(1)  # it has loaded its libraries
        mapping = next(one for one in read_mappings(process.pid) if one.is_executable)
        before = ObjectFiles.of_copy(process.pid)
        before.elf(mapping).close()
        process.kill()
        process.wait()
        files = ObjectFiles.of_copy(process.pid) if ends_before else before
        with pytest.raises((ObjectFileError, TargetError)) as error:
            files.elf(mapping)
        assert isinstance(error.value, ObjectFileError)
        assert files.thread_name(process.pid) is None
