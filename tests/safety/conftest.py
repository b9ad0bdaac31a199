"""The harness's fixtures, and which form of these tests is run.

LEAKTRACE_SAFETY=long runs every combination (make test-safety); otherwise it is a choice of them,
for `make test`.
"""

from __future__ import annotations

from harness.fixtures import compiled

__all__ = ["compiled"]
