"""Children that should be followed and are not traced."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass
class Untraced:
    """Children that are not traced, and why."""

    too_many: int = 0  # there was no free slot
    ended: int = 0  # before it could be attached
    refused: dict[str, int] = field(default_factory=dict)  # by what the kernel or leaktrace said

    def __bool__(self) -> bool:
        return bool(self.too_many or self.ended or self.refused)

    def refuse(self, message: str, pid: int) -> None:
        """A child was refused with this message, which may name it."""
        text = re.sub(rf"\bprocess {pid}\b", "the process", message)
        self.refused[text] = self.refused.get(text, 0) + 1
