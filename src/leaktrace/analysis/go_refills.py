"""Makes rates of the refills of a Go program's allocator: where it allocates how much."""

from __future__ import annotations

from collections.abc import Callable

from leaktrace.go_report import (
    GoLine,
    RefillKey,
    RefillLook,
    RefillSection,
    RefillSite,
    SeenRefills,
)

# The functions of a stack of return addresses.
Lines = Callable[[tuple[int, ...]], tuple[GoLine, ...]]

_Stack = tuple[tuple[int, ...], bool]  # and whether it is complete


class RefillHistory:
    """The last two looks. `lines` names the functions of a stack."""

    def __init__(self, top: int, lines: Lines) -> None:
        self._top, self._lines = top, lines
        self._before: RefillLook | None = None
        self._last: RefillLook | None = None

    def add(self, look: RefillLook) -> None:
        """Take in a look."""
        self._before, self._last = self._last, look

    def section(self) -> RefillSection | None:
        """What there is to say about the last look; None before the first one."""
        look = self._last
        if look is None:
            return None
        before = {} if self._before is None else _by_stack(self._before)
        sites = sorted(
            _by_stack(look).items(), key=lambda one: (-_bytes(one[1]), one[0])
        )  # addresses make the order the same in each report
        total = sum(_bytes(sizes) for _, sizes in sites)
        return RefillSection(
            look=look,
            allocated_bytes=total,
            bytes_per_s=_per_s(total, look.elapsed_s),
            sites=tuple(
                self._site(stack, sizes, before.get(stack, {}))
                for stack, sizes in sites[: self._top]
            ),
            site_count=len(sites),
        )

    def _site(
        self, stack: _Stack, sizes: dict[int, SeenRefills], before: dict[int, SeenRefills]
    ) -> RefillSite:
        assert self._last is not None  # callers have looked
        addresses, is_complete = stack
        recent = None
        if self._before is not None:
            elapsed_s = self._last.elapsed_s - self._before.elapsed_s
            recent = _per_s(_bytes(sizes) - _bytes(before), elapsed_s)
        return RefillSite(
            now=SeenRefills(
                sum(one.seen_count for one in sizes.values()),
                sum(one.allocated_count for one in sizes.values()),
                _bytes(sizes),
            ),
            bytes_per_s=_per_s(_bytes(sizes), self._last.elapsed_s),
            recent_bytes_per_s=recent,
            object_bytes=next(iter(sizes)) if len(sizes) == 1 else None,
            is_complete=is_complete,
            frames=self._lines(addresses),
        )


def _by_stack(look: RefillLook) -> dict[_Stack, dict[int, SeenRefills]]:
    found: dict[_Stack, dict[int, SeenRefills]] = {}
    for key, seen in look.sites.items():
        found.setdefault(_stack(key), {})[key.object_bytes] = seen
    return found


def _stack(key: RefillKey) -> _Stack:
    return key.stack, key.is_complete


def _bytes(sizes: dict[int, SeenRefills]) -> int:
    return sum(one.allocated_bytes for one in sizes.values())


def _per_s(amount: int, elapsed_s: float) -> float:
    return amount / elapsed_s if elapsed_s > 0 else 0.0
