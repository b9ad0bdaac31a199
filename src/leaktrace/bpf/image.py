"""A compiled program that is not loaded yet: its maps as they are to be made, and instructions.

It doesn't depend on the process that is going to be traced, nor on how much room the maps are
given: so it can be kept, and used again by the next run with the same options.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from leaktrace.bpf.syscalls import MapDefinition

# Of instructions (struct bpf_insn) that refer to a map.
LOAD_64_BITS = 0x18  # the operation
PSEUDO_MAP_FD = 1  # as the source register: the value is a map's descriptor


@dataclass(frozen=True)
class Image:
    """Maps, and programs by name as instructions that refer to a map by its place in `maps`."""

    maps: tuple[MapDefinition, ...]
    programs: Mapping[str, bytes]

    def to_json(self) -> bytes:
        """As `from_json` reads it."""
        programs = {name: code.hex() for name, code in self.programs.items()}
        maps = [asdict(one) for one in self.maps]
        return json.dumps({"maps": maps, "programs": programs}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Image:
        """Raises ValueError when it isn't one."""
        try:
            read: dict[str, Any] = json.loads(text)
            maps = tuple(MapDefinition(**one) for one in read["maps"])
            programs = {name: bytes.fromhex(code) for name, code in read["programs"].items()}
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a compiled program: {error!r}") from None
        return cls(maps, programs)
