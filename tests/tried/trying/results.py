"""What a trial found, and the page that is made of all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# Losses that concern the outer callers of a stack only: the allocation is in all figures.
CUT_OFF = {
    "truncated_stacks": "deeper than the walk goes",
    "unmapped_code": "in code just mapped, or at a wrong frame",
    "untabled_code": "in code without unwind tables",
    "generated_code": "in generated code",
    "inexpressible_rules": "at a rule that can't be followed",
    "unreadable_stacks": "at unreadable memory",
    "misordered_frames": "at a frame in the wrong order",
    "foreign_probes": "at another tool's probe",
}
# Neither lost nor cut off: a frame of these stacks was found by frame pointer.
GUESSED = "guessed_stacks"


@dataclass(frozen=True)
class Trial:
    """One program, traced once. Without `failure`, the rest is from leaktrace's reports."""

    name: str
    source: str
    version: str
    traced: str
    failure: str = ""
    """Why there is no report."""
    processes: int = 0
    allocators: Sequence[str] = ()
    stack_ends: Mapping[str, int] = field(default_factory=dict)
    """Sites by how their stack ended."""
    losses: Mapping[str, int] = field(default_factory=dict)
    """Those that are not zero."""
    remarks: Sequence[str] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Run:
    date: str
    kernel: str
    system: str
    leaktrace: str
    trials: Sequence[Trial]


def save(run: Run, file: Path) -> None:
    file.write_text(json.dumps(asdict(run), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load(file: Path) -> Run:
    fields = json.loads(file.read_text(encoding="utf-8"))
    return Run(**{**fields, "trials": [Trial(**trial) for trial in fields["trials"]]})


def from_reports(trial: Trial, reports: Sequence[Mapping[str, Any]]) -> Trial:
    """The trial, with what leaktrace's reports say (docs/json.md). A server may hold nothing at the
    end. So the stacks are those of the report with the most; the rest is in the final one."""
    final = reports[-1]
    most = max((report["stack_ends"] for report in reports), key=lambda ends: sum(ends.values()))
    return Trial(
        name=trial.name,
        source=trial.source,
        version=trial.version,
        traced=trial.traced,
        processes=len(final.get("processes", ())) or 1,
        allocators=final["target"]["allocators"],
        stack_ends=most,
        losses={name: count for name, count in final["losses"].items() if count},
        remarks=[remark["text"] for remark in final["remarks"]],
        notes=final["target"]["notes"],
    )


_HEAD = """\
# Tried programs

{tried} programs from Debian's packages, PyPI and npm, each traced once under a small load.
`make tried` (`tests/tried/try_programs.py`) writes this page, with what leaktrace said,
unchanged.

| | |
|---|---|
| date | {date} |
| leaktrace | {leaktrace} |
| system | {system} |
| kernel | {kernel} |

* **traced**: `-c` starts the program, and follows the processes that it starts. `-p --follow`
  attaches to all processes of a running server, and `--name` finds it by its name.
* **processes**: those that the final report is about, also ended ones.
* **complete stacks**: the share of call paths whose stack reaches the first function of the program
  or thread. They are those that held memory in one report, the one with the most. In brackets is
  their number. Of the others, *guessed* stacks have a frame that was found by frame pointer,
  because its code has no unwind table (generated code, assembly). *broken* ones were cut off.
* **lost**: what could not be recorded.
* **remarks**: allocations whose stack was cut off or partly guessed. (They are in all figures.) And
  how many sentences the report has about what isn't hooked, and notes.
  [They are below](#what-the-reports-said).

Most stacks that are cut off are of libraries that had just been loaded: their first calls, such as
those of an initialization function, come before leaktrace has read their unwind tables. Generated
code (Java, JavaScript) has no such tables, so its stacks have guessed frames. Truncated ones are
those of deep chains of imports in Python.

A stripped program with a static allocator has no names to hook. leaktrace refuses it if there is
nothing else (busybox, esbuild). If the C library is also there (ruff, biome), its functions are
hooked, and the report does not know of the other allocator: use `--faults`.

| program | from | version | traced | processes | hooked | complete stacks | lost | remarks |
|---|---|---|---|---|---|---|---|---|
"""


def page(run: Run) -> str:
    """The page docs/tried-programs.md."""
    tried = sum(not trial.failure for trial in run.trials)
    head = _HEAD.format(
        tried=tried,
        date=run.date,
        leaktrace=run.leaktrace,
        system=run.system,
        kernel=run.kernel,
    )
    rows = "".join(_row(trial) for trial in run.trials)
    said = "".join(_said(trial) for trial in run.trials)
    return head + rows + "\n## What the reports said\n" + said


def _row(trial: Trial) -> str:
    about = [trial.name, trial.source, trial.version, f"`{trial.traced}`"]
    if trial.failure:
        return _line([*about, "", "", "", "", trial.failure])
    return _line(
        [
            *about,
            str(trial.processes),
            "; ".join(trial.allocators) or "nothing",
            _complete(trial.stack_ends),
            _lost(trial.losses),
            _in_short(trial),
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _complete(ends: Mapping[str, int]) -> str:
    """The share of complete stacks. One that is cut off never shows as 100 %."""
    sites = sum(ends.values())
    if not sites:
        return "none held memory"
    complete = ends.get("complete", 0)
    share = "100 %" if complete == sites else f"{min(complete / sites * 100, 99.9):.1f} %"
    others = [f"{count} {end}" for end, count in sorted(ends.items()) if end != "complete"]
    return f"{share} ({', '.join([f'{sites:,}', *others])})"


def _lost(losses: Mapping[str, int]) -> str:
    lost = [
        f"{name} {count:,}"
        for name, count in losses.items()
        if name not in CUT_OFF and name != GUESSED
    ]
    return ", ".join(lost) or "nothing"


def _in_short(trial: Trial) -> str:
    short = [
        f"{count:,} cut off {CUT_OFF[name]}"
        for name, count in trial.losses.items()
        if name in CUT_OFF
    ]
    if GUESSED in trial.losses:
        short.append(f"{trial.losses[GUESSED]:,} partly guessed")
    for several, one, sentences in (
        ("remarks", "remark", trial.remarks),
        ("notes", "note", trial.notes),
    ):
        if sentences:
            short.append(f"{len(sentences)} {one if len(sentences) == 1 else several}")
    return "; ".join(short) or "none"


def _said(trial: Trial) -> str:
    lines = [f"- incomplete: {_text(remark)}\n" for remark in trial.remarks]
    lines += [f"- note: {_text(note)}\n" for note in trial.notes]
    return f"\n### {trial.name}, {trial.source}\n\n" + "".join(lines) if lines else ""


def _text(sentence: str) -> str:
    """Names such as <stdin> or a_b_c are no markup."""
    for special in "\\<>_*`[]":
        sentence = sentence.replace(special, "\\" + special)
    return sentence
