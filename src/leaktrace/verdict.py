"""What a report concludes from its figures: whether a site leaks, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class VerdictKind(StrEnum):
    """What a site, or all of them, have done while they were watched."""

    LEAK = "leak"  # nothing points to blocks of it any more (--lost)
    GROWING = "growing"  # what it allocates stays, and more comes
    OVERDUE = "overdue"  # few blocks, much older than nearly all that were ever freed
    FILLING = "filling"  # grows, but ever slower, or what it allocated is freed after a while
    STEADY = "steady"  # holds memory that does not grow
    STARTUP = "startup"  # all it holds is from the first moments
    CHURN = "churn"  # allocates and frees much, and keeps next to nothing
    TOO_EARLY = "too_early"  # not known yet


# What may be a leak.
SUSPICIOUS = (
    VerdictKind.LEAK,
    VerdictKind.GROWING,
    VerdictKind.OVERDUE,
    VerdictKind.FILLING,
)
# What is one, as far as can be known.
LEAKING = (VerdictKind.LEAK, VerdictKind.GROWING)


@dataclass(frozen=True)
class Verdict:
    """One verdict and what it rests on.

    The rate is known if `kind` is GROWING, and may be for LEAK, FILLING and OVERDUE. TOO_EARLY has
    one if the site grows, but slowly, and may still be filling. For objects without sizes (file
    descriptors), its bytes are counts, as in the other figures of a site.
    """

    kind: VerdictKind
    reason: str = ""  # one sentence with the evidence
    bytes_per_s: float | None = None  # how fast what is outstanding grows
    error_bytes_per_s: float | None = None  # standard error of that
    since_s: float | None = None  # for how long it has grown, in seconds before the report
    needs_s: float | None = None  # TOO_EARLY: about how much longer it takes to know
    lost_bytes: int | None = None  # LEAK: what nothing points to, and what only that leads to
    lost_count: int | None = None

    @property
    def is_suspicious(self) -> bool:
        """Whether it may be a leak."""
        return self.kind in SUSPICIOUS or self.may_grow

    @property
    def grows(self) -> bool:
        """Whether it grows, as far as is known."""
        return self.kind is VerdictKind.GROWING or self.may_grow

    @property
    def may_grow(self) -> bool:
        """Whether it grows, but has not been watched for long enough."""
        return self.kind is VerdictKind.TOO_EARLY and self.bytes_per_s is not None


@dataclass(frozen=True)
class Lifetimes:
    """How long blocks of a site lived that were freed: a histogram by powers of two.

    `counts[k]` blocks lived from 2**(k - 1) up to 2**k ns; `counts[0]`: less than 1 ns.
    """

    counts: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """How many blocks it covers."""
        return sum(self.counts)

    def within_ns(self, share: float) -> int:
        """The upper bound, a power of two, of the lifetimes of this share of the blocks (0 to 1).
        0 if none was freed."""
        needed, covered = share * self.total, 0
        for power, count in enumerate(self.counts):
            covered += count
            if count and covered >= needed:
                return 1 << power
        return 0
