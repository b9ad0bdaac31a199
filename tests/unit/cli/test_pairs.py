"""--pair on the command line: what is understood, and what is refused with the reason."""

from __future__ import annotations

import click
import pytest

from leaktrace.cli.pairs import FunctionPair
from leaktrace.cli.parsing import build_options
from leaktrace.cli.trace import command
from leaktrace.errors import UsageError
from leaktrace.options import Pair, ProcessOptions
from leaktrace.process.probes.allocators import HEAP, REGIONS

OPTION = click.Option(["--pair"])


@pytest.mark.parametrize(
    ("word", "pair"),
    [
        ("SSL_new:SSL_free", Pair("SSL_new", "SSL_free")),
        ("get:put:2", Pair("get", "put", 2)),
        ("get:put:0:6", Pair("get", "put", 0, 6)),
        ("c:fopen:fclose", Pair("fopen", "fclose", object="c")),
        ("/lib/a.so:get:put:1:2", Pair("get", "put", 1, 2, "/lib/a.so")),
        ("_ZN4Pool3getEv:_ZN4Pool3putEPv", Pair("_ZN4Pool3getEv", "_ZN4Pool3putEPv")),
        ("get.isra.0:put", Pair("get.isra.0", "put")),
    ],
)
def test_understood(word: str, pair: Pair) -> None:
    assert FunctionPair().convert(word, OPTION, None) == pair


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("get", "get"),
        ("", "--pair"),
        (":put", "name is missing"),
        ("get:", "name is missing"),
        ("a:b:c:d", "a:b:c:d"),
        ("get:put:1:2:3", "get:put:1:2:3"),
        ("get:1:put", "get:1:put"),
        ("get:put:7", "SIZE"),
        ("get:put:-1", "SIZE"),
        ("get:put:1:0", "HANDLE"),
        ("get:put:1:7", "HANDLE"),
        ("Pool::get:Pool::put", "Pool::get"),
    ],
)
def test_malformed(word: str, names: str) -> None:
    with pytest.raises(UsageError, match="--pair") as caught:
        FunctionPair().convert(word, OPTION, None)
    assert names in caught.value.message
    assert caught.value.hint


def options_of(*words: str) -> ProcessOptions:
    with command.make_context("leaktrace", ["-p", "1", *words]) as context:
        options = build_options(context.params, ())
    assert isinstance(options, ProcessOptions)
    return options


def test_options() -> None:
    options = options_of("--pair", "get:put:1", "--pair", "c:fopen:fclose", "--no-malloc")
    assert [pair.name for pair in options.pairs] == ["get", "c:fopen"]
    assert not options.malloc
    assert options_of().malloc


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["--pair", "get:put", "--pair", "get:drop"], "get"),
        (["--pair", "get:put", "--pair", "c:get:put"], "get"),
        (["--pair", "get:get"], "the same"),
        (["--pair", "malloc:free"], "malloc"),
        (["--symbols-prefix", "je_", "--pair", "je_malloc:je_free"], "je_malloc"),
        (["--no-malloc"], "--no-malloc"),
        (["--pair", "get:put", "--faults"], "--pair"),
        (["--pair", "get:put", "-f", "memleak"], "memleak"),
        (["--pair", "get:put", "--no-malloc", "-z", "10"], "-z"),
        (["--pair", "get:put", "--no-malloc", "-s", "10"], "-s"),
        (["--pair", "get:put", "--no-malloc", "-O", "c"], "-O"),
        (["--pair", "get:put", "--no-malloc", "--by", "process"], "--by process"),
        ([word for n in range(16) for word in ("--pair", f"get{n}:put")], "16"),
    ],
)
def test_contradictions(words: list[str], names: str) -> None:
    with pytest.raises(UsageError) as caught:
        options_of(*words)
    assert names in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", sorted({hook.symbol for hook in (*HEAP, *REGIONS)} - {"free"}))
def test_what_is_hooked_anyway(name: str) -> None:
    with pytest.raises(UsageError, match="without --pair"):
        options_of("--pair", f"{name}:release")
    assert options_of("--pair", f"{name}:release", "--no-malloc").pairs


@pytest.mark.parametrize(
    "words",
    [
        ["--pair", "malloc:free:1", "--no-malloc"],
        ["--pair", "fopen:fclose", "--pair", "fdopen:fclose"],
        ["--pair", "a:get:put", "--pair", "b:get:put"],
        ["--pair", "strdup:free"],
    ],
)
def test_no_contradiction(words: list[str]) -> None:
    assert options_of(*words).pairs
