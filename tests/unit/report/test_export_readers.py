"""Exported files in the tools that they are made for, which say the figures of the report."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from rendered_samples import REPORTS
from sample_reports import BUSY, CPP_NAME, KERNEL
from speedscope_package import UnavailableError, speedscope_folder

from leaktrace.analysis.quantities import Quantity
from leaktrace.model import Report
from leaktrace.report.export import EXPORTS, ExportOptions
from leaktrace.site import Frame, Stack

HOSTILE = "\x1b[31m<b>\"a;b\" 'c' #d\n\0\ud800 5"
SHOWN = "\\x1b[31m<b>\"a;b\" 'c' #d\\n\\x00\\ud800 5"  # the same without control characters


def written(name: str, folder: Path, *those: Report, quantity: Quantity = Quantity.IN_USE) -> Path:
    export, output = EXPORTS[name].create(ExportOptions(quantity)), io.BytesIO()
    for report in those:
        export.add(report)
    export.write(output)
    file = folder / f"{len(list(folder.iterdir()))}.{name}"
    file.write_bytes(output.getvalue())
    return file


def hostile() -> Report:
    frames = (Frame(0x1001, HOSTILE, 1, f"/tmp/{HOSTILE}"), Frame(0x2001, "main", 1))
    return replace(BUSY, sites=(replace(BUSY.sites[0], stack=Stack(frames)),))


# -- pprof --

Pprof = Callable[..., str]


@pytest.fixture
def pprof(require_tool: Callable[[str], str], tmp_path: Path) -> Pprof:
    go = require_tool("go")

    def run(*arguments: str | Path) -> str:
        environment = {**os.environ, "HOME": str(tmp_path), "PPROF_TMPDIR": str(tmp_path)}
        command = [go, "tool", "pprof", *map(str, arguments)]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def top(output: str) -> dict[str, tuple[str, str]]:
    """(flat, cumulative) by function."""
    rows = re.findall(r"^ *(\S+) +\S+% +\S+% +(\S+) +\S+%  (.*)$", output, re.MULTILINE)
    return {name: (flat, cumulative) for flat, cumulative, name in rows}


ALL = ("-nodefraction=0", "-edgefraction=0", "-nodecount=1000")


def test_pprof_top(pprof: Pprof, tmp_path: Path) -> None:
    file = written("pprof", tmp_path, BUSY)
    in_bytes = top(pprof("-top", *ALL, "-unit=B", file))  # inuse_space is the default
    assert in_bytes["copy_token (inline)"] == ("12582912B", "12582912B")
    assert in_bytes["main"] == ("0", "12582912B")
    assert in_bytes[CPP_NAME] == ("2097152B", "2097152B")
    assert in_bytes["[libz.so.1.2.13+0x10010]"] == ("0", "2097152B")
    assert in_bytes["[stack not known]"] == ("96B", "96B")
    blocks = pprof("-top", *ALL, "-sample_index=alloc_objects", file)
    assert top(blocks)["copy_token (inline)"][0] == "24576"
    assert "lost: 1,234 allocations not recorded" in blocks  # it prints comments


def test_pprof_callers_and_lines(pprof: Pprof, tmp_path: Path) -> None:
    file = written("pprof", tmp_path, BUSY)
    peek = pprof("-peek=parse_header", "-unit=B", file)
    assert re.search(r"12582912B +100% \| +read_request", peek)
    assert re.search(r"12582912B +100% \| +copy_token \(inline\)", peek)
    lines = top(pprof("-top", "-lines", *ALL, file))
    assert "parse_header http/parser.c:118" in lines


def test_pprof_compares_two_runs(pprof: Pprof, tmp_path: Path) -> None:
    """At other addresses, and with more code seen, the stacks are the same."""
    by = 0x7000_0000
    moved = tuple(
        replace(frame, address=frame.address + by) for frame in BUSY.sites[0].stack.frames
    )
    library = moved[1]
    assert library.module_offset is not None
    further = 0x100_0000
    far = replace(
        library,
        address=library.address + further,
        module_offset=library.module_offset + further,
        function="far",
    )
    grown = replace(BUSY.sites[0], stack=Stack(moved), bytes=12_582_912 + 4096)
    other = replace(BUSY.sites[1], stack=Stack((far,)), bytes=512)
    before = written("pprof", tmp_path, replace(BUSY, sites=BUSY.sites[:1]))
    after = written("pprof", tmp_path, replace(BUSY, sites=(grown, other)))
    rows = top(pprof("-top", *ALL, "-unit=B", f"-diff_base={before}", after))
    assert rows["copy_token (inline)"] == ("4096B", "4096B")
    assert rows["main"] == ("0", "4096B")
    assert rows["far"] == ("512B", "512B")
    same = pprof("-raw", f"-diff_base={before}", after)
    assert len(re.findall(r"copy_token", same.partition("Locations")[2])) == 1
    none = pprof("-top", *ALL, f"-diff_base={before}", before)
    assert not any(flat != "0" for flat, _ in top(none).values())


def test_pprof_of_the_kernel(pprof: Pprof, tmp_path: Path) -> None:
    raw = pprof("-raw", written("pprof", tmp_path, KERNEL))
    assert "[kernel.kallsyms]" in raw
    assert re.search(r"cache:\[", raw)
    assert "pages_inuse_space/bytes" in raw


def test_pprof_sections(pprof: Pprof, tmp_path: Path) -> None:
    report = REPORTS["descriptors"]
    index = "file_descriptors_inuse_objects"
    shown = pprof("-top", f"-sample_index={index}", written("pprof", tmp_path, report))
    held = sum(site.count for site in report.sections[0].sites)
    assert re.search(rf" {held} total$", shown, re.MULTILINE)


@pytest.mark.parametrize("name", ["quiet", "only_descriptors", "workers", "pairs"])
def test_pprof_opens_all_reports(pprof: Pprof, tmp_path: Path, name: str) -> None:
    report = REPORTS[name]
    index = "inuse_objects" if report.is_counted else "inuse_space"
    held = sum(site.count if report.is_counted else site.bytes for site in report.sites)
    shown = pprof("-top", "-unit=B", f"-sample_index={index}", written("pprof", tmp_path, report))
    total = re.search(r"(\d+)B? total$", shown, re.MULTILINE)
    assert total is not None
    assert int(total[1]) == held


def test_pprof_hostile_names(pprof: Pprof, tmp_path: Path) -> None:
    shown = pprof("-traces", "-unit=B", written("pprof", tmp_path, hostile()))
    assert f"12582912B   {SHOWN}\n" in shown
    assert "\x1b" not in shown


# -- massif --


def test_ms_print(require_tool: Callable[[str], str], tmp_path: Path) -> None:
    small = replace(BUSY, elapsed_s=5.0, sites=BUSY.sites[1:])
    end = replace(hostile(), elapsed_s=20.0)
    file = written("massif", tmp_path, small, BUSY, end)
    command = [require_tool("ms_print"), "--threshold=0", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == ""
    assert "Detailed snapshots: [0, 1 (peak), 2]" in done.stdout
    rows = re.findall(r"^ +(\d) +([\d,]+) +([\d,]+) +[\d,]+ +0 +0$", done.stdout, re.MULTILINE)
    assert rows == [
        ("0", "5,000", "2,097,248"),
        ("1", "15,000", "14,680,160"),
        ("2", "20,000", "12,582,912"),
    ]
    assert "->85.71% (12,582,912B) 0x7f3a52c0a1b2: copy_token (http/token.h:12)" in done.stdout
    assert "->00.00% (96B) in 1 place below massif's threshold (0.10%)" in done.stdout
    assert f"0x1001: {SHOWN}".replace("#", "\\x23") in done.stdout
    assert "\x1b" not in done.stdout


# -- speedscope --


@pytest.fixture(scope="module")
def speedscope() -> Path:
    try:
        return speedscope_folder()
    except UnavailableError as error:
        pytest.skip(str(error))


# The rows of the table follow its head, or this.
_HAS_ROWS = """() => document.querySelectorAll("table tr").length > 1
    || document.body.innerText.includes("No symbols found")"""


@pytest.fixture(scope="module")
def sandwich(speedscope: Path) -> Iterator[Callable[[Path], list[str]]]:
    """Opens a file in speedscope and returns the lines of its table of functions."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))

        def lines(file: Path) -> list[str]:
            page.goto("about:blank")
            page.goto(f"{(speedscope / 'index.html').as_uri()}#view=sandwich")
            page.set_input_files("input[type=file]", file)
            page.get_by_text("Symbol Name").wait_for()
            page.wait_for_function(_HAS_ROWS)
            assert not errors
            return [line.strip() for line in page.inner_text("body").splitlines()]

        yield lines
        browser.close()


