"""Demangled names, compared with c++filt and with rustc's own symbols."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies

from leaktrace.symbols import demangle as module
from leaktrace.symbols.demangle import demangle

needs_demangler = pytest.mark.skipif(not module.AVAILABLE, reason="needs the package pycxxfilt")


@needs_demangler
@pytest.mark.parametrize(
    ("mangled", "readable"),
    [
        ("_Znwm", "operator new(unsigned long)"),
        ("_ZN2ns3BoxIiE4makeEi", "ns::Box<int>::make(int)"),
        ("_ZN3FooC2Ev", "Foo::Foo()"),
        ("_ZN3Foo3barEi.isra.0", "Foo::bar(int) [clone .isra.0]"),
        ("_ZNSt6vectorIiSaIiEE9push_backERKi",
         "std::vector<int, std::allocator<int>>::push_back(int const&)"),
        ("_RNvC6_123foo3bar", "123foo::bar"),
        ("_RNvC6_123foo3bar.llvm.99", "123foo::bar"),
        ("_ZN4core3ptr85drop_in_place$LT$std..rt..lang_start$LT$$LP$$RP$$GT$..$u7b$$u7b$closure"
         "$u7d$$u7d$$GT$17h0123456789abcdefE",
         "core::ptr::drop_in_place<std::rt::lang_start<()>::{{closure}}>"),
        ("_ZN3foo17h0123456789abcdefE", "foo"),
    ],
)  # fmt: skip
def test_names(mangled: str, readable: str) -> None:
    assert demangle(mangled) == readable


@pytest.mark.parametrize(
    "name", ["main", "malloc", "", "_", "_Z", "_R", "_ZNot", "_exit", "a.cold"]
)
def test_what_is_not_mangled_stays(name: str) -> None:
    assert demangle(name) == name


@needs_demangler
def test_a_name_that_only_gcc_writes_so() -> None:
    """From the debug information of GCC 12; LLVM's demangler refuses it."""
    try:
        ctypes.CDLL("libstdc++.so.6")
    except OSError:
        pytest.skip("needs libstdc++.so.6")
    mangled = (
        "_ZSt11make_sharedIN3app5OrderEJEESt10shared_ptrI"
        "NSt9enable_ifIXntsr8is_arrayIT_E5valueES5_E4typeEEDpOT0_"
    )
    for suffix, shown in {"": "", ".isra.0": " [clone .isra.0]"}.items():
        assert demangle(mangled + suffix) == (
            "std::shared_ptr<std::enable_if<!is_array<app::Order>::value, app::Order>::type>"
            f" std::make_shared<app::Order>(){shown}"
        )


