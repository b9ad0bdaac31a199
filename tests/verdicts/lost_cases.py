"""Compare `--lost` with LeakSanitizer and memcheck on their own test programs (as root).

    python tests/verdicts/lost_cases.py [--only REGEX] PATH...

A PATH is a C or C++ file, or a directory of them. Each is compiled without optimization, and run
three times: with LeakSanitizer, below valgrind's memcheck, and by leaktrace. The arguments of a
program are those that its test runs it with. The table goes into docs/lost-cases.md, in place of
the one that is there; what is written around it stays. With --only, it is printed, and the page is
not written. What was said is kept in build/lost-cases. docs/lost-cases.md says where to get the
test programs: they are no part of this project.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/support")]

from harness.tracer import COMMAND, tracer_environment  # noqa: E402

DIRECTORY = ROOT / "build/lost-cases"
PAGE = ROOT / "docs/lost-cases.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
LIMIT_S = 10
TOOL_LIMIT_S = 60  # a tool also needs time to start
FLAGS = ("-O0", "-g", "-w", "-pthread")
LIBRARIES = ("-ldl",)
# Without LeakSanitizer, a look in between does nothing. The one at the end counts.
LEAK_CHECK = "void __lsan_do_leak_check(void) {}"
# What tells LeakSanitizer what to leave out, or asks what it has found: others can't know it.
INTERFACE = re.compile(
    r"__lsan_(?:disable|enable|ignore_object|(?:un)?register_root_region|is_turned_off"
    r"|do_recoverable_leak_check|default_suppressions|default_options)\b|__lsan::ScopedDisabler"
)
# `%run %t 5 1000 2>&1 | …` of LLVM's tests.
RUN_LINE = re.compile(r"%run %t((?: \w+(?![\w>]))*)")


class CaseError(Exception):
    """The program can't be compared. The text says why."""


@dataclass(frozen=True)
class Lost:
    blocks: int
    size_bytes: int

    def __add__(self, other: Lost) -> Lost:
        return Lost(self.blocks + other.blocks, self.size_bytes + other.size_bytes)

    def __str__(self) -> str:
        if not self.blocks:
            return "–"
        return f"{self.blocks:,} ({self.size_bytes:,} B)"


NONE = Lost(0, 0)


@dataclass(frozen=True)
class Case:
    source: Path
    arguments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " ".join([self.source.name, *self.arguments])


@dataclass(frozen=True)
class Said:
    """What the tools said of one program."""

    lsan: Lost
    memcheck: Lost
    leaktrace: Lost
    problems: tuple[str, ...] = ()
    """What leaktrace did not know."""

    @property
    def is_the_same(self) -> bool:
        return self.lsan == self.memcheck == self.leaktrace


def sources(paths: Sequence[Path]) -> list[Path]:
    found = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        found += [file for file in inside if file.suffix in (".c", ".cpp")]
    return found


def cases(source: Path) -> list[Case]:
    """The program with each of the arguments that its own tests give it."""
    text = source.read_text(encoding="utf-8", errors="replace")
    found = [tuple(words.split()) for words in RUN_LINE.findall(text)]
    for test in sorted(source.parent.glob("*.vgtest")):
        settings = dict(
            line.split(":", 1)
            for line in test.read_text(encoding="utf-8", errors="replace").splitlines()
            if ":" in line
        )
        if settings.get("prog", "").strip() == source.stem:
            words = settings.get("args", "").split()
            # An argument may be the name of a file that is not there.
            found += [tuple(words)] if all(word.isalnum() for word in words) else []
    return [Case(source, arguments) for arguments in dict.fromkeys(found or [()])]


def why_not(text: str) -> str | None:
    """Why the program with this source can't be compared."""
    if match := INTERFACE.search(text):
        return f"tells LeakSanitizer what to do (`{match.group()}`)"
    return None


def from_lsan(text: str) -> Lost:
    """LeakSanitizer's last summary of each process, added up."""
    last: dict[str, Lost] = {}
    pid = ""
    for line in text.splitlines():
        if match := re.search(r"==(\d+)==ERROR: LeakSanitizer", line):
            pid = match.group(1)
        match = re.search(
            r"SUMMARY: LeakSanitizer: (\d+) byte\(s\) leaked in (\d+) allocation", line
        )
        if match:
            last[pid] = Lost(int(match.group(2)), int(match.group(1)))
    if "LeakSanitizer has encountered a fatal error" in text:
        raise CaseError("LeakSanitizer failed")
    return sum(last.values(), NONE)


