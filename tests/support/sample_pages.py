"""Reports for the HTML pages, made by a rule: many sites with deep stacks, and their course."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

from sample_reports import BUSY, NO_LOSSES, S, frame

from leaktrace.memory import Explained, MemoryKinds, ResidentMemory
from leaktrace.model import Report
from leaktrace.site import Frame, Site, Stack, StackEnd, Total
from leaktrace.verdict import Verdict, VerdictKind

_PARTS = (
    ("httpd", "/usr/sbin/httpd", ("accept_connection", "read_request", "route", "reply", "log")),
    ("cache", "/usr/sbin/httpd", ("lookup", "insert", "evict", "copy_entry", "serialize")),
    ("parser", "/opt/app/lib/libparse.so.1", ("parse_header", "parse_body", "next_token")),
    ("db", "/usr/lib/x86_64-linux-gnu/libpq.so.5.15", ("PQexec", "PQgetResult", "getRow")),
    ("ssl", "/usr/lib/x86_64-linux-gnu/libssl.so.3", ("SSL_read", "tls_get_message", "ssl3_setup")),
    ("json", "/opt/app/lib/libjson.so.2", ("json::Value::parse", "json::Array::push_back")),
)
_SEED = 7


def frames_of_program(number: int) -> list[Frame]:
    """The first `number` functions of a program with sources."""
    made = []
    for at in range(number):
        part, module, functions = _PARTS[at % len(_PARTS)]
        name = functions[(at // len(_PARTS)) % len(functions)]
        suffix = at // (len(_PARTS) * 5)
        function = f"{name}_{suffix}" if suffix else name
        source = f"src/{part}/{part}_{suffix}.c:{20 + at % 400}"
        made.append(frame(0x400000 + 64 * at, function, 0x10 + at % 99, module, source))
    return made


def many_sites(number: int, depth: int) -> list[Site]:
    """Sites with stacks of `depth` frames that share callers, as those of a program do."""
    chance = random.Random(_SEED)
    program = frames_of_program(max(60, number // 4))
    start = frame(0x3F0000, "_start", 0x21, "/usr/sbin/httpd")
    main = frame(0x3F1000, "main", 0x44, "/usr/sbin/httpd", "src/main.c:31")
    sites: list[Site] = []
    path: list[Frame] = []
    for at in range(number):
        keep = chance.randrange(len(path) + 1) if path else 0
        path = path[: max(keep, 2)] or [start, main]
        while len(path) < depth:
            path.append(program[min(int(chance.expovariate(8 / len(program))), len(program) - 1)])
        count = 1 + int(chance.paretovariate(1.3))
        size = count * chance.choice((24, 48, 96, 512, 4096))
        sites.append(
            Site(
                f"{at + 1:016x}",
                Stack(tuple(reversed(path)), StackEnd.COMPLETE),
                size,
                count,
                oldest_ns=(1 + at % 300) * S,
                newest_ns=S,
                growth_bytes=0,
                allocated_bytes=size * 3,
                allocated_count=count * 3,
                freed_bytes=size * 2,
                freed_count=count * 2,
                verdict=Verdict(VerdictKind.STEADY, "what it holds does not keep growing"),
            )
        )
    return sites


def course(number_of_reports: int, sites: list[Site], growing: int = 3) -> Iterator[Report]:
    """Reports in which the first sites grow evenly and the others stay as they are."""
    for number in range(1, number_of_reports + 1):
        now = [_grown(site, number) if at < growing else site for at, site in enumerate(sites)]
        held = sum(site.bytes for site in now)
        first = sum(site.bytes for site in sites)
        now.sort(key=lambda site: -site.bytes)
        yield replace(
            BUSY,
            time=BUSY.time + timedelta(seconds=5 * number),
            elapsed_s=5.0 * number,
            number=number,
            final=number == number_of_reports,
            outstanding=Total(held, sum(site.count for site in now)),
            younger=Total(),
            site_count=len(now),
            sites=tuple(now),
            top=len(now),
            growth_bytes=3 * 65_536,
            resident=ResidentMemory(
                (200 << 20) + held,
                3 * 65_536,
                MemoryKinds((180 << 20) + held, 20 << 20),
                MemoryKinds(held + (2 << 20), 1 << 20),
            ),
            explained=Explained(
                resident_growth=held + (3 << 20),
                outstanding=held,
                outstanding_held=held,
                other_memory=0,
                unexplained=3 << 20,
                allocator_at_most=2 << 20,
                since_attach=MemoryKinds(held + (2 << 20), 1 << 20),
                not_resident=0,
                new_threads=0,
            ),
            losses=NO_LOSSES,
            allocations=None,
            verdict=Verdict(
                VerdictKind.GROWING,
                f"{growing} sites grow",
                bytes_per_s=growing * 13_107.2,
                error_bytes_per_s=120.5,
                since_s=5.0 * number if first else None,
            ),
        )


def _grown(site: Site, number: int) -> Site:
    more = 64 * number
    return replace(
        site,
        bytes=site.bytes + more * 1024,
        count=site.count + more,
        growth_bytes=65_536,
        allocated_bytes=site.allocated_bytes + more * 1024,
        allocated_count=site.allocated_count + more,
        verdict=Verdict(
            VerdictKind.GROWING,
            f"{more:,} blocks came in {5 * number}.0s and stayed; none was freed",
            bytes_per_s=13_107.2,
            error_bytes_per_s=70.0,
            since_s=5.0 * number,
        ),
    )
