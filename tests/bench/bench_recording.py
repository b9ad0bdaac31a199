"""How large a recording gets, and what writing and reading it costs.

A day of a server with 5,000 sites, at a report a minute. Of these, one in seven is used while it
serves: some all the time, most now and then (Zipf's law). The others are from its start, and are
used once an hour; with --busy all are used all the time. Every site has a stack of its own of 8 to
40 frames that it shares in part with others, as in a large program. With --new-stacks, so many
sites of each report have another stack than before, with functions that were never seen, as in a
program that loads its plugins again and again. Nothing is traced.

With --commands, what `leaktrace show` and `leaktrace diff` take is measured, too, of a recording of
--mib MiB and of its first tenth: memory must be the same for both.
"""

from __future__ import annotations

import argparse
import gc
import io
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from harness.peak_memory import measured

from leaktrace.model import Loss, Report, TargetInfo
from leaktrace.recording.reader import read_recording
from leaktrace.recording.streams import LineFile, read_lines
from leaktrace.recording.writer import RecordingWriter, RunInfo
from leaktrace.site import Frame, Site, SourceLine, Stack, StackEnd, Total
from leaktrace.verdict import Lifetimes, Verdict, VerdictKind

CALLS_PER_S = 20_000.0
NS = 1_000_000_000


