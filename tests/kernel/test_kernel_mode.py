"""Kernel mode on the running kernel: exact counts of what one process makes it allocate, by
tracepoints and, where the kernel has them, by kprobes."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.compiling import Compiler
from harness.lines import DEADLINE_S
from harness.reports import Report, Site, Total, total
from harness.target import Target
from harness.tracer import (
    COMMAND,
    ONE_REPORT,
    Outcome,
    Tracer,
    run_leaktrace,
    tracer_environment,
)
from harness.wording import names

from leaktrace.bpf import links
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.machine.features import require_kernel_mode

pytestmark = pytest.mark.alone("it sees what the whole machine allocates")

PIPES = 500
PAGE = 4096
NEVER = "3600"

Trace = Callable[..., Report]


@pytest.fixture(scope="module", autouse=True)
def require_kernel(require_root: None) -> None:
    """Skip unless the kernel can be traced on this machine."""
    try:
        require_kernel_mode()
    except EnvironmentUnfitError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.fixture(params=["tracepoint", pytest.param("kprobe", marks=pytest.mark.may_skip("VMs"))])
def probes(request: pytest.FixtureRequest) -> str:
    """How the kernel is probed."""
    choice: str = request.param
    if choice == "kprobe" and not links.has_kprobes():
        pytest.skip("this kernel has no kprobes")
    return choice


@pytest.fixture
def worker(compiled: Compiler) -> Iterator[Target]:
    with Target([compiled("kernel_work.c")]) as target:
        yield target.await_ready()


@contextmanager
def tracing(*options: str | Path) -> Iterator[Tracer]:
    """leaktrace --kernel, armed."""
    with Tracer("--kernel", *options, NEVER) as tracer:
        tracer.stderr.until(lambda line: "tracing the kernel" in line)
        yield tracer


def last_report(outcome: Outcome) -> Report:
    assert outcome.exit_code == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr, outcome.stderr
    report = outcome.reports[-1]
    assert report.final
    return report


def trace(worker: Target, options: tuple[str, ...], *commands: str) -> Report:
    """What this process's commands leave behind."""
    with tracing(*ONE_REPORT, "--task", str(worker.pid), *options) as tracer:
        for command in commands:
            worker.do(command)
        return last_report(tracer.stop())


def sections(report: Report) -> dict[str, tuple[Site, ...]]:
    """The sites of the allocators other than slab."""
    return {section["section"]: Report.sites_of(section) for section in report.raw["sections"]}


def caches(sites: tuple[Site, ...]) -> dict[str, Total]:
    """What each slab cache holds."""
    found: dict[str, list[Site]] = {}
    for site in sites:
        found.setdefault(site.raw["cache"], []).append(site)
    return {cache: total(tuple(those)) for cache, those in found.items()}


def missed(report: Report) -> int:
    """Events that the kernel says it has skipped; each may be an object too many or too few in the
    figures."""
    return int(report.losses.get("recursion_misses", 0))


def test_open_pipes_are_found_exactly(worker: Target, probes: str) -> None:
    report = trace(worker, ("--kernel-probes", probes), f"open {PIPES}")
    sites = report.sites_under("alloc_pipe_info")
    # One struct pipe_inode_info and its ring of buffers each, with this kernel's sizes.
    assert len({site.functions for site in sites if site.functions[0] == "alloc_pipe_info"}) == 1
    own = [site for site in sites if site.functions[0] == "alloc_pipe_info"]
    assert len(own) == 2
    for site in own:
        assert abs(site.total.count - PIPES) <= missed(report)
        assert site.total.bytes % site.total.count == 0
        size = site.total.bytes // site.total.count
        assert re.fullmatch(r"kmalloc-\d+k?", site.raw["cache"])
        assert site.raw["cache"] == (
            f"kmalloc-{size // 1024}k" if size >= 1024 else f"kmalloc-{size}"
        )
        assert 0 < site.raw["requested_bytes"] <= site.total.bytes
        assert site.raw["context"] == "process"
        assert site.raw["stack_end"] == "complete"
        assert site.frames[0].module == "kernel"
        assert site.functions[-1] is not None
        assert "SYSCALL" in site.functions[-1] or site.functions[-1].startswith("el0")


