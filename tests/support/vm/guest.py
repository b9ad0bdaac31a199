"""An emulated machine that runs one of the kernels over the host's files, and commands in it.

qemu without KVM: it needs no privilege of the processor, so it runs inside other virtual machines
too, at a tenth of the speed. The guest has the host's root directory by virtiofs, read-only; what
it writes stays in its memory and is discarded.
"""

from __future__ import annotations

import base64
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from distribution import UnavailableError
from harness.lines import Lines
from harness.reports import Report
from harness.tracer import REPOSITORY, Outcome, tracer_environment

from vm.kernels import UnpackedKernel

_MEMORY_MIB = 1024
_PROCESSORS = 2
# Without AVX2: numpy sorts with it, and with the instructions that qemu emulates, some arrays come
# out wrong.
_PROCESSOR = "max,-avx2"
_BOOT_DEADLINE_S = 120.0
_BOOTS = 3
_COMMAND_DEADLINE_S = 600.0
# no_timer_check: on a busy host the emulated timer looks broken to the kernel, which then panics.
_COMMAND_LINE = (
    "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on tsc=reliable no_timer_check"
)


def find_program(*candidates: str) -> str:
    """The path of the first program that is installed. Raises UnavailableError."""
    for candidate in candidates:
        path = shutil.which(candidate)
        if path is not None:
            return path
    raise UnavailableError(f"needs {' or '.join(candidates)}")


@dataclass(frozen=True)
class Traced:
    """The final report of a run in the guest, and leaktrace's stderr."""

    report: Report
    stderr: str


class Guest:
    """A running machine. As a context manager it is always powered off at the end."""

    def __init__(self, kernel: UnpackedKernel) -> None:
        """Boot. Raises UnavailableError when a required program isn't installed."""
        self.kernel = kernel
        self._boot()

    def _boot(self) -> None:
        kernel = self.kernel
        qemu = find_program("qemu-system-x86_64")
        virtiofsd = find_program("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "virtiofsd")
        self._folder = tempfile.TemporaryDirectory(prefix="leaktrace-vm-")
        folder = Path(self._folder.name)
        self._console = folder / "console"
        _write_initramfs(folder, kernel)
        # Listening before qemu starts to connect.
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"{folder}/files")
            listening.listen(1)
            number = listening.fileno()
            self._files = subprocess.Popen(
                [virtiofsd, f"--fd={number}", "-f",
                 "-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always"],
                stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, pass_fds=(number,),
            )  # fmt: skip
        self._machine = subprocess.Popen(
            [
                qemu,
                *("-accel", "tcg,thread=multi", "-cpu", _PROCESSOR, "-smp", str(_PROCESSORS)),
                *("-machine", "pc,memory-backend=memory", "-m", str(_MEMORY_MIB)),
                "-object",
                f"memory-backend-memfd,id=memory,size={_MEMORY_MIB}M,share=on",
                *("-nodefaults", "-display", "none", "-no-reboot"),
                *("-kernel", str(kernel.image), "-initrd", f"{folder}/initramfs"),
                *("-append", _COMMAND_LINE),
                *("-serial", f"file:{self._console}", "-serial", "stdio"),
                *("-chardev", f"socket,id=files,path={folder}/files"),
                *("-device", "vhost-user-fs-pci,chardev=files,tag=host"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._machine.stdout is not None
        self._answers = Lines(self._machine.stdout, f"the guest with {kernel.release}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._power_off()

    def _power_off(self) -> None:
        for process in (self._machine, self._files):
            if process.poll() is None:
                process.kill()
            process.wait()
        self._folder.cleanup()

    def start_again_if_dead(self) -> None:
        """Boot once more after a panic, which must fail one test and not all that follow."""
        if self._machine.poll() is not None:
            self._power_off()
            self._boot()
            self.await_ready()

    def await_ready(self) -> Self:
        """Wait until commands can be run."""
        self._read_line(_BOOT_DEADLINE_S)
        return self

    def run(self, *command: str | Path) -> Outcome:
        """Run a command as root in the guest, to its end. Python finds this checkout's modules."""
        settings = (f"{name}={value}" for name, value in _environment().items())
        return self.run_script(shlex.join(["env", *settings, *(str(word) for word in command)]))

    def trace(self, what: str, *arguments: str | Path, options: Sequence[str] = ()) -> Traced:
        """Run vm.inside in the guest, and return leaktrace's final report."""
        outcome = self.run(sys.executable, "-m", "vm.inside", what, *arguments, "--", *options)
        assert outcome.exit_code == 0, outcome.stderr
        return Traced(Report(outcome.stdout), outcome.stderr)

    def run_script(self, script: str) -> Outcome:
        """Run lines of bash as root in the guest, in a separate environment."""
        assert self._machine.stdin is not None
        self._machine.stdin.write(base64.b64encode(script.encode()) + b"\n")
        self._machine.stdin.flush()
        status, *outputs = self._read_line(_COMMAND_DEADLINE_S).split(" ")
        stdout, stderr = (
            base64.b64decode(output.removeprefix(".")).decode("utf-8", "surrogateescape")
            for output in outputs
        )
        return Outcome(int(status), stdout, stderr)

    def _read_line(self, deadline_s: float) -> str:
        try:
            line = self._answers.next(deadline_s)
        except AssertionError:
            line = None
        if line is None:
            # After a panic qemu takes a while to end, in which other tests would still write to it.
            self._machine.kill()
            self._machine.wait()
        assert line is not None, "the guest is silent; its console says:\n" + self.console()
        return line.rstrip("\r")

    def console(self) -> str:
        """The output of the kernel and init."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""


@contextmanager
def booted(kernel: UnpackedKernel) -> Iterator[Guest]:
    """A machine that accepts commands.

    A kernel rewrites its own code as it starts, by breakpoints; qemu's threads may let another
    processor meet one of them too late, and the kernel panics. That is not what is tested, so it is
    started again. Raises UnavailableError as `Guest`.
    """
    for boot in range(1, _BOOTS + 1):
        with Guest(kernel) as machine:
            try:
                machine.await_ready()
            except AssertionError:
                if boot == _BOOTS or "Oops: int3" not in machine.console():
                    raise
                continue
            yield machine
            return


def _environment() -> dict[str, str]:
    support = REPOSITORY / "tests/support"
    return {
        "PYTHONPATH": f"{tracer_environment()['PYTHONPATH']}:{support}",
        "LEAKTRACE_TEST_DEADLINE_S": str(_COMMAND_DEADLINE_S),
    }


def _write_initramfs(folder: Path, kernel: UnpackedKernel) -> None:
    """An archive with busybox, the modules and init.sh (Documentation/driver-api/early-userspace/
    buffer-format.rst)."""
    root = folder / "initramfs.d"
    for name in ("bin", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy(find_program("busybox"), root / "bin/busybox")
    shutil.copy(Path(__file__).with_name("init.sh"), root / "init")
    (root / "init").chmod(0o755)
    modules = kernel.modules()
    for name, content in modules:
        (root / "modules" / name).write_bytes(content)
    (root / "modules/order").write_text("".join(f"{name}\n" for name, _ in modules))
    names = "".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
    with (folder / "initramfs").open("wb") as archive:
        subprocess.run(
            [find_program("cpio"), "--quiet", "-o", "-H", "newc", "-R", "0:0"],
            cwd=root, input=names.encode(), stdout=archive, check=True,
        )  # fmt: skip
