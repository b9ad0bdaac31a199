"""The memleak format is that of bcc's memleak, line by line."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rendered_samples import rendered
from sample_reports import BUSY, COMBINED, CPP_NAME, HTTPD, PARSE_SITE, QUIET, SAMPLED, frame

from leaktrace.model import TargetInfo
from leaktrace.report import create_reporter
from leaktrace.site import Stack


def test_memleak_lines() -> None:
    """Written out from bcc's tools/memleak.py: print_outstanding() with -a."""
    assert rendered("memleak", BUSY).split("\n")[:13] == [
        "[06:00:00] Top 3 stacks with outstanding allocations:",
        "\taddr = 55d0c1000500 size = 24",
        "\taddr = 7f3a40000f00 size = 128",
        "\taddr = 7f3a40001000 size = 4096",
        "\taddr = 55d0c1000010 size = 2097152",
        "\t96 bytes in 3 allocations from stack",
        "\t\tstack information lost",
        "\t2097152 bytes in 1 allocations from stack",
        f"\t\t0x000055d0c0de2222\t{CPP_NAME}+0x31 [httpd]",
        "\t\t0x00007f3a52d00010\t[unknown] [libz.so.1.2.13]",
        "\t\t0x00007f3a40000010\t[unknown]",
        "\t12582912 bytes in 12288 allocations from stack",
        "\t\t0x00007f3a52c0a1b2\tparse_header+0x2f [libparse.so.1]",
    ]


def test_memleak_combined_lines() -> None:
    """print_outstanding_combined(): no addresses, and words for a lost stack."""
    assert rendered("memleak", COMBINED) == (
        "[06:00:00] Top 3 stacks with outstanding allocations:\n"
        "\t96 bytes in 3 allocations from stack\n"
        "\t\tstack information lost\n"
        "\t12582912 bytes in 12288 allocations from stack\n"
        "\t\tparse_header+0x2f [libparse.so.1]\n"
        "\t\tread_request+0x1a0 [httpd]\n"
        "\t\tmain+0x44 [httpd]\n"
    )


def test_memleak_without_sites() -> None:
    header = "[06:00:00] Top 10 stacks with outstanding allocations:\n"
    assert rendered("memleak", QUIET) == header
    assert rendered("memleak", replace(QUIET, combined=True)) == header + "\n"


@pytest.mark.parametrize(
    ("target", "command", "expected"),
    [
        (BUSY.target, (), "Attaching to pid 4242, Ctrl+C to quit.\n"),
        (SAMPLED.target, (), "Attaching to kernel allocators, Ctrl+C to quit.\n"),
        (
            BUSY.target,
            ("./leaker", "malloc", "30"),
            "Executing './leaker malloc 30' and tracing the resulting process.\n"
            "Attaching to pid 4242, Ctrl+C to quit.\n",
        ),
    ],
)
def test_memleak_first_lines(target: TargetInfo, command: tuple[str, ...], expected: str) -> None:
    output = io.StringIO()
    create_reporter("memleak", output, io.StringIO()).begin(target, command)
    assert output.getvalue() == expected


def test_memleak_amount_is_the_first_word_of_the_last_byte_line() -> None:
    """How bcc's own test (tests/python/test_tools_memleak.py) reads the output."""
    lines = [line for line in rendered("memleak", BUSY).splitlines() if "byte" in line]
    assert int(lines[-1].split()[0]) == PARSE_SITE.bytes


def test_memleak_says_losses_elsewhere_and_once() -> None:
    output, notices = io.StringIO(), io.StringIO()
    reporter = create_reporter("memleak", output, notices)
    reporter.report(replace(BUSY, sample_rate=100))
    reporter.report(replace(BUSY, sample_rate=100))
    assert "lost" not in output.getvalue().replace("stack information lost", "")
    printed = notices.getvalue().splitlines()
    assert len(printed) == 3
    assert "1 allocation in 100" in printed[0]
    assert printed[1].startswith("lost: 1,234 allocations not recorded")
    assert "raise --max-allocs" in printed[1]


def test_memleak_shows_a_symbol_that_is_not_ascii() -> None:
    site = replace(PARSE_SITE, stack=Stack((frame(0x10, "größe_漢字", 1, HTTPD),)))
    assert "\t\t0x0000000000000010\tgröße_漢字+0x1 [httpd]\n" in rendered(
        "memleak", replace(BUSY, sites=(site,))
    )