@dataclass
class Load:
    """The state of all sites, which moves on by an interval at a time."""

    count: int
    interval_s: float
    is_busy: bool = False
    new_stacks: int = 0  # of each report

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(7)
        self.made_stacks = 0
        ranks = self.random.permutation(self.count) + 1
        weights = 1.0 / ranks**1.5
        self.rates = CALLS_PER_S * weights / weights.sum()  # calls per second
        if not self.is_busy:
            serves = self.random.random(self.count) < 1 / 7
            self.rates = np.where(serves, self.rates, 1 / 3600)
        self.sizes = 2 ** self.random.integers(4, 14, self.count)
        self.kept = np.where(self.random.random(self.count) < 0.02, 0.05, 0.0)  # what leaks
        self.stacks = list(_stacks(self.count, self.random))
        self.ids = [f"{number:016x}" for number in self.random.integers(1, 1 << 62, self.count)]
        self.held = self.random.integers(1, 200, self.count)
        self.allocated = self.held.copy()
        self.oldest_ns = self.random.integers(0, NS, self.count)
        self.newest_ns = self.oldest_ns.copy()
        self.lasts = self.random.integers(12, 34, self.count)
        self.lived = np.zeros((self.count, 40), dtype=np.int64)

    def sites(self, elapsed_s: float) -> tuple[Site, ...]:
        """The sites after another interval."""
        for row in self.random.choice(self.count, self.new_stacks, replace=False).tolist():
            self._renew(row)
        calls = self.random.poisson(self.rates * self.interval_s)
        kept = self.random.binomial(calls, self.kept)
        change = self.random.integers(-3, 4, self.count) * (calls > 50)
        before = self.held.copy()
        self.held = np.maximum(self.held + kept + change, 1)
        self.allocated += calls
        self.allocated = np.maximum(self.allocated, self.held)
        now_ns = round(elapsed_s * NS)
        is_used = calls > 0
        latest = now_ns - self.random.exponential(NS / np.maximum(self.rates, 1e-9)) % (60 * NS)
        self.newest_ns = np.where(is_used, latest.astype(np.int64), self.newest_ns)
        for site in np.nonzero(is_used)[0].tolist():
            # Most of what a site allocates lives about equally long.
            count = min(int(calls[site]), 50)
            powers = np.rint(self.random.normal(self.lasts[site], 1.2, count)).astype(int)
            np.add.at(self.lived[site], powers.clip(1, 39), max(int(calls[site]) // count, 1))
        order = np.argsort(-(self.held * self.sizes), kind="stable")
        return tuple(self._site(row, before, now_ns, elapsed_s) for row in order.tolist())

    def _renew(self, row: int) -> None:
        """Give a site another stack, of new functions."""
        frames = []
        for frame in self.stacks[row].frames:
            self.made_stacks += 1
            at = 0x7F00_0000_0000 + 0x40 * self.made_stacks
            module = f"/usr/lib/server/plugins/plugin-{row}.so"
            name = f"plugin_{row}_{self.made_stacks}"
            frames.append(replace(frame, address=at, function=name, module=module))
        self.stacks[row] = Stack(tuple(frames), StackEnd.COMPLETE)
        self.ids[row] = f"{self.made_stacks:016x}"

    def _site(self, row: int, before: np.ndarray, now_ns: int, elapsed_s: float) -> Site:
        size, held, allocated = (int(a[row]) for a in (self.sizes, self.held, self.allocated))
        verdict = Verdict(VerdictKind.STEADY, "no growth was seen")
        if self.kept[row]:
            rate = float(self.rates[row] * size * self.kept[row])
            said = f"{held:,} blocks came in {elapsed_s:.0f}s and stayed; none was freed"
            verdict = Verdict(VerdictKind.GROWING, said, rate, rate / 20, elapsed_s)
        return Site(
            self.ids[row],
            self.stacks[row],
            held * size,
            held,
            oldest_ns=now_ns - int(self.oldest_ns[row]),
            newest_ns=now_ns - int(self.newest_ns[row]),
            growth_bytes=(held - int(before[row])) * size,
            allocated_bytes=allocated * size,
            allocated_count=allocated,
            freed_bytes=(allocated - held) * size,
            freed_count=allocated - held,
            verdict=verdict,
            sizes=(*(0,) * size.bit_length(), held),
            lifetimes=Lifetimes(tuple(self.lived[row].tolist())),
        )


def _stacks(count: int, random: np.random.Generator) -> Iterator[Stack]:
    names = [f"{a}_{b}_{c}" for a in _WORDS for b in _WORDS for c in _WORDS]
    frames = [
        Frame(
            0x55D0C0DE0000 + 0x40 * number,
            name,
            int(random.integers(4, 400)),
            "/usr/sbin/server" if number % 4 else "/usr/lib/x86_64-linux-gnu/libserver.so.3",
            0x10000 + 0x40 * number,
            f"{number % 4:040x}",
            SourceLine(f"/build/server-4.2/src/{name.split('_')[0]}/{name}.c", number % 900 + 1),
        )
        for number, name in enumerate(names)
    ]
    trunks = [random.choice(len(frames), 30) for _ in range(60)]
    for _ in range(count):
        own = random.choice(len(frames), int(random.integers(4, 12)))
        trunk = trunks[int(random.integers(len(trunks)))][int(random.integers(0, 26)) :]
        yield Stack(tuple(frames[n] for n in [*own, *trunk]), StackEnd.COMPLETE)


_WORDS = [
    "parse",
    "read",
    "cache",
    "table",
    "open",
    "hash",
    "insert",
    "copy",
    "buffer",
    "request",
    "session",
    "render",
]


def reports(load: Load, count: int) -> Iterator[Report]:
    """The reports of a run."""
    start, last = datetime(2026, 3, 1, tzinfo=UTC), 0
    losses = tuple(Loss(name, 0, "") for name in ("allocations", "stacks", "sites", "threads"))
    for number in range(1, count + 1):
        elapsed_s = number * load.interval_s
        sites = load.sites(elapsed_s)
        held = sum(site.bytes for site in sites)
        yield Report(
            time=start + timedelta(seconds=elapsed_s),
            elapsed_s=elapsed_s,
            number=number,
            final=number == count,
            reason="",
            target=TargetInfo(4242, "server", allocators=("libc.so.6: 15 functions",)),
            outstanding=Total(held, sum(site.count for site in sites)),
            younger=Total(),
            older_ms=500,
            site_count=len(sites),
            sites=sites,
            top=10,
            sort="growth",
            growth_bytes=held - last,
            losses=losses,
        )
        last = held


def peak_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_commands(path: Path, count: int) -> None:
    """Print what commands take that read a recording of so many reports, and its first tenth."""
    short = path.with_name(f"short{path.suffix}")
    part = LineFile(io.FileIO(short, "w"), short)
    left = count // 10
    for line in read_lines(path):
        part.write(line + b"\n")
        left -= line.startswith(b'{"schema":"leaktrace/changes/')
        if left <= 0:
            break
    part.close()
    for words in (("show", "{}"), ("show", "{}", "--at", "peak"), ("diff", "{}@first", "{}@last")):
        said = []
        for file in (short, path):
            command = [sys.executable, "-m", "leaktrace", *(word.format(file) for word in words)]
            took = measured(command, deadline_s=3600)
            assert took.exit_code == 0, took.stderr
            size_mib, peak = file.stat().st_size / (1 << 20), took.peak_kib >> 10
            said.append(f"{size_mib:,.0f} MiB: {took.cpu_s:.1f} s of CPU, {peak} MiB of memory")
        print(f"{' '.join(words).replace('{}', 'RUN')}: {'; '.join(said)}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--reports", type=int, default=1440)
    parser.add_argument("--sites", type=int, default=5000)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--new-stacks", type=int, default=0)
    parser.add_argument("--mib", type=int, help="end when the file has this size")
    parser.add_argument("--commands", action="store_true", help="measure show and diff")
    parser.add_argument("--suffix", nargs="*", default=[".gz", ".zst", ""])
    parser.add_argument("--keep", type=Path, help="keep the files in this folder")
    asked = parser.parse_args()
    load = Load(asked.sites, 60.0, asked.busy, asked.new_stacks)
    with tempfile.TemporaryDirectory() as made:
        folder = asked.keep or Path(made)
        info = RunInfo("bench", datetime.now(UTC), {}, {}, {})
        files = {}
        for suffix in asked.suffix:
            path = folder / f"run{suffix}"
            file = LineFile(io.FileIO(path, "w"), path)
            files[suffix] = (path, file, RecordingWriter(file, info))
        took = dict.fromkeys(files, 0.0)
        written = 0
        for report in reports(load, asked.reports):
            for suffix, (_, _, writer) in files.items():
                begin = time.process_time()
                writer.report(report)
                took[suffix] += time.process_time() - begin
            del report
            written += 1
            size_mib = min(file.size_bytes for _, file, _ in files.values()) >> 20
            if asked.mib is not None and size_mib >= asked.mib:
                break
        used = round(float((1 - np.exp(-load.rates * load.interval_s)).sum()))
        print(f"{written} reports, {asked.sites} sites, about {used} used in each")
        for suffix, (path, file, writer) in files.items():
            writer.end()
            file.close()
            mib = path.stat().st_size / (1 << 20)
            each = took[suffix] / written * 1000
            print(f"{suffix or 'plain':>6}: {mib:8.1f} MiB, {each:6.1f} ms of CPU per report")
        load.stacks.clear()
        del load, files
        gc.collect()
        for suffix in asked.suffix:
            if asked.commands:
                measure_commands(folder / f"run{suffix}", written)
                continue
            begin, last = time.process_time(), None
            for moment in read_recording(folder / f"run{suffix}").moments():
                last = moment
            assert last is not None and len(last.report().sites) == asked.sites
            seconds = time.process_time() - begin
            print(f"{suffix or 'plain':>6}: the last report is read in {seconds:.1f} s of CPU")
    print(f"memory of all this: at most {peak_mib():.0f} MiB")


if __name__ == "__main__":
    main()
