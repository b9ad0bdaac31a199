"""The very files that a process has mapped, however they can be reached.

The links in /proc/PID/map_files lead to the mapped file itself: deleted, replaced, in another mount
namespace. Following them takes CAP_CHECKPOINT_RESTORE, and CAP_DAC_READ_SEARCH in a process of
another user (proc_pid_map_files(5)). Where that is refused, a file is looked for as the program
(/proc/PID/exe) and by its path within the process's root; it is taken if its device and inode are
those of the mapping, which keeps the inode from being used again. In an overlay or on btrfs they
may differ for the same file: then it is not known to be the same, and not taken.
"""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from leaktrace.capabilities import Capability, as_root_or_grant, is_granted
from leaktrace.elf.object import ElfObject
from leaktrace.errors import (
    AS_ROOT,
    NotAnObjectError,
    ObjectFileError,
    TargetAccessError,
    TargetError,
)
from leaktrace.files import NotRegularError, for_reading
from leaktrace.printable import printable
from leaktrace.targets.mappings import Mapping
from leaktrace.targets.root import TargetRoot

_GONE = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))  # as if nothing were there


class UnreachableFileError(ObjectFileError):
    """A mapped file can't be opened; `capability` would help, if it isn't None."""

    def __init__(self, message: str, capability: Capability | None = None) -> None:
        super().__init__(message)
        self.capability = capability

    def as_access_error(self) -> TargetAccessError:
        """What to say where nothing can be done without the file."""
        hint = as_root_or_grant(self.capability) if self.capability is not None else AS_ROOT
        return TargetAccessError(self.message, hint, self.capability or "")


class MappedFiles:
    """Opens what one process has mapped; no other process of that id later."""

    def __init__(self, pid: int) -> None:
        """Raises TargetError when the process is gone."""
        try:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
            self._directory = os.open(f"/proc/{pid}", flags)
        except OSError as error:
            raise TargetError(
                f"process {pid} is gone", "check the process id: it may have ended just now"
            ) from error
        weakref.finalize(self, os.close, self._directory)
        self._root: TargetRoot | None = None
        with suppress(OSError):
            self._look_at_root()

    def elf(self, mapping: Mapping) -> ElfObject:
        """The object behind a mapping, which may be closed meanwhile where descriptors are short.

        Raises UnreachableFileError, NotAnObjectError, or ObjectFileError where it is damaged. Its
        cause is a FileNotFoundError where the mapping is gone.
        """
        descriptor = self._open(mapping, is_mapped=True)
        try:
            return ElfObject.open(
                descriptor, mapping.path, lambda: self._open(mapping, is_mapped=False)
            )
        finally:
            os.close(descriptor)

    def _open(self, mapping: Mapping, *, is_mapped: bool) -> int:
        """`is_mapped`: it has to be so still; else its path will do if it is the same file."""
        shown = printable(mapping.path)
        try:
            start, end = mapping.file_at or (mapping.start, mapping.end)
            link = f"map_files/{start:x}-{end:x}"
            place = os.open(link, os.O_PATH | os.O_CLOEXEC, dir_fd=self._directory)
        except (FileNotFoundError, ProcessLookupError) as error:
            if is_mapped:
                raise UnreachableFileError(f"{shown} is not mapped any more") from error
            missing = None
        except PermissionError as error:
            missing = _behind(error)
        except OSError as error:
            raise UnreachableFileError(f"{shown} can't be opened: {error.strerror}") from error
        else:
            if mapping.is_of(place):
                return _read(place, shown)
            os.close(place)  # another one has come there since the mappings were read
            if is_mapped:
                raise UnreachableFileError(f"{shown} is not mapped any more") from _GONE
            missing = None
        for find, capability in self._ways(mapping):
            try:
                place = find()
            except PermissionError:
                missing = missing and capability
                continue
            except OSError:
                continue
            if _is_mapped_as(mapping, place):
                return _read(place, shown)
            os.close(place)
        if missing is None:
            raise UnreachableFileError(f"{shown} is not there any more")
        raise UnreachableFileError(f"{shown} can't be opened{_lack(missing)}", missing)

    def _ways(self, mapping: Mapping) -> Iterator[tuple[Callable[[], int], Capability]]:
        """What may find the file, and what it takes if that is refused."""
        flags = os.O_PATH | os.O_CLOEXEC
        exe = partial(os.open, "exe", flags, dir_fd=self._directory)
        yield exe, Capability.SYS_PTRACE
        with suppress(OSError):
            self._look_at_root()
        root = self._root
        if root is not None and mapping.path.startswith("/"):
            yield partial(root.find, mapping.path), Capability.DAC_READ_SEARCH
            if mapping.deleted:  # or is that its name?
                whole = f"{mapping.path} (deleted)"
                yield partial(root.find, whole), Capability.DAC_READ_SEARCH

    def _look_at_root(self) -> None:
        """Held open, it can be reached when the process has ended."""
        self._root = TargetRoot(f"/proc/self/fd/{self._directory}/root")


def _behind(error: PermissionError) -> Capability:
    """What following a link in map_files lacks: others' directories are closed, and links are
    followed for the privileged alone."""
    if error.errno == errno.EPERM:
        return Capability.CHECKPOINT_RESTORE
    if is_granted(Capability.DAC_READ_SEARCH):
        return Capability.SYS_PTRACE
    return Capability.DAC_READ_SEARCH


def _lack(capability: Capability) -> str:
    if is_granted(capability):
        return f", although {capability} is granted (a user namespace?)"
    return f": {capability} is missing"


def _read(place: int, shown: str) -> int:
    try:
        return for_reading(place, shown)
    except NotRegularError as error:
        raise NotAnObjectError(f"{shown} is not a regular file") from error
    except PermissionError as error:
        missing = Capability.DAC_READ_SEARCH
        raise UnreachableFileError(f"{shown} can't be read{_lack(missing)}", missing) from error
    except OSError as error:
        raise UnreachableFileError(f"{shown} can't be opened: {error.strerror}") from error


def _is_mapped_as(mapping: Mapping, place: int) -> bool:
    status = os.fstat(place)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    return (device, status.st_ino) == (mapping.device, mapping.inode)