def from_memcheck(text: str) -> Lost:
    """The last summary of each process, added up: what is definitely and indirectly lost."""
    last: dict[str, Lost] = {}
    for line in text.splitlines():
        match = re.match(r"==(\d+)==\s+(.*)", line)
        if not match:
            continue
        pid, words = match.groups()
        if words.startswith(("LEAK SUMMARY", "All heap blocks were freed")):
            last[pid] = NONE
        found = re.match(
            r"(?:definitely|indirectly) lost: ([\d,]+) bytes in ([\d,]+) blocks", words
        )
        if found:
            size_bytes, blocks = (int(number.replace(",", "")) for number in found.groups())
            last[pid] = last.get(pid, NONE) + Lost(blocks, size_bytes)
    if not last:
        raise CaseError("memcheck printed no summary")
    return sum(last.values(), NONE)


def from_leaktrace(reports: Sequence[Mapping[str, Any]]) -> tuple[Lost, tuple[str, ...]]:
    """What is lost in the final reports of all processes; and what is not known."""
    final = [report for report in reports if report["final"] and not report["combined"]]
    if not final:
        raise CaseError("leaktrace wrote no final report")
    lost, problems = NONE, []
    for report in final:
        reach = report["reach"]
        if reach is None:
            problems.append("a process was not looked at")
            continue
        problems += [note for note in report["target"]["notes"] if "child" in note]
        problems += reach["problems"]
        classes = reach["lost"]
        for kind in ("definite", "indirect"):
            lost += Lost(classes[f"{kind}_count"], classes[f"{kind}_bytes"])
    return lost, tuple(dict.fromkeys(problems))


def first_error(text: str) -> str:
    """What a compiler or linker says first, without the place."""
    for said in ("undefined reference", "error: "):
        for line in text.splitlines():
            if said in line:
                return line[line.index(said) :].removeprefix("error: ")
    return "no reason given"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def row(case: Case, said: Said | str, explained: str) -> str:
    """A line of the table. `explained` is the text of the page about differences."""
    if isinstance(said, str):
        return f"| {cell(case.name)} | | | | not compared: {cell(said)} |"
    remarks = []
    if not said.is_the_same:
        remarks.append(
            "differs" if f"**{case.source.name}**" in explained else "differs, unexplained"
        )
    remarks += said.problems
    lost = [str(tool) for tool in (said.lsan, said.memcheck, said.leaktrace)]
    return f"| {' | '.join([cell(case.name), *lost, cell('; '.join(remarks))])} |"


def page(old: str, table: Sequence[str]) -> str:
    """The page with this table in place of the one that is there."""
    before, _, rest = old.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not after:
        raise ValueError(f"no {BEGIN} … {END} in the page")
    return "\n".join([before + BEGIN, "", *table, "", END + after])


def totals(said: Sequence[Said | str]) -> str:
    compared = [one for one in said if isinstance(one, Said)]
    same = sum(one.is_the_same for one in compared)
    as_lsan = sum(one.lsan == one.leaktrace for one in compared)
    as_memcheck = sum(one.memcheck == one.leaktrace for one in compared)
    return (
        f"{len(compared)} runs of programs were compared, {len(said) - len(compared)} were not. "
        f"All three tools say the same of {same}; leaktrace says the same as LeakSanitizer of "
        f"{as_lsan}, and the same as memcheck of {as_memcheck}."
    )


# ---- Building and running ----


def includes(source: Path, folder: Path) -> list[str]:
    """What the tests include by paths of their source trees, from what is installed."""
    for name in ("memcheck.h", "include/valgrind.h"):
        header = folder / name
        header.parent.mkdir(parents=True, exist_ok=True)
        header.write_text(f"#include <valgrind/{header.name}>\n", encoding="utf-8")
    (folder / "tests").mkdir(exist_ok=True)
    return [f"-I{folder / 'tests'}", *(f"-I{parent}" for parent in list(source.parents)[:4])]


def build(source: Path, program: Path, *options: str) -> None:
    compiler = "gcc" if source.suffix == ".c" else "g++"
    words = [compiler, *FLAGS, *includes(source, DIRECTORY / "include"), *options, str(source)]
    if not any(option.startswith("-fsanitize") for option in options):
        stub = DIRECTORY / "no_leak_check.o"
        if not stub.exists():
            make = ["gcc", "-c", "-x", "c", "-", "-o", str(stub)]
            subprocess.run(make, input=LEAK_CHECK, text=True, check=True)
        words.append(str(stub))
    words += ["-o", str(program), *LIBRARIES]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CaseError(f"does not compile: {first_error(done.stderr)}")


