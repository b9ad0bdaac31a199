"""A corpus of small programs of which it is known whether they leak, and leaktrace's verdicts about
them.

    cases.py      the cases, and the truth about each
    building.py   builds their program (tests/verdicts/programs)
    running.py    traces one of them, and keeps what was said as JSON lines
    judging.py    compares what was said with the truth
    page.py       docs/verdicts.md
"""
