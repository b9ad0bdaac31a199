"""What the benchmarks share: processes and their costs, tracers to compare, results to show.

Targets and leaktrace itself are driven as in the tests (tests/support/harness). Nothing here is
asserted: a figure depends on the machine, and a busy one makes all of them worse.
"""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

# So that each benchmark also runs alone, without an installed leaktrace. Benchmarks import this
# package before `harness`, which is found by it: so does the alphabet.
sys.path[:0] = [str(REPOSITORY / "src"), str(REPOSITORY / "tests/support")]
