"""What a Go program allocates, sampled from refills, against its own account."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.goroutines import BUILDS, await_file, go_refills, started

from leaktrace.go_report import RefillLook
from leaktrace.process.go_refills import Refills
from leaktrace.runtimes.go.heap import Heap
from leaktrace.runtimes.go.program import GoProgram, open_go_program

__all__ = ["go_refills"]
pytestmark = pytest.mark.usefixtures("require_bpf")

Builder = Callable[[str], Path]


@dataclass(frozen=True)
class Burst:
    """A program that allocates when it is asked, and says how much."""

    pid: int
    program: GoProgram
    truth: Path

    def ask(self, how: signal.Signals = signal.SIGUSR1) -> dict[str, int]:
        """What it says that it has allocated: "conf", "task" and "total"."""
        self.truth.unlink(missing_ok=True)
        os.kill(self.pid, how)
        told: dict[str, int] = json.loads(await_file(self.truth))
        return told

    def sampled(self, **limits: int) -> Refills:
        return Refills(self.program, Heap(self.program).variables, **limits)

    def bytes_of(self, look: RefillLook, function: str) -> int:
        return sum(
            seen.allocated_bytes
            for key, seen in look.sites.items()
            if function in self.functions(key.stack)
        )

    def functions(self, stack: tuple[int, ...]) -> list[str]:
        return [line.function for address in stack for line in self.program.lines(address)]


@contextmanager
def bursting(program: Path, mode: str, tmp_path: Path, **env: str) -> Iterator[Burst]:
    truth = tmp_path / "truth"
    with started(program, mode, str(truth), env=env) as pid:
        yield Burst(pid, open_go_program(pid), truth)


def total(look: RefillLook) -> int:
    return sum(seen.allocated_bytes for seen in look.sites.values())


@pytest.mark.parametrize("mode", ["small", "turns", "large"])
@pytest.mark.parametrize("kind", BUILDS)
def test_total_and_shares_are_as_the_program_says(
    kind: str, mode: str, go_refills: Builder, tmp_path: Path
) -> None:
    with (
        bursting(go_refills(kind), mode, tmp_path) as burst,
        closing(burst.sampled(stacks_per_second=1_000_000)) as refills,
    ):
        told = burst.ask()
        look = refills.look()
        conf, task = (burst.bytes_of(look, name) for name in ("main.conf", "main.task"))
    assert (look.thinned_count, look.unknown_count, look.lost_count) == (0, 0, 0)
    assert look.runtime_bytes == pytest.approx(told["total"], rel=0.005)
    assert total(look) == pytest.approx(told["total"], rel=0.02)
    assert total(look) == pytest.approx(look.runtime_bytes, rel=0.02)
    truly = told["conf"] / (told["conf"] + told["task"])
    assert truly == pytest.approx(1 / 3, abs=0.01)
    assert conf / (conf + task) == pytest.approx(truly, abs=0.02)
    assert (conf + task) / total(look) > 0.98
    # A collection that begins in one of them allocates a little itself, of other sizes.
    usual = {"small": 1024, "turns": 96, "large": 0}[mode]
    found = 0
    for key, seen in look.sites.items():
        names = burst.functions(key.stack)
        if "main.conf" in names and key.object_bytes == usual:
            assert names[0] == "main.conf"
            assert names[-2:] == ["runtime.main", "runtime.goexit"]
            assert key.is_complete
            objects_bytes = seen.allocated_count * (usual or 64 << 10)
            assert seen.allocated_bytes == objects_bytes
            found += seen.allocated_bytes
    assert found > 0.98 * conf


@pytest.mark.parametrize("kind", BUILDS)
def test_goroutines_on_all_processors(kind: str, go_refills: Builder, tmp_path: Path) -> None:
    with (
        bursting(go_refills(kind), "workers", tmp_path) as burst,
        closing(burst.sampled(stacks_per_second=1_000_000)) as refills,
    ):
        told = burst.ask()
        look = refills.look()
        conf, task = (burst.bytes_of(look, name) for name in ("main.conf", "main.task"))
    assert total(look) == pytest.approx(told["total"], rel=0.03)
    truly = told["conf"] / (told["conf"] + told["task"])
    assert conf / (conf + task) == pytest.approx(truly, abs=0.02)


@pytest.mark.parametrize("kind", BUILDS)
def test_stacks_that_grow_under_a_busy_collector(
    kind: str, go_refills: Builder, tmp_path: Path
) -> None:
    """The probe is where a function finds that its stack is too small."""
    with (
        bursting(go_refills(kind), "deep", tmp_path, GOGC="1") as burst,
        closing(burst.sampled(stacks_per_second=1_000_000)) as refills,
    ):
        for _ in range(5):
            before = total(refills.look())
            told = burst.ask(signal.SIGUSR2)
            look = refills.look()
            # What is in use of a span at a collection has no sample. Nothing is counted twice.
            assert 0.8 < (total(look) - before) / told["total"] < 1.01
        assert look.unknown_count == 0
        deep = [key for key in look.sites if burst.functions(key.stack).count("main.deeper") > 30]
        assert any(not key.is_complete for key in deep)
        for key in look.sites:
            assert key.is_complete == (burst.functions(key.stack)[-1:] == ["runtime.goexit"])


def test_above_the_limit_others_stand_for_what_is_left_out(
    go_refills: Builder, tmp_path: Path
) -> None:
    with (
        bursting(go_refills("debian"), "small", tmp_path) as burst,
        closing(burst.sampled(stacks_per_second=200)) as refills,
    ):
        told = burst.ask(signal.SIGUSR2)
        look = refills.look()
    seen = sum(one.seen_count for one in look.sites.values())
    assert look.thinned_count > 5000
    assert seen < 1500
    # 65 MiB by about 500 samples of 16 spans each: a standard error of 4 %.
    assert total(look) == pytest.approx(told["total"], rel=0.25)


def test_stacks_without_room_are_counted(go_refills: Builder, tmp_path: Path) -> None:
    with (
        bursting(go_refills("debian"), "deep", tmp_path) as burst,
        closing(burst.sampled(stacks_per_second=1_000_000, capacity=4)) as refills,
    ):
        told = burst.ask()
        look = refills.look()
    assert look.lost_count > 0
    assert len(look.sites) <= 4
    assert total(look) + look.lost_bytes == pytest.approx(told["total"], rel=0.03)


@pytest.mark.parametrize("without", ["uprobe_multi", "map_batches"])
def test_older_kernels(
    without: str, go_refills: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leaktrace.bpf import links

    monkeypatch.setenv("LEAKTRACE_WITHOUT", without)
    links.has_uprobe_multi.cache_clear()
    try:
        with (
            bursting(go_refills("debian"), "large", tmp_path) as burst,
            closing(burst.sampled(stacks_per_second=1_000_000)) as refills,
        ):
            told = burst.ask()
            look = refills.look()
    finally:
        links.has_uprobe_multi.cache_clear()
    assert total(look) == pytest.approx(told["total"], rel=0.01)
