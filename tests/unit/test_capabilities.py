"""Messages about a required capability: it is missing, granted, or could not be tested."""

from __future__ import annotations

import subprocess
import sys

import pytest

_REFUSED = """
import os, resource
from leaktrace.capabilities import Capability, refused
{first}
error = refused("it can't be read", Capability.DAC_READ_SEARCH)
print(error.message)
print(error.hint)
"""


def refusal(first: str = "") -> list[str]:
    """Message and hint, as a separate process prints them after the statement `first`."""
    output = subprocess.run(
        [sys.executable, "-c", _REFUSED.format(first=first)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    return output.splitlines()


def test_a_capability_that_could_not_be_tested_is_not_called_missing() -> None:
    message, hint = refusal("resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))")
    assert "could not be tested" in message
    assert "missing" not in message
    assert "CAP_DAC_READ_SEARCH" in message
    assert "CAP_DAC_READ_SEARCH" in hint


@pytest.mark.usefixtures("require_root")
def test_a_capability_that_is_granted_is_said_to_be() -> None:
    message, hint = refusal()
    assert "although CAP_DAC_READ_SEARCH is granted" in message
    assert "run as root" not in hint


@pytest.mark.usefixtures("require_root")
def test_a_capability_that_is_missing() -> None:
    message, hint = refusal("os.setuid(65534)")
    assert "CAP_DAC_READ_SEARCH is missing" in message
    assert "run as root" in hint