@needs_demangler
def test_libstdcxx_reads_as_with_binutils(require_tool: Callable[[str], str]) -> None:
    """A sample of real symbols; the two demanglers differ in blanks and in clone suffixes."""
    compiler, filt = require_tool("g++"), require_tool("c++filt")
    library = Path(
        subprocess.check_output([compiler, "-print-file-name=libstdc++.so.6"], text=True).strip()
    )
    listed = subprocess.check_output(["nm", "-D", "--defined-only", str(library)], text=True)
    names = sorted({line.split()[-1].split("@")[0] for line in listed.splitlines()})
    # Sa, Ss … are spelled out by one and not by the other.
    names = [n for n in names if n.startswith("_ZN") and not re.search("S[absiod]", n)][::23]
    assert len(names) > 20
    text = subprocess.run(
        [filt], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    for name, expected in zip(names, text.splitlines(), strict=True):
        assert demangle(name).replace(" ", "") == expected.replace(" ", "")


@needs_demangler
@pytest.mark.parametrize("scheme", ["legacy", "v0"])
def test_symbols_of_rustc(tmp_path: Path, require_tool: Callable[[str], str], scheme: str) -> None:
    rustc = require_tool("rustc")
    source = tmp_path / "sample.rs"
    source.write_text(
        """
        pub mod shelf {
            pub struct Book<T>(pub T);
            pub trait Read { fn read(&self) -> usize; }
            impl<T: AsRef<str>> Read for Book<T> {
                #[inline(never)] fn read(&self) -> usize { self.0.as_ref().len() }
            }
        }
        use shelf::Read;
        #[inline(never)]
        pub fn count(words: &[String]) -> usize {
            let each = |word: &String| shelf::Book(word.as_str()).read();
            words.iter().map(each).sum()
        }
        fn main() {
            let words: Vec<String> = std::env::args().collect();
            println!("{}", count(&words));
        }
        """
    )
    program = tmp_path / "sample"
    # The legacy scheme has become an unstable option of newer compilers.
    options = ["-Zunstable-options", f"-Csymbol-mangling-version={scheme}"]
    subprocess.run(
        [rustc, *options, str(source), "-o", str(program)],
        env={**os.environ, "RUSTC_BOOTSTRAP": "1"},
        check=True,
    )
    listed = subprocess.check_output(["nm", "--defined-only", str(program)], text=True)
    mangled = {line.split()[-1] for line in listed.splitlines()}
    names = {name: demangle(name) for name in mangled if name.startswith(("_ZN", "_R"))}
    # v0 adds the hash of a crate to its name.
    readable = {re.sub(r"\[[0-9a-f]+\]", "", name) for name in names.values()}
    assert "sample::count" in readable
    assert "sample::main" in readable
    assert "sample::count::{closure#0}" in readable or "sample::count::{{closure}}" in readable
    assert readable & {
        "<sample::shelf::Book<T> as sample::shelf::Read>::read",
        "<sample::shelf::Book<&str> as sample::shelf::Read>::read",
    }
    assert not [name for name, shown in names.items() if shown == name]
    assert not [name for name in readable if "$" in name or re.search("::h[0-9a-f]{16}", name)]


def unfolding(levels: int) -> str:
    """A function whose every parameter is twice as large as the one before."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    name, last = "_Z1f1AIiiE", "S0_"
    for level in range(1, levels + 1):
        high, low = divmod(level, 36)
        name += f"S_I{last}{last}E"
        last = f"S{digits[high - 1] if high else ''}{digits[low]}_"
    return name


@needs_demangler
def test_a_name_that_unfolds_without_end_stays_mangled() -> None:
    """Sixty parameters, the last of 2^60 letters: in this process it would exhaust the memory."""
    name = unfolding(60)
    assert demangle(name) == name
    assert demangle(unfolding(2)).startswith("f(A<int, int>, A<A<int, int>")


@needs_demangler
def test_long_but_honest_names_are_demangled_in_the_child() -> None:
    name = unfolding(9)
    assert len(module._BACK_REFERENCE.findall(name)) > module._HARMLESS_REFERENCES
    readable = demangle(name)
    assert readable.startswith("f(A<int, int>, A<A<int, int>")


def test_deep_names_are_survived() -> None:
    for inner in ("P", "1AI", "N", "FvP", "XsZ", "Dp", "T_", "S_"):
        for length in (500, 2000, 100_000):
            name = "_Z1f" + (inner * length)[:length]
            assert demangle(name).isprintable()
    assert demangle("_RINvC1a1b" + "R" * 1500 + "E").isprintable()


def test_control_characters_are_escaped() -> None:
    assert demangle("red\x1b[31m\n") == r"red\x1b[31m\n"
    assert demangle("bad\udcff") == r"bad\xff"
    assert r"\xffoo" in demangle("_ZN3\udcffooE")
    assert demangle("naïve_функция") == "naïve_функция"
    assert demangle("_ZN4\x1b[2J1aEv").isprintable()
    assert demangle("_ZN3a$u1b$b17h0123456789abcdefE").isprintable()


@settings(max_examples=200, deadline=None, database=None)
@given(strategies.text(alphabet="NSTIEPRKLXJ0123456789_abZvi$.", max_size=120))
def test_any_name_is_survived(rest: str) -> None:
    for prefix in ("_Z", "_R", "_ZN", ""):
        assert demangle(prefix + rest).isprintable()