def test_closed_pipes_are_gone(worker: Target, probes: str) -> None:
    report = trace(worker, ("--kernel-probes", probes), f"open {PIPES}", "close")
    left = [s for s in report.sites if s.functions[:1] == ("alloc_pipe_info",)]
    assert total(tuple(left)).count <= missed(report)


def test_many_processes_at_once(worker: Target, compiled: Compiler, probes: str) -> None:
    """Others allocate and free the same things meanwhile, on all CPUs."""
    with (
        Target([compiled("kernel_work.c")]) as first,
        Target([compiled("kernel_work.c")]) as second,
    ):
        others = [first.await_ready(), second.await_ready()]
        options = ("--kernel-probes", probes, "--task", str(worker.pid))
        with tracing(*ONE_REPORT, *options) as tracer:
            for _ in range(3):
                for other in others:
                    other.send("open 1500")
                worker.do(f"open {PIPES}")
                for other in others:
                    other.await_done()
                    other.send("close")
                worker.do("close")
                for other in others:
                    other.await_done()
            worker.do(f"open {PIPES}")
            report = last_report(tracer.stop())
    own = [s for s in report.sites if s.functions[:1] == ("alloc_pipe_info",)]
    assert len(own) == 2
    for site in own:
        assert abs(site.total.count - PIPES) <= missed(report)
        assert site.raw["allocated_count"] - site.raw["freed_count"] == site.total.count


def test_all_processes(worker: Target, probes: str) -> None:
    """Without a filter: at least what our process did, and the kernel's own figures next to it."""
    with tracing(*ONE_REPORT, "--kernel-probes", probes) as tracer:
        worker.do(f"open {PIPES}")
        report = last_report(tracer.stop())
    held = total(tuple(s for s in report.sites if s.functions[:1] == ("alloc_pipe_info",)))
    assert held.count >= 2 * PIPES - missed(report)
    slab = report.raw["slab"]
    assert slab["tracked_bytes"] >= held.bytes
    ids = [site.raw["id"] for site in report.sites]
    assert len(ids) == len(set(ids))


def test_a_full_map_is_counted(worker: Target, probes: str) -> None:
    report = trace(worker, ("--kernel-probes", probes, "--max-allocs", "300"), f"open {PIPES}")
    assert report.outstanding.count <= 300
    lost = report.losses["allocations"]
    assert lost > 0
    assert report.losses["allocation_bytes"] > 0
    # A pipe takes two objects at least: those that are not recorded are lost.
    assert report.outstanding.count + lost >= 2 * PIPES - missed(report)


def test_combined_statistics(worker: Target, probes: str) -> None:
    options = ("--kernel-probes", probes, "--combined-only")
    report = trace(worker, options, f"open {PIPES}")
    own = [s for s in report.sites if s.functions[:1] == ("alloc_pipe_info",)]
    assert len(own) == 2
    for site in own:
        assert abs(site.total.count - PIPES) <= missed(report)
        assert site.raw["oldest_ms"] is None
        assert 0 < site.raw["requested_bytes"] <= site.total.bytes


def test_frees_by_rcu(worker: Target, probes: str) -> None:
    """epoll frees its items by kfree_rcu. Without kprobes that is not seen, and is noticed only
    when their memory is used again: the site is marked. With kprobes it is seen."""
    report = trace(worker, ("--kernel-probes", probes), "epoll 20000", "keep 50")
    sites = [s for s in report.sites if s.raw["cache"] == "eventpoll_epi"]
    if not sites:  # merged with a cache of the same size, or not reported by this kernel
        sites = [s for s in report.sites if {"ep_insert", "do_epoll_ctl"} & set(s.functions[:1])]
    assert sites
    if links.has_kprobes():
        # Those of the last batch may still be on their way.
        assert all(50 <= site.total.count <= 60 + missed(report) for site in sites)
        assert {site.raw["unconfirmed"] for site in sites} == {None}
    else:
        assert all(site.total.count >= 50 for site in sites)
        assert any("without being seen" in (site.raw["unconfirmed"] or "") for site in sites)
        assert report.losses["missed_frees"] > 0
        assert any("kfree_rcu" in note for note in report.raw["target"]["notes"])


