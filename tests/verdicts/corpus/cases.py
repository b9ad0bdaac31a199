"""The cases, and the truth about each. What a case does is in tests/verdicts/programs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"


@dataclass(frozen=True)
class Case:
    """One case. A site is known by a function on its stack.

    Sites of `leaks` must be growing (or overdue) once they have leaked something, and as long as
    they do. No other site may be, ever; or if `settles`, once the program says that it has
    settled.
    """

    name: str
    leaks: tuple[str, ...] = ()
    settles: bool = False
    stops: bool = False
    """The leak ends. Once the program says that it has settled, its site must not be growing."""
    neither: tuple[str, ...] = ()
    """Functions of sites that grow with the leak in a way that nothing is expected of."""
    limit: str = ""
    """Why the truth can't be known from what is traced. Shown, and not counted."""
    warm_ticks: int = 0
    """The program works for so long before it is traced."""
    options: tuple[str, ...] = ()
    """Further options of leaktrace."""

    @property
    def is_leak(self) -> bool:
        return bool(self.leaks)

    @property
    def program(self) -> str:
        """What the case is called by its program."""
        return self.name.removesuffix("_attached_late")


def _leak(name: str, *functions: str, neither: tuple[str, ...] = (), options: str = "") -> Case:
    return Case(name, functions or ("leak_here",), neither=neither, options=tuple(options.split()))


def _settles(*names: str) -> list[Case]:
    return [Case(name, settles=True) for name in names]


def _steady(*names: str) -> list[Case]:
    return [Case(name) for name in names]


CASES: tuple[Case, ...] = (
    _leak("leak_fast"),
    _leak("leak_slow"),
    _leak("leak_very_slow"),
    _leak("leak_bursts"),
    _leak("leak_after_warmup"),
    _leak("leak_per_error"),
    _leak("leak_growing_size"),
    _leak("leak_varying_load"),
    _leak("leak_accelerating"),
    Case("leak_stops", ("leak_here",), stops=True, settles=True),
    _leak("leak_after_large_startup"),
    _leak("leak_large_and_rare"),
    _leak("leak_one_percent"),
    _leak("leak_one_permille"),
    _leak("leak_among_long_lived"),
    _leak("leak_two", "leak_here", "leak_there"),
    _leak("leak_under_churn"),
    _leak("leak_per_connection"),
    _leak("leak_per_thread"),
    _leak("leak_threads_not_joined", "start_and_forget"),
    _leak("leak_buffer_grows", "grow_here"),
    _leak("leak_after_realloc", "grow_here"),
    _leak("leak_mappings", "map_here"),
    _leak("leak_in_late_library", "leak_in_library"),
    _leak("leak_in_child", options="--follow"),
    _leak("leak_by_one_caller", "forgetful_caller"),
    _leak("leak_list", "remember_here"),
    _leak("leak_reference_cycles", "node_here"),
    _leak("leak_sessions_without_timeout"),
    _leak("leak_aligned", "aligned_here"),
    _leak("leak_descriptors", "open_here", options="--fds"),
    _leak("leak_map", "insert_here"),
    # The vector doubles: see leak_vector_doubles.
    _leak("leak_vector_of_texts", "make_unique", neither=("_M_realloc_insert",)),
    Case(
        "leak_vector_doubles",
        ("append_number_here",),
        limit="it grows in ever rarer steps, like a table that is about to be large enough",
    ),
    *_steady("steady_churn", "idle", "double_buffering", "reloads_configuration"),
    *_steady("requests_overlap", "load_like_a_day", "one_block_kept", "thread_churn"),
    *_settles("startup", "long_startup", "lazy_initialization", "thread_caches", "one_block_late"),
    *_settles("cache_of_random_keys", "cache_fills_evenly", "cache_lru", "cache_lru_long"),
    *_settles("cache_random_replacement", "pool", "pool_grows_at_records", "free_list"),
    *_settles("lifo_stack", "hash_table_doubles", "string_interning", "log_ring", "time_window"),
    *_settles("sawtooth", "sawtooth_long", "collected_at_irregular_times", "generations"),
    *_settles("queue_under_varying_load", "connections", "connections_of_two_kinds"),
    *_settles("sessions_with_timeout", "shared_objects", "slow_replacement", "load_doubles"),
    *_settles("connections_heavy_tail", "load_like_a_day_long_lived"),
    *_settles("allocator_keeps_memory", "vector_cleared", "text_cleared", "map_bounded"),
    Case("steady_descriptors", settles=True, options=("--fds",)),
    # At its bound long before it is traced: what is evicted at first is older than the trace.
    Case("cache_lru_attached_late", warm_ticks=1000),
    Case("cache_lru_long_attached_late", warm_ticks=2000),
    Case("cache_lru_longer_than_trace_attached_late", warm_ticks=12000),
    Case("cache_random_replacement_attached_late", warm_ticks=2000),
    Case("sawtooth_long_attached_late", warm_ticks=1000),
    Case("connections_attached_late", warm_ticks=2000),
    Case("connections_heavy_tail_attached_late", warm_ticks=2000),
    Case("generations_attached_late", warm_ticks=1000),
    Case("slow_replacement_attached_late", warm_ticks=1000),
    Case("time_window_attached_late", warm_ticks=2000),
    Case("shared_objects_attached_late", warm_ticks=2000),
    Case("leak_fast_attached_late", ("leak_here",), warm_ticks=1000),
    Case("leak_sessions_without_timeout_attached_late", ("leak_here",), warm_ticks=2000),
)


@cache
def descriptions() -> dict[str, str]:
    """What each case does: the comment above it."""
    found = {}
    for source in sorted(PROGRAMS.glob("*.c*")):
        for comment, name in re.findall(
            r"/\*((?:(?!\*/).)*)\*/\s*CASE\((\w+)\)", source.read_text(encoding="utf-8"), re.S
        ):
            found[name] = re.sub(r"\s*\n \* *|\s+", " ", comment).strip()
    return found


@cache
def programs() -> tuple[str, ...]:
    """The names of all cases that are in the sources."""
    return tuple(
        name
        for source in sorted(PROGRAMS.glob("*.c*"))
        for name in re.findall(r"^CASE\((\w+)\)", source.read_text(encoding="utf-8"), re.M)
    )
