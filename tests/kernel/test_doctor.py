"""`leaktrace doctor` on the machine the tests run on, against independent readings."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.compiling import Compiler
from harness.target import Target
from harness.wording import names, naming

pytestmark = pytest.mark.usefixtures("require_bpf")

DOCTOR = "from leaktrace.cli.doctor import command; command()"


def run(
    *arguments: str, through: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*through, sys.executable, "-c", DOCTOR, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def findings(result: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {feature["name"]: feature for feature in json.loads(result.stdout)["features"]}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    result = run("--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["user_mode"] is True
    return findings(result)


def test_nothing_required_is_missing(found: dict[str, dict[str, Any]]) -> None:
    required = {name for name, feature in found.items() if feature["required"]}
    kernel = {"capabilities", "lockdown", "uprobes", "libbpf", "bcc", "bpf(2)"}
    assert required == kernel | {"CAP_BPF", "CAP_PERFMON"}
    assert all(found[name]["state"] in ("ok", "limited") for name in required)


def test_the_kernel_is_the_running_one(found: dict[str, dict[str, Any]]) -> None:
    assert found["kernel"]["detail"] == f"{platform.release()} {platform.machine()}"


def test_probe_sources_are_those_of_sysfs(found: dict[str, dict[str, Any]]) -> None:
    for name in ("uprobe", "kprobe"):
        path = Path(f"/sys/bus/event_source/devices/{name}/type")
        feature = found[f"{name}s"]
        assert (feature["state"] == "ok") is path.exists()
        if path.exists():
            assert feature["detail"] == f"perf event source {int(path.read_text())}"


def test_tracefs_as_findmnt_sees_it(
    found: dict[str, dict[str, Any]], require_tool: Callable[[str], str]
) -> None:
    mounted = subprocess.run(
        [require_tool("findmnt"), "--types", "tracefs"], capture_output=True, check=False
    )
    assert (found["tracefs"]["state"] == "ok") is (mounted.stdout != b"")


def test_bcc_is_the_packaged_one(found: dict[str, dict[str, Any]]) -> None:
    """A Python that isn't in a virtual environment says the same."""
    directory = re.fullmatch(r"(\S+) in (.+)/bcc", found["bcc"]["detail"])
    assert directory is not None
    version = subprocess.run(
        [sys.executable, "-c", "import bcc.version; print(bcc.version.__version__)"],
        env={**os.environ, "PYTHONPATH": directory[2]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert version.stdout.strip() == directory[1]


def test_kernel_features_as_its_type_information_has_them(
    found: dict[str, dict[str, Any]],
) -> None:
    """Each feature came with a new function or type, whose name BTF contains."""
    btf = Path("/sys/kernel/btf/vmlinux")
    if not btf.exists():
        pytest.skip("this kernel has no BTF")
    names = btf.read_bytes()
    for feature, witness in {
        "attach cookies": b"bpf_trace_run_ctx",
        "BPF ring buffer": b"bpf_ringbuf",
        "batch map operations": b"generic_map_lookup_batch",
        "raw tracepoints": b"bpf_raw_tp_link",
        "on-demand map memory": b"bpf_mem_alloc",
    }.items():
        assert (found[feature]["state"] == "ok") is (b"\0" + witness + b"\0" in names), feature
    # These came before their pid filter was right (Linux 6.10), which no name shows.
    if found["uprobe links (multi)"]["state"] == "ok":
        assert b"\0bpf_uprobe_multi_link\0" in names


def test_a_table_in_any_encoding() -> None:
    result = run(PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stderr) == (0, "")
    head, rule, *lines = result.stdout.splitlines()
    assert head.split() == ["feature", "state", "found"]
    assert set(rule) == {"-"}
    assert all(line == line.rstrip() for line in lines)


def test_without_privileges(require_tool: Callable[[str], str]) -> None:
    """As user nobody: the advice is sudo, and what can't be tested is unknown, not missing."""
    nobody = (require_tool("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups")
    if run("--help", through=nobody).returncode != 0:
        pytest.skip("the user nobody can't run this Python: its directory is closed")
    result = run("--json", through=nobody)
    assert (result.returncode, result.stderr) == (3, "")
    features = findings(result)
    assert features["capabilities"]["state"] == "missing"
    assert "sudo leaktrace" in features["capabilities"]["advice"]
    assert features["bpf(2)"]["state"] == "missing"
    assert features["BPF ring buffer"]["state"] == "unknown"


def test_capabilities_taken_away(require_tool: Callable[[str], str]) -> None:
    """Root without the capabilities that matter, and with the two that suffice."""
    setpriv = require_tool("setpriv")
    without = run("--json", through=(setpriv, "--bounding-set=-bpf,-perfmon,-sys_admin"))
    assert without.returncode == 3
    assert findings(without)["root"]["state"] == "ok"
    detail = findings(without)["capabilities"]["detail"]
    assert set(re.findall(r"CAP_\w+", detail)) == {"CAP_BPF", "CAP_PERFMON"}
    assert findings(without)["bpf(2)"]["state"] == "missing"

    enough = run("--json", through=(setpriv, "--bounding-set=-sys_admin,-sys_ptrace"))
    assert enough.returncode == 0
    assert findings(enough)["capabilities"]["state"] == "limited"
    assert findings(enough)["bpf(2)"]["state"] == "ok"


def test_in_a_user_namespace(require_tool: Callable[[str], str]) -> None:
    """Every capability is shown there, and the kernel ignores them."""
    inside = (require_tool("unshare"), "--user", "--map-root-user")
    if subprocess.run([*inside, "true"], check=False).returncode != 0:
        pytest.skip("user namespaces are not allowed here")
    result = run("--json", through=inside)
    assert result.returncode == 3
    features = findings(result)
    assert features["capabilities"]["state"] == "ok"
    assert features["user namespace"]["state"] == "limited"
    assert features["bpf(2)"]["state"] == "missing"
    assert "container" in features["bpf(2)"]["advice"]


def test_doctor_maps_no_compiler() -> None:
    """Looking for bcc must not import it: LLVM would come with it."""
    code = (
        "import sys; from leaktrace.machine.features import all_features; all_features();"
        "print('bcc' in sys.modules, 'libLLVM' in open('/proc/self/maps').read())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "False False\n"


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["sleep", "60"]) as target:
        yield target.pid
        target.kill()


def doctor_of(pid: int, *options: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "leaktrace", "doctor", *options, "-p", str(pid)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_the_probes_of_a_process_with_what_they_cost(sleeper: int) -> None:
    output = json.loads(doctor_of(sleeper, "--json"))
    assert [probe["function"] for probe in output["probes"]] == ["free"]
    assert output["probes"][0]["traps"] == 1
    points = [point for point in output["points"] if point["function"] == "malloc"]
    assert {point["knows"] for point in points} >= {"size", "result"}
    for point in output["points"]:
        assert point["traps"] == 2 - point["emulated"]
    assert output["left_out"] == []


def test_points_as_a_table(sleeper: int) -> None:
    lines = doctor_of(sleeper).splitlines()
    assert any(re.search(r"^  malloc +\+\d+ \S+ .* 1 trap$", line) for line in lines)
    assert any(re.search(r"^  free .* release +1 trap$", line) for line in lines)


def test_an_allocator_that_is_not_hooked_is_named(compiled: Compiler) -> None:
    with Target([compiled("prefixed_allocator.c", "-DPROGRAM", "-DLIBRARY")]) as target:
        target.await_ready()
        lines = doctor_of(target.pid).splitlines()
        output = json.loads(doctor_of(target.pid, "--json"))
    (line,) = naming(lines, "not hooked")
    assert names(line, "nedmalloc")
    (found,) = output["unhooked"]
    assert "nedmalloc" in found["text"]
    assert "--faults" in found["hint"]


def test_nothing_is_named_where_all_is_hooked(sleeper: int) -> None:
    assert json.loads(doctor_of(sleeper, "--json"))["unhooked"] == []
    assert "not hooked" not in doctor_of(sleeper)


def test_probes_of_a_process_that_is_not_there() -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "leaktrace", "doctor", "-p", "4194303"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 4
    assert names(outcome.stderr, "process", 4194303)