MAY_SKIP = pytest.mark.may_skip("speedscope comes from the npm registry, chromium not everywhere")


@MAY_SKIP
def test_speedscope_schema(speedscope: Path, tmp_path: Path) -> None:
    schema = json.loads((speedscope / "file-format-schema.json").read_text())
    for report in (*REPORTS.values(), hostile()):
        file = written("speedscope", tmp_path, report)
        jsonschema.validate(json.loads(file.read_text()), schema)


@MAY_SKIP
def test_speedscope_in_a_browser(sandwich: Callable[[Path], list[str]], tmp_path: Path) -> None:
    shown = sandwich(written("speedscope", tmp_path, BUSY))
    assert "bytes in use (1/6)" in shown
    at = shown.index("copy_token")
    assert shown[at - 2 : at] == ["12.00 MB (86%)"] * 2  # total and self
    at = shown.index("main")
    assert shown[at - 2 : at] == ["12.00 MB (86%)", "0 B (<0.01%)"]
    assert "96 B (<0.01%)" in shown
    assert "No symbols found." in sandwich(written("speedscope", tmp_path, REPORTS["quiet"]))
    assert SHOWN in sandwich(written("speedscope", tmp_path, hostile()))


@MAY_SKIP
def test_folded_stacks_in_a_browser(sandwich: Callable[[Path], list[str]], tmp_path: Path) -> None:
    """speedscope reads them, too."""
    file = written("folded", tmp_path, BUSY, quantity=Quantity.ALLOCATED_BLOCKS)
    shown = sandwich(file)
    at = shown.index("copy_token")
    assert shown[at - 2 : at] == ["24,576 (>99%)"] * 2
    shown = sandwich(written("folded", tmp_path, hostile()))
    assert SHOWN.replace(";", "\\x3b").replace(" 5", "\\x205") in shown
