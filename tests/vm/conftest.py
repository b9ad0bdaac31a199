"""Tests on other kernels, each in an emulated machine: `make test-vm`, or `pytest tests/vm`.

They take minutes, so they are collected only where this directory is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from distribution import UnavailableError
from harness.fixtures import compiled
from vm.guest import Guest, booted
from vm.kernels import KERNELS, Kernel, fetch

__all__ = ["compiled"]

_HERE = Path(__file__).parent


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    named = [config.invocation_params.dir / name.split("::")[0] for name in config.args]
    is_named = any(path.resolve().is_relative_to(_HERE) for path in named)
    return None if is_named else _HERE in collection_path.parents or None


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "builds_modules: on kernels that have headers, and only there"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The kernel with headers is like another one; it is there for tests that build modules."""
    unfit = [item for item in items if _is_unfit(item)]
    config.hook.pytest_deselected(items=unfit)
    items[:] = [item for item in items if item not in unfit]


def _is_unfit(item: pytest.Item) -> bool:
    if _HERE not in item.path.parents or not isinstance(item, pytest.Function):
        return False
    if "guest" not in item.fixturenames:
        return False
    kernel = item.callspec.params["guest"]
    assert isinstance(kernel, Kernel)
    return kernel.has_headers != (item.get_closest_marker("builds_modules") is not None)


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(
            kernel,
            id=kernel.name,
            marks=[
                pytest.mark.xdist_group(kernel.name),  # one machine for all tests on it
                *(
                    ()
                    if kernel.is_everywhere
                    else (pytest.mark.may_skip("not every distribution has it"),)
                ),
            ],
        )
        for kernel in KERNELS
    ],
)
def guest(request: pytest.FixtureRequest, require_root: None) -> Iterator[Guest]:
    """A machine that runs one of the kernels, booted once for all tests on it."""
    kernel: Kernel = request.param
    try:
        with booted(fetch(kernel)) as machine:
            yield machine
    except UnavailableError as error:
        pytest.skip(f"Linux {kernel.name}: {error}")


@pytest.fixture(autouse=True)
def running(request: pytest.FixtureRequest) -> None:
    """The machine of a test runs, even if it has died in another test."""
    if "guest" in request.fixturenames:
        machine: Guest = request.getfixturevalue("guest")
        machine.start_again_if_dead()
