"""Keys of the kernel side's maps, taken apart: address, space and slot (bpf/process/types.h)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from leaktrace.abi import process as abi

# A site's owner is a key without its address.
_OWNER_SLOT_SHIFT = np.uint16(abi.SLOT_SHIFT - abi.SPACE_SHIFT)
_SPACES_MASK = abi.SPACES - 1


def addresses_of(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The addresses, or numbers that a pair of functions uses as handles."""
    return keys & np.uint64((1 << abi.SPACE_SHIFT) - 1)


def spaces_of(keys: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """0: the heap, else the number of a pair of functions."""
    return (keys >> np.uint64(abi.SPACE_SHIFT) & np.uint64(_SPACES_MASK)).astype(np.uint8)


def slots_of(keys: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """The slots of the processes."""
    return (keys >> np.uint64(abi.SLOT_SHIFT)).astype(np.uint16)


def slots_of_sites(sites: NDArray[Any]) -> NDArray[np.uint16]:
    """The same for sites (abi.SITE)."""
    slots: NDArray[np.uint16] = sites["owner"] >> _OWNER_SLOT_SHIFT
    return slots


def spaces_of_sites(sites: NDArray[Any]) -> NDArray[np.uint16]:
    """The same for sites (abi.SITE)."""
    spaces: NDArray[np.uint16] = sites["owner"] & np.uint16(_SPACES_MASK)
    return spaces
