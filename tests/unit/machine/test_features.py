"""The features of machines that are described as a directory."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from leaktrace.cli import doctor
from leaktrace.cli.doctor import command, to_json, user_mode_works
from leaktrace.errors import EnvironmentUnfitError
from leaktrace.machine import features, packages, trials
from leaktrace.machine.features import all_features, require_user_mode
from leaktrace.machine.machine import Feature, Machine, State
from leaktrace.machine.packages import install_hint

BCC = "usr/lib/python3/dist-packages/bcc"
LOCKDOWN = "sys/kernel/security/lockdown"
YAMA = "proc/sys/kernel/yama/ptrace_scope"
UPROBE_TYPE = "sys/bus/event_source/devices/uprobe/type"
ALL_CAPABILITIES = 0x1FFFFFFFFFF
CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_SYS_RESOURCE, CAP_PERFMON, CAP_BPF = (
    1 << 19,
    1 << 21,
    1 << 24,
    1 << 38,
    1 << 39,
)


def status(uid: int, capabilities: int) -> str:
    """The lines of /proc/self/status that matter here, between others."""
    return (
        f"Name:\tpython3\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapEff:\t{capabilities:016x}\nx:\t1\n"
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine on which everything works."""
    files = {
        "proc/sys/kernel/osrelease": "6.1.0-test\n",
        "proc/sys/kernel/arch": "x86_64\n",
        "proc/sys/kernel/perf_event_paranoid": "3\n",
        "proc/self/status": status(0, ALL_CAPABILITIES),
        "proc/self/uid_map": "         0          0 4294967295\n",
        "proc/self/mounts": "proc /proc proc rw 0 0\ntracefs /sys/kernel/tracing tracefs rw 0 0\n",
        UPROBE_TYPE: "8\n",
        "sys/bus/event_source/devices/kprobe/type": "7\n",
        LOCKDOWN: "[none] integrity confidentiality\n",
        "sys/kernel/btf/vmlinux": "\x9f\xeb",
        f"{BCC}/version.py": "__version__ = '0.26.0'\n",
        f"{BCC}/libbcc.py": "",
        "usr/lib/x86_64-linux-gnu/libbpf.so.1": "",
        "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def feature(root: Path, name: str) -> Feature:
    return {found.name: found for found in all_features(Machine(root))}[name]


def test_a_machine_with_everything(root: Path) -> None:
    require_user_mode(Machine(root))
    found = all_features(Machine(root))
    assert user_mode_works(found)
    states = {each.state for each in found}
    assert states == {State.OK, State.UNKNOWN}
    assert all("only on that machine" in f.detail for f in found if f.state is State.UNKNOWN)
    assert feature(root, "kernel").detail == "6.1.0-test x86_64"
    assert feature(root, "bcc").detail == f"0.26.0 in {root / BCC}"


def test_an_empty_machine_is_described_without_failing(tmp_path: Path) -> None:
    found = {each.name: each.state for each in all_features(Machine(tmp_path))}
    assert found["kernel"] is State.UNKNOWN
    assert found["capabilities"] is State.UNKNOWN
    assert found["uprobes"] is State.MISSING


@pytest.mark.parametrize(
    ("path", "text", "name", "hint"),
    [
        ("proc/self/status", status(1000, 0), "capabilities", "sudo leaktrace"),
        ("proc/self/status", status(0, CAP_BPF), "capabilities", "sudo leaktrace"),
        (LOCKDOWN, "none integrity [confidentiality]", "lockdown", "lockdown=integrity"),
        (UPROBE_TYPE, None, "uprobes", "CONFIG_UPROBE_EVENTS"),
        (f"{BCC}/libbcc.py", None, "bcc", "apt-get install python3-bpfcc"),
        ("usr/lib/x86_64-linux-gnu/libbpf.so.1", None, "libbpf", "apt-get install libbpf1"),
    ],
)
def test_what_prevents_tracing(
    root: Path, path: str, text: str | None, name: str, hint: str
) -> None:
    if text is None:
        (root / path).unlink()
    else:
        (root / path).write_text(text)
    with pytest.raises(EnvironmentUnfitError) as caught:
        require_user_mode(Machine(root))
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message + caught.value.hint
    found = all_features(Machine(root))
    assert [each.name for each in found if each.blocks] == [name]
    assert not user_mode_works(found)


@pytest.mark.parametrize(
    ("path", "text", "name", "state"),
    [
        ("proc/self/status", status(0, ALL_CAPABILITIES & ~CAP_SYS_RESOURCE), "capabilities", "ok"),
        ("proc/self/status", status(7, CAP_BPF | CAP_PERFMON), "capabilities", "limited"),
        ("proc/self/status", status(0, CAP_SYS_ADMIN | CAP_SYS_PTRACE), "capabilities", "ok"),
        ("proc/self/status", status(1000, ALL_CAPABILITIES), "root", "limited"),
        ("proc/self/status", status(0, ALL_CAPABILITIES), "probe removal", "ok"),
        ("proc/self/status", status(0, CAP_SYS_ADMIN), "probe removal", "limited"),
        ("proc/self/uid_map", "0 1000 1\n", "user namespace", "limited"),
        ("proc/self/mounts", "proc /proc proc rw 0 0\n", "tracefs", "limited"),
        (LOCKDOWN, "none [integrity] confidentiality\n", "lockdown", "ok"),
        (LOCKDOWN, None, "lockdown", "ok"),
        ("sys/kernel/btf/vmlinux", None, "BTF", "limited"),
        (YAMA, "0\n", "yama ptrace_scope", "ok"),
        (YAMA, "1\n", "yama ptrace_scope", "ok"),
        (YAMA, "3\n", "yama ptrace_scope", "limited"),
        ("sys/bus/event_source/devices/kprobe/type", None, "kprobes", "missing"),
        ("proc/sys/kernel/perf_event_paranoid", None, "perf_event_paranoid", "missing"),
    ],
)
def test_what_does_not_prevent_tracing(
    root: Path, path: str, text: str | None, name: str, state: str
) -> None:
    if text is None:
        (root / path).unlink()
    else:
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text(text)
    found = feature(root, name)
    assert found.state == state
    assert found.state is State.OK or found.advice
    require_user_mode(Machine(root))


def test_paranoid_perf_events_concern_those_without_capabilities(root: Path) -> None:
    assert feature(root, "perf_event_paranoid").state is State.OK
    (root / "proc/self/status").write_text(status(1000, CAP_SYS_PTRACE))
    assert feature(root, "perf_event_paranoid").state is State.LIMITED


def test_yama_concerns_those_without_the_capability(root: Path) -> None:
    (root / YAMA).parent.mkdir()
    (root / YAMA).write_text("1\n")
    (root / "proc/self/status").write_text(status(1000, CAP_BPF | CAP_PERFMON))
    found = feature(root, "yama ptrace_scope")
    assert found.state is State.LIMITED
    assert "CAP_SYS_PTRACE" in found.advice


@pytest.mark.parametrize(
    ("capabilities", "missing"),
    [
        (0, ["CAP_BPF", "CAP_PERFMON"]),
        (CAP_BPF, ["CAP_PERFMON"]),
        (CAP_PERFMON | CAP_SYS_PTRACE, ["CAP_BPF"]),
    ],
)
def test_what_is_missing_is_named_and_nothing_else(
    root: Path, capabilities: int, missing: list[str]
) -> None:
    (root / "proc/self/status").write_text(status(1000, capabilities))
    with pytest.raises(EnvironmentUnfitError) as caught:
        require_user_mode(Machine(root))
    assert re.findall(r"CAP_\w+", caught.value.message) == missing


@pytest.mark.parametrize(
    ("os_release", "command"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", "apt-get install python3-bpfcc"),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", "apt-get install python3-bpfcc"),
        ("ID=fedora\n", "dnf install python3-bcc"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf install python3-bcc"),
        ("ID=arch\n", "pacman -S python-bcc"),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', "zypper install python3-bcc"),
        ("ID=unheard-of\n", "PyPI's bcc is unrelated"),
        ("", "PyPI's bcc is unrelated"),
    ],
)
def test_the_package_is_named_as_the_distribution_does(
    root: Path, os_release: str, command: str
) -> None:
    (root / "etc/os-release").write_text(os_release)
    assert command in install_hint(Machine(root), "bcc")


def test_another_package_called_bcc_is_passed_over(root: Path) -> None:
    """PyPI has an unrelated one, with a version but without libbcc."""
    (root / BCC / "libbcc.py").unlink()
    assert feature(root, "bcc").state is State.MISSING
    elsewhere = root / "usr/lib/python3.13/site-packages/bcc"
    elsewhere.mkdir(parents=True)
    (elsewhere / "version.py").write_text('__version__ = "0.31.0"')
    (elsewhere / "libbcc.py").touch()
    assert feature(root, "bcc").detail == f"0.31.0 in {elsewhere}"


def test_json_contains_the_same_as_the_features(root: Path) -> None:
    (root / UPROBE_TYPE).unlink()
    found = all_features(Machine(root))
    data = json.loads(to_json(found))
    assert data["schema"] == "leaktrace/doctor/1"
    assert data["user_mode"] is False
    assert [each["name"] for each in data["features"]] == [each.name for each in found]
    uprobes = next(each for each in data["features"] if each["name"] == "uprobes")
    assert uprobes["state"] == "missing"
    assert uprobes["required"] is True


@pytest.mark.parametrize(("blocked", "exit_code"), [(False, 0), (True, 3)])
def test_the_command_prints_80_columns_and_sets_its_exit_status(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, blocked: bool, exit_code: int
) -> None:
    (root / "proc/sys/kernel/osrelease").write_text("6.1-[red]plain[/red]-" + "x" * 100)
    if blocked:
        (root / UPROBE_TYPE).unlink()
    monkeypatch.setattr(doctor, "all_features", lambda: all_features(Machine(root)))
    result = CliRunner().invoke(command)
    assert result.exit_code == exit_code
    assert "\x1b" not in result.output
    assert "[red]plain[/red]" in result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert all(line == line.rstrip() for line in lines)
    assert lines[0].split() == ["feature", "state", "found"]
    assert "x" * 100 in "".join(line.strip() for line in lines)
    for each in all_features(Machine(root)):
        assert any(line.split()[: len(each.name.split())] == each.name.split() for line in lines)
    assert ("can't be traced here: uprobes" in result.output) is blocked


def test_nothing_imports_bcc_to_look_for_it() -> None:
    """LLVM would come with it. (The one module that may is leaktrace.process.program's child.)"""
    for module in (features, packages, trials, doctor):
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        names = [
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        ]
        assert "bcc" not in names