def run(words: Sequence[str], log: Path, limit_s: float, what: str, env: Mapping[str, str]) -> int:
    """The exit status. Output goes to `log`. Raises CaseError if it does not end in time."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["nice", *words],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,  # so that what it has started can be ended with it
        )
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise CaseError(f"{what} does not end within {limit_s:.0f} s") from None
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if process.poll() is not None:
                    break
                os.killpg(process.pid, number)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    continue


def compare(case: Case) -> Said:
    """Raises CaseError."""
    if reason := why_not(case.source.read_text(encoding="utf-8", errors="replace")):
        raise CaseError(reason)
    folder = DIRECTORY / case.name.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    plain, checked = folder / "plain", folder / "lsan"
    build(case.source, plain)
    build(case.source, checked, "-fsanitize=leak")
    env = dict(os.environ)
    log = folder / "plain.log"
    status = run([str(plain), *case.arguments], log, LIMIT_S, "the program", env)
    if status >= 128 or status < 0:
        number = status - 128 if status > 0 else -status
        raise CaseError(f"ends by {signal.Signals(number).name} when run alone")
    log = folder / "lsan.log"
    run([str(checked), *case.arguments], log, LIMIT_S, "with LeakSanitizer, the program", env)
    lsan = from_lsan(log.read_text(encoding="utf-8", errors="replace"))
    log = folder / "memcheck.log"
    words = ["valgrind", "--leak-check=full", "--leak-check-heuristics=none", f"--log-file={log}"]
    words += [str(plain), *case.arguments]
    run(words, folder / "memcheck.out", TOOL_LIMIT_S, "below memcheck, the program", env)
    memcheck = from_memcheck(log.read_text(encoding="utf-8", errors="replace"))
    reports = folder / "leaktrace.jsonl"
    reports.unlink(missing_ok=True)
    words = [*COMMAND, "-f", "json", "--lost", "-T", "100000", "--output", str(reports), "--"]
    words += [str(plain), *case.arguments]
    run(
        words,
        folder / "leaktrace.out",
        TOOL_LIMIT_S,
        "below leaktrace, the program",
        tracer_environment(),
    )
    if not reports.exists():
        raise CaseError("leaktrace wrote no report")
    lines = reports.read_text(encoding="utf-8").splitlines()
    lost, problems = from_leaktrace([json.loads(line) for line in lines])
    return Said(lsan, memcheck, lost, problems)


def attempt(case: Case) -> Said | str:
    try:
        return compare(case)
    except CaseError as error:
        return str(error)


def main() -> None:
    arguments = argparse.ArgumentParser(description="Compare --lost with other leak checkers.")
    arguments.add_argument("paths", type=Path, nargs="+", metavar="PATH")
    arguments.add_argument("--only", type=re.compile, metavar="REGEX")
    given = arguments.parse_args()
    if os.geteuid() != 0:
        sys.exit("this traces processes: run it as root")
    if missing := [tool for tool in ("gcc", "g++", "valgrind") if not shutil.which(tool)]:
        sys.exit(f"not installed: {', '.join(missing)}\napt-get install gcc g++ valgrind")
    if absent := [str(path) for path in given.paths if not path.exists()]:
        sys.exit(
            f"no such file or directory: {', '.join(absent)}\n{PAGE.name} says where to get it"
        )
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    todo = [
        case
        for source in sources([path.resolve() for path in given.paths])
        for case in cases(source)
        if given.only is None or given.only.search(case.name)
    ]
    heading = [
        "| program | LeakSanitizer | memcheck | leaktrace | remark |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(heading), flush=True)
    said = []
    for case in todo:
        said.append(attempt(case))
        print(row(case, said[-1], explanations()), flush=True)
    print(totals(said))
    if given.only is None:
        rows = [row(case, one, explanations()) for case, one in zip(todo, said, strict=True)]
        old = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(page(old, [totals(said), "", *heading, *rows]), encoding="utf-8")


def explanations() -> str:
    """What the page says below its table."""
    return PAGE.read_text(encoding="utf-8").partition(END)[2]


if __name__ == "__main__":
    main()