def test_only_some_caches(worker: Target) -> None:
    report = trace(worker, ("--cache", "kmalloc-1k", "--cache", "filp"), f"open {PIPES}")
    assert {site.raw["cache"] for site in report.sites} <= {"kmalloc-1k", "filp"}
    assert abs(caches(report.sites)["filp"].count - 2 * PIPES) <= missed(report)
    assert report.raw["slab"] is None


def test_sizes(worker: Target, probes: str) -> None:
    options = ("--kernel-probes", probes, "-z", "513", "-Z", "1024")
    report = trace(worker, options, f"open {PIPES}")
    (ring,) = [s for s in report.sites if s.functions[:1] == ("alloc_pipe_info",)]
    assert ring.raw["cache"] == "kmalloc-1k"
    assert all(512 < s.total.bytes / s.total.count <= 1024 for s in report.sites)


def test_sampling(worker: Target, probes: str) -> None:
    """One allocation in ten counts as ten: an unbiased estimate."""
    pipes = 3000
    report = trace(worker, ("--kernel-probes", probes, "-s", "10"), f"open {pipes}")
    own = total(tuple(s for s in report.sites if s.functions[:1] == ("alloc_pipe_info",)))
    assert report.raw["estimate"] is True
    assert own.count % 10 == 0
    # 6,000 allocations, each taken with probability 1/10: a standard error of 232.
    assert abs(own.count - 2 * pipes) < 6 * 232
    assert report.raw["slab"] is None


def test_single_allocations(worker: Target, probes: str) -> None:
    """With their addresses, which are those of the kernel's own memory."""
    options = ("--kernel-probes", probes, "-a", "--cache", "kmalloc-1k")
    report = trace(worker, options, "open 20")
    (site,) = [s for s in report.sites if s.functions[:1] == ("alloc_pipe_info",)]
    listed = [one for one in report.raw["allocations"] if one["site"] == site.raw["id"]]
    assert len(listed) == site.total.count
    assert {one["bytes"] for one in listed} == {1024}
    addresses = {int(one["address"], 16) for one in listed}
    assert len(addresses) == len(listed)
    assert all(address >> 63 and address % 1024 == 0 for address in addresses)


def test_contexts(worker: Target) -> None:
    with tracing(*ONE_REPORT, "--context", "softirq", "--context", "irq") as tracer:
        worker.do(f"open {PIPES}")
        report = last_report(tracer.stop())
    assert "process" not in {site.raw["context"] for site in report.sites}
    assert report.sites_under("alloc_pipe_info") == ()


@pytest.mark.parametrize("option", ["", "--include-self"])
def test_own_allocations_are_left_out(option: str) -> None:
    """Only leaktrace's own process is traced, by the id that the shell and then leaktrace has."""
    command = f"exec {shlex.join(COMMAND)} -k -t -f json --task $$ {option} 1 1"
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=tracer_environment(),
        check=True,
    )
    events = [line for line in done.stdout.splitlines() if "leaktrace/event/1" in line]
    assert bool(events) == bool(option)


def test_pages(worker: Target) -> None:
    """Each page that the process touches, in a separate section."""
    report = trace(worker, ("--pages", "--task", str(worker.pid)), "touch 300")
    pages = sections(report)["pages"]
    faults = tuple(site for site in pages if "do_anonymous_page" in site.functions)
    assert total(faults).bytes >= 300 * PAGE - missed(report) * PAGE
    assert total(faults).bytes < 400 * PAGE
    assert all(site.raw["cache"] is None for site in pages)
    # Of this process only: other processes on the machine touch pages, too.
    only_worker = ("--pages", "--task", str(worker.pid))
    again = trace(worker, only_worker, "untouch", "touch 300", "untouch")
    faults = tuple(s for s in sections(again)["pages"] if "do_anonymous_page" in s.functions)
    assert total(faults).bytes <= (40 + missed(again)) * PAGE  # its own stack and libc, too


