"""The documentation against the tree: link targets and named files exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(REPOSITORY)
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "bpf/**/*.md", "tests/unit/**/*.md")
    for page in REPOSITORY.glob(pattern)
)
# What looks like a path of the repository and isn't: files that make writes, names of JSON schemas.
ELSEWHERE = ("build/", "leaktrace/")
# A path of at least one folder; letters that stand for something (NAME, *) don't name a file.
PATH = re.compile(r"`((?:\.?[a-z_0-9-]+/)+[a-z_0-9.-]*(?:\.(?:py|c|h|md|json|in|1|sh))?)`")
FILE = re.compile(r"`([a-z_0-9]+(?:\.bpf)?\.(?:py|c|h))`")


def text(page: Path) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    without_code = re.sub(r"^```.*?^```", "", text(page), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def links() -> Iterator[object]:
    for page in PAGES:
        for target in sorted(set(re.findall(r"\]\(([^)\s]+)\)", text(page)))):
            if "://" not in target:
                yield pytest.param(page, target, id=f"{page}-{target}")


def named_files() -> Iterator[object]:
    for page in PAGES:
        for path in sorted(set(PATH.findall(text(page)))):
            if path.startswith(ELSEWHERE):
                continue
            yield pytest.param(page, path, id=f"{page}-{path}")


@pytest.mark.parametrize(("page", "target"), list(links()))
def test_link(page: Path, target: str) -> None:
    name, _, anchor = target.partition("#")
    file = (REPOSITORY / page).parent / name if name else REPOSITORY / page
    assert file.exists()
    if anchor:
        assert anchor in anchors(file.resolve().relative_to(REPOSITORY))


@pytest.mark.parametrize(("page", "path"), list(named_files()))
def test_path(page: Path, path: str) -> None:
    """Paths are relative to the repository, to src/leaktrace, or to a folder of the page."""
    folder = (REPOSITORY / page).parent
    places = (REPOSITORY, REPOSITORY / "src/leaktrace", folder, folder.parent)
    assert any((place / path).exists() for place in places)


@pytest.mark.parametrize("page", [page for page in PAGES if page.parts[0] != "bpf"], ids=str)
def test_file_names(page: Path) -> None:
    """Names without a folder are those of a file in the repository; bpf/include names bcc's."""
    sources = {
        file.name
        for folder in ("src", "bpf", "tests", "docs", "examples")
        for file in (REPOSITORY / folder).rglob("*")
    }
    assert not {name for name in FILE.findall(text(page)) if name not in sources}
