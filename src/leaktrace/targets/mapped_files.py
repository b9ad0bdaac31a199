"""Opens the files that a process has mapped: the mapped files themselves, whatever their paths name
now.

The links in /proc/PID/map_files lead to the mapped file even if it was deleted or replaced, or is
in another mount namespace. Following them takes CAP_CHECKPOINT_RESTORE, and CAP_DAC_READ_SEARCH for
a process of another user (proc_pid_map_files(5)). If the kernel refuses, the file is tried as the
program (/proc/PID/exe) and by its path within the process's root. It is accepted if its device and
inode are those of the mapping; the mapping keeps the inode from being reused. In an overlay or on
btrfs these numbers may differ even for the mapped file: it can't be identified then, and is
rejected.
"""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from leaktrace.capabilities import Capability, is_granted, refused
from leaktrace.elf.object import ElfObject
from leaktrace.errors import (
    NotAnObjectError,
    ObjectFileError,
    TargetAccessError,
    TargetError,
)
from leaktrace.files import NotRegularError, for_reading
from leaktrace.printable import printable
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.root import TargetRoot

_GONE = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))  # as if nothing were mapped


class UnreachableFileError(ObjectFileError):
    """A mapped file can't be opened. `capability` is what the kernel asks for, None when the reason
    is another one."""

    def __init__(self, message: str, refusal: TargetAccessError | None = None) -> None:
        super().__init__(message)
        self._refusal = refusal
        self.capability = refusal.capability if refusal else None

    @classmethod
    def by_refusal(cls, what: str, capability: Capability) -> UnreachableFileError:
        """The kernel refused `what`, which takes this capability."""
        refusal = refused(what, capability)
        guess = " (a user namespace?)" if is_granted(capability) else ""
        return cls(f"{refusal.message}{guess}", refusal)

    def as_access_error(self) -> TargetAccessError:
        """The same as an error about the target, when nothing can be done without the file."""
        assert self._refusal is not None  # callers ask for the capability first
        return self._refusal


class MappedFiles:
    """Opens what one process has mapped. After its end, a process that reuses its pid isn't taken
    for it."""

    def __init__(self, pid: int) -> None:
        """Raises TargetError when the process has ended."""
        try:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            self._directory = os.open(f"/proc/{pid}", flags)
        except OSError as error:
            raise TargetError(
                f"process {pid} has ended", "check the process id; it may have ended just now"
            ) from error
        weakref.finalize(self, os.close, self._directory)
        self._root: TargetRoot | None = None
        with suppress(OSError):
            self._open_root()

    def elf(self, mapping: Mapping) -> ElfObject:
        """The object behind a mapping. Its file may be closed and opened again when descriptors are
        scarce.

        Raises UnreachableFileError (caused by a FileNotFoundError when the mapping no longer
        exists), NotAnObjectError, or ObjectFileError when the object is damaged.
        """
        descriptor = self._open(mapping, is_mapped=True)
        try:
            return ElfObject.open(
                descriptor, mapping.path, lambda: self._open(mapping, is_mapped=False)
            )
        finally:
            os.close(descriptor)

    def _open(self, mapping: Mapping, *, is_mapped: bool) -> int:
        """A descriptor, for reading. `is_mapped`: the file must still be mapped there; otherwise
        its path will do, if that still names the file."""
        shown = printable(mapping.path)
        refusals: list[Capability] = []
        try:
            start, end = mapping.file_at or (mapping.start, mapping.end)
            link = f"map_files/{start:x}-{end:x}"
            place = os.open(link, os.O_PATH | os.O_CLOEXEC, dir_fd=self._directory)
        except (FileNotFoundError, ProcessLookupError) as error:
            if is_mapped:
                raise UnreachableFileError(f"{shown} is no longer mapped") from error
        except PermissionError as error:
            refusals.append(_capability_for_link(error))
        except OSError as error:
            raise UnreachableFileError(f"{shown} can't be opened: {error.strerror}") from error
        else:
            if mapping.is_of(place):
                return _read(place, shown)
            os.close(place)  # another file has been mapped there since the mappings were read
            if is_mapped:
                raise UnreachableFileError(f"{shown} is no longer mapped") from _GONE
        was_link_refused = bool(refusals)
        for find, capability in self._other_links(mapping):
            try:
                place = find()
            except PermissionError:
                refusals.append(capability)
                continue
            except OSError:
                continue
            if mapping.has_numbers_of(os.fstat(place)):
                return _read(place, shown)
            os.close(place)
        if not was_link_refused:
            raise UnreachableFileError(f"{shown} no longer exists")
        # The last one tried needs the fewest privileges.
        lacking = (one for one in reversed(refusals) if not is_granted(one))
        capability = next(lacking, refusals[-1])
        raise UnreachableFileError.by_refusal(f"{shown} can't be opened", capability)

    def _other_links(self, mapping: Mapping) -> Iterator[tuple[Callable[[], int], Capability]]:
        """What may open the file, and the capability that is needed if the kernel refuses it."""
        flags = os.O_PATH | os.O_CLOEXEC
        exe = partial(os.open, "exe", flags, dir_fd=self._directory)
        yield exe, Capability.SYS_PTRACE
        with suppress(OSError):
            self._open_root()
        root = self._root
        if root is not None and mapping.path.startswith("/"):
            yield partial(root.find, mapping.path), Capability.DAC_READ_SEARCH
            if mapping.deleted:  # or its name ends like that
                whole = f"{mapping.path} (deleted)"
                yield partial(root.find, whole), Capability.DAC_READ_SEARCH

    def _open_root(self) -> None:
        """Hold the root open: it stays reachable after the end of the process."""
        self._root = TargetRoot(f"/proc/self/fd/{self._directory}/root")


def _capability_for_link(error: PermissionError) -> Capability:
    """What is needed to follow a link in map_files that was refused with this error: EPERM is about
    the link (proc_map_files_get_link, fs/proc/base.c), EACCES about the directory."""
    if error.errno == errno.EPERM:
        return Capability.CHECKPOINT_RESTORE
    if is_granted(Capability.DAC_READ_SEARCH):
        return Capability.SYS_PTRACE
    return Capability.DAC_READ_SEARCH


def _read(place: int, shown: str) -> int:
    try:
        return for_reading(place, shown)
    except NotRegularError as error:
        raise NotAnObjectError(f"{shown} is not a regular file") from error
    except PermissionError as error:
        what = f"{shown} can't be read"
        raise UnreachableFileError.by_refusal(what, Capability.DAC_READ_SEARCH) from error
    except OSError as error:
        raise UnreachableFileError(f"{shown} can't be opened: {error.strerror}") from error
