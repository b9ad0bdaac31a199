"""Runs in a guest: `python -m vm.inside PROGRAM [ARGUMENT…] -- [OPTION…]`.

Traces a target program with these options of leaktrace, and prints the report of the moment when
its work is done; what leaktrace says goes to stderr.
"""

from __future__ import annotations

import json
import sys

from harness.tracer import trace_work


def main() -> None:
    words = sys.argv[1:]
    end = words.index("--")
    traced = trace_work(words[:end], *words[end + 1 :])
    print(json.dumps(traced.report.raw))
    print(traced.stderr, file=sys.stderr)


if __name__ == "__main__":
    main()