def test_percpu(worker: Target, probes: str) -> None:
    """A process has per-CPU counters of its memory: each fork allocates them."""
    options = ("--kernel-probes", probes, "--percpu")
    report = trace(worker, options, "fork 20")
    percpu = sections(report)["percpu"]
    assert any(site.total.count == 20 and "copy_process" in site.functions for site in percpu)
    gone = trace(worker, options, "reap", "fork 20", "reap")
    left = tuple(s for s in sections(gone)["percpu"] if "copy_process" in s.functions)
    assert total(left).count < 20


def test_vmalloc(worker: Target, probes: str) -> None:
    """The stack of each process in the kernel."""
    try:
        report = trace(worker, ("--kernel-probes", probes, "--vmalloc"), "fork 20")
    except AssertionError as error:
        if "no tracepoints for vmalloc" in str(error):
            pytest.skip("this kernel has no tracepoints for vmalloc")
        raise
    areas = sections(report)["vmalloc"]
    stacks = total(tuple(site for site in areas if "copy_process" in site.functions))
    # Each CPU keeps two stacks of processes that have ended, and uses them first.
    assert 4 <= stacks.count <= 20
    assert stacks.bytes >= stacks.count * 2 * PAGE


def test_events(worker: Target, probes: str) -> None:
    options = ("-t", "-f", "json", "--kernel-probes", probes, "--task", str(worker.pid))
    with tracing(*options) as tracer:
        worker.do("open 1")
        worker.do("close")
        outcome = tracer.stop()
    assert outcome.exit_code == 0, outcome.stderr
    assert '"function":"kmalloc"' in outcome.stdout
    assert "alloc_pipe_info" in outcome.stdout
    assert '"function":"kfree"' in outcome.stdout


def test_memleak_format(worker: Target) -> None:
    with tracing("-f", "memleak", "-o", "0", "--task", str(worker.pid)) as tracer:
        worker.do(f"open {PIPES}")
        outcome = tracer.stop()
    lines = outcome.stdout.splitlines()
    assert lines[0] == "Attaching to kernel allocators, Ctrl+C to quit."
    assert re.fullmatch(r"\[\d\d:\d\d:\d\d\] Top 10 stacks with outstanding allocations:", lines[1])
    assert any(re.fullmatch(r"\t\d+ bytes in \d+ allocations from stack", line) for line in lines)
    assert any(
        re.fullmatch(r"\t\t0x[0-9a-f]{16}\talloc_pipe_info\+0x[0-9a-f]+ \[kernel\]", line)
        for line in lines
    )


# --- what can't be ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-k", "-p", "1"), "--kernel and -p can't be combined"),
        (("-k", "-c", "true"), "more than one target"),
        (("-k", "--", "true"), "more than one target"),
        (("-p", "1", "--pages"), "--pages needs --kernel"),
        (("-p", "1", "--cache", "filp"), "--cache needs --kernel"),
        (("-k", "-O", "c"), "-O can't be used with --kernel"),
        (("-k", "--probe-returns"), "--probe-returns can't be used with --kernel"),
        (("-k", "--cache", "no_such_*"), "no slab cache is called no_such_*"),
    ],
)
def test_usage_errors(options: tuple[str, ...], message: str) -> None:
    outcome = run_leaktrace(*options)
    assert outcome.exit_code == 2
    assert message in outcome.stderr
    assert "hint: " in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_kprobes_where_there_are_none() -> None:
    outcome = run_leaktrace(
        "-k", "--kernel-probes", "kprobe", "1", "1", env={"LEAKTRACE_WITHOUT": "kprobes"}
    )
    assert outcome.exit_code == 3
    assert names(outcome.stderr, "kprobes", "tracepoints")


def test_no_such_task() -> None:
    outcome = run_leaktrace("-k", "--task", "4194305", "1", "1")
    assert outcome.exit_code == 4
    assert names(outcome.stderr, 4194305)


def test_neither_tracepoints_nor_kprobes() -> None:
    outcome = run_leaktrace("-k", "1", "1", env={"LEAKTRACE_WITHOUT": "kprobes,tracepoints"})
    assert outcome.exit_code == 3
    assert names(outcome.stderr, "tracepoints", "slab")


def test_maps_that_are_too_large() -> None:
    outcome = run_leaktrace("-k", "--max-allocs", "2000000000", "1", "1")
    assert outcome.exit_code == 1
    assert names(outcome.stderr, "map", "allocations", "--max-allocs")
