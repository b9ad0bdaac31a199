"""`leaktrace doctor` on other kernels: its findings, compared with what is known about each."""

from __future__ import annotations

import json
import re
import sys

from vm.guest import Guest

# The version in which each feature came, as far as its commit says.
SINCE = {
    "uprobe links (multi)": (6, 10),
    "attach cookies": (5, 15),
    "BPF ring buffer": (5, 8),
    "batch map operations": (5, 6),
    "raw tracepoints": (4, 17),
    "on-demand map memory": (6, 1),
}


def test_doctor(guest: Guest) -> None:
    outcome = guest.run(sys.executable, "-m", "leaktrace", "doctor", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert found["user_mode"] is True
    features = {feature["name"]: feature for feature in found["features"]}

    release = guest.kernel.release
    assert features["kernel"]["detail"] == f"{release} x86_64"
    major, minor = re.findall(r"\d+", release)[:2]
    version = (int(major), int(minor))
    assert {name: features[name]["state"] for name in SINCE} == {
        name: "ok" if version >= since else "limited" for name, since in SINCE.items()
    }
    for name in ("root", "capabilities", "lockdown", "uprobes", "kprobes", "bpf(2)", "tracefs"):
        assert features[name]["state"] == "ok", features[name]
    assert features["tracefs"]["detail"] == "mounted on /sys/kernel/tracing"
    assert features["BTF"]["state"] == "ok"
