"""What the benchmarks share: processes and their costs, tracers to compare, results to show.

Targets and leaktrace itself are driven as in the tests (tests/support/harness). Nothing is
asserted: figures depend on the machine, and get worse when it is busy.
"""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

# So that each benchmark also runs alone, without an installed leaktrace. Benchmarks import this
# package before `harness`, which it makes importable. Sorted imports keep that order.
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "tests/support")]
