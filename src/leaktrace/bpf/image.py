"""A compiled program that is not loaded yet: definitions of its maps, and instructions.

It depends neither on the traced process nor on the capacities of the maps. So it can be cached and
used by the next run with the same options.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from leaktrace.bpf.syscalls import MapDefinition

# Instructions (struct bpf_insn) that refer to a map.
LOAD_64_BITS = 0x18  # the operation code
PSEUDO_MAP_FD = 1  # in the source register: the immediate value is a map's descriptor


@dataclass(frozen=True)
class Image:
    """Maps, and programs by name: instructions that refer to a map by its index in `maps`."""

    maps: tuple[MapDefinition, ...]
    programs: Mapping[str, bytes]

    def to_json(self) -> bytes:
        """JSON that `from_json` reads."""
        programs = {name: code.hex() for name, code in self.programs.items()}
        maps = [asdict(one) for one in self.maps]
        return json.dumps({"maps": maps, "programs": programs}).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Image:
        """The image that `to_json` wrote. Raises ValueError for anything else."""
        try:
            read: dict[str, Any] = json.loads(text)
            maps = tuple(MapDefinition(**one) for one in read["maps"])
            programs = {name: bytes.fromhex(code) for name, code in read["programs"].items()}
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a compiled program: {error!r}") from None
        return cls(maps, programs)
