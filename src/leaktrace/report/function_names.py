"""Names of C++, Rust and Go functions, shortened by their dispensable parts.

    std::shared_ptr<app::Order> std::make_shared<app::Order>(app::Account const&)
    std::make_shared<app::Order>(app::Account const&)      without the return type
    std::make_shared<...>(app::Account const&)             template arguments folded
    std::make_shared<...>(...)                             parameters folded
    std::make_shared                                       neither
    std::...::make_shared                                  scopes in the middle left out

There is no grammar of demangled names. Brackets are paired where possible; those that can't be
paired (`operator<`, `3 < 4`, a hostile name) are plain text. Nothing here recurses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from rich.cells import cell_len

from leaktrace.printable import ELLIPSIS
from leaktrace.report.names import shorten_middle

_PAIRS = {"<": ">", "(": ")", "{": "}", "[": "]"}

# Operators whose names contain brackets; binutils and LLVM write "operator<< <char>".
_OPERATOR = re.compile(
    r"(?<![\w$])operator(?:\(\)|\[\]|<=>|<<=|>>=|<<|>>|<=|>=|->\*|->|<|>|[-+*/%^&|~!=,]+|(?![\w$]))"
    r"(?: (?=<))?"
)
_TEXT = re.compile(r"[^<>(){}\[\]:o-]+|[o:-]")
_PLAIN_SCOPE = re.compile(r"([A-Za-z_]\w*)::")
_NO_PARAMETERS = re.compile(r"\b(?:decltype|noexcept|sizeof|alignof)$")
_NOT_A_TYPE = re.compile(r" (?:to|for) ")  # "non-virtual thunk to f", "guard variable for f"


@dataclass(frozen=True)
class _Token:
    """A piece of a name. Brackets have the index of their partner among the tokens."""

    text: str
    kind: str = ""  # "", "operator", "template", "parameters", "bracket" (any other)
    partner: int = -1


@lru_cache(maxsize=16_384)
def shorten_symbol(name: str, cells: int) -> str:
    """The name of a function in at most `cells` terminal cells, as readable as possible."""
    if cell_len(name) <= cells and len(name) <= 2 * cells:
        return name
    shorter = ""
    for shorter in _stages(name):
        if cell_len(shorter) <= cells:
            return shorten_middle(shorter, cells)  # combining characters take no cells
    return _without_scopes(shorter, cells)


@lru_cache(maxsize=16_384)
def least_cells(name: str) -> int:
    """The least number of cells for a name before it loses scopes or letters."""
    return min(cell_len(stage) for stage in _stages(name))


@lru_cache(maxsize=16_384)
def outermost_scope(name: str) -> str:
    """The outermost namespace (or crate, or class) of a function; "" if it has none."""
    if "::" not in name:
        return ""
    plain = _PLAIN_SCOPE.match(name) if "<" not in name else None
    if plain is not None:  # nothing that is in brackets, or is a return type, comes before it
        return plain[1]
    scopes = _scopes(_without_return_type(_tokens(name)))
    return scopes[0] if len(scopes) > 1 else ""


def _stages(name: str) -> Iterator[str]:
    """Ever shorter forms that keep all scopes."""
    yield name
    name = name.replace("(anonymous namespace)", "{anonymous}")  # as GCC spells it
    tokens = _without_return_type(_tokens(name))
    yield _written(tokens)
    yield _written(tokens, folded=("template",))
    yield _written(tokens, folded=("template", "parameters"))
    tokens = _without_qualifiers(tokens)
    yield _written(tokens, folded=("template",), dropped=("parameters",))
    yield _written(tokens, dropped=("template", "parameters"))


def _without_scopes(name: str, cells: int) -> str:
    """The first scope and as many of the last ones as fit; at least a part of the function."""
    scopes = _scopes(_tokens(name))
    for first in range(2, len(scopes)):
        shorter = "::".join([scopes[0], ELLIPSIS, *scopes[first:]])
        if cell_len(shorter) <= cells:
            return shorten_middle(shorter, cells)
    shorter = f"{ELLIPSIS}::{scopes[-1]}"
    if len(scopes) > 1 and cell_len(shorter) <= cells:
        return shorten_middle(shorter, cells)
    return shorten_middle(scopes[-1], cells)


def _scopes(tokens: Sequence[_Token]) -> list[str]:
    scopes = [""]
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token.partner > index:
            scopes[-1] += "".join(inner.text for inner in tokens[index : token.partner + 1])
            index = token.partner
        else:
            first, *others = token.text.split("::")
            scopes[-1] += first
            scopes += others
        index += 1
    return scopes


@lru_cache(maxsize=4096)
def _tokens(name: str) -> tuple[_Token, ...]:
    tokens: list[_Token] = []
    opened: list[int] = []
    position = 0
    while position < len(name):
        letter = name[position]
        if operator := _OPERATOR.match(name, position):
            tokens.append(_Token(operator[0], "operator"))
            position = operator.end()
            continue
        if name.startswith(("->", "::"), position):  # this ">" closes nothing
            text = name[position : position + 2]
        elif letter in _PAIRS:
            opened.append(len(tokens))
            tokens.append(_Token(letter, _kind(name, position, tokens)))
            position += 1
            continue
        elif letter in _PAIRS.values():
            _close(letter, tokens, opened)
            position += 1
            continue
        else:
            found = _TEXT.match(name, position)
            text = found[0] if found else letter
        position += len(text)
        if tokens and not tokens[-1].kind:
            tokens[-1] = replace(tokens[-1], text=tokens[-1].text + text)
        else:
            tokens.append(_Token(text))
    for index in opened:
        tokens[index] = _Token(tokens[index].text)
    return tuple(tokens)


def _close(letter: str, tokens: list[_Token], opened: list[int]) -> None:
    """Pair a closing bracket with the last one that fits; "<" in between were comparisons."""
    at = len(opened) - 1
    if letter != ">":
        while at >= 0 and tokens[opened[at]].text == "<":
            at -= 1
    if at < 0 or _PAIRS[tokens[opened[at]].text] != letter:
        tokens.append(_Token(letter))
        return
    for index in opened[at + 1 :]:
        tokens[index] = _Token(tokens[index].text)
    opening = opened[at]
    del opened[at:]
    kind = tokens[opening].kind
    tokens[opening] = replace(tokens[opening], partner=len(tokens))
    tokens.append(_Token(letter, kind, opening))


def _kind(name: str, position: int, tokens: Sequence[_Token]) -> str:
    """What kind a bracket is, from the text before it."""
    letter = name[position]
    before = name[position - 1] if position else ""
    follows_name = before.isalnum() or (before != "" and before in "_$>]}'")
    if tokens and tokens[-1].kind == "operator":
        follows_name = True
    if letter == "<":
        # Rust: "<Vec<T> as Clone>::clone" names the type, so it is not dropped.
        return "template" if follows_name or before == ":" else "bracket"
    if (
        letter == "("
        and follows_name
        and not _NO_PARAMETERS.search(name, max(0, position - 10), position)
    ):
        return "parameters"
    return "bracket"


def _without_return_type(tokens: Sequence[_Token]) -> tuple[_Token, ...]:
    """Only templates have a return type in their name (Itanium C++ ABI, 5.1.5.3)."""
    outside = list(_outside_brackets(tokens))
    parameters = next((i for i in outside if tokens[i].kind == "parameters"), 0)
    if not parameters or tokens[parameters - 1].text != ">":
        return tuple(tokens)
    start = 0, 0
    for index in outside:
        if index >= parameters or tokens[index].kind == "operator":
            break
        if not tokens[index].kind and " " in tokens[index].text:
            start = index, tokens[index].text.rindex(" ") + 1
    index, offset = start
    dropped = "".join(token.text for token in tokens[:index]) + tokens[index].text[:offset]
    if not dropped or _NOT_A_TYPE.search(f" {dropped}"):
        return tuple(tokens)
    rest = _tokens("".join(token.text for token in tokens)[len(dropped) :])
    return rest or tuple(tokens)


def _without_qualifiers(tokens: Sequence[_Token]) -> tuple[_Token, ...]:
    """Without what follows the parameters: "const", "&", "[clone .isra.0]"."""
    last = max((i for i in _outside_brackets(tokens) if tokens[i].kind == "parameters"), default=0)
    end = tokens[last].partner + 1 if last else len(tokens)
    if end < len(tokens) and tokens[end].text.startswith(" "):
        return tuple(tokens[:end])
    return tuple(tokens)


def _outside_brackets(tokens: Sequence[_Token]) -> Iterator[int]:
    """The indices of the tokens outside brackets, including opening brackets."""
    index = 0
    while index < len(tokens):
        yield index
        index = max(index, tokens[index].partner) + 1


def _written(
    tokens: Sequence[_Token], folded: Sequence[str] = (), dropped: Sequence[str] = ()
) -> str:
    """The text of `tokens`, with some kinds of brackets emptied or left out."""
    text: list[str] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        opens = token.partner > index
        if opens and token.kind in dropped:
            if text:
                text[-1] = text[-1].removesuffix("::")  # Rust: "drop_in_place::<u8>"
            index = token.partner
        elif opens and token.kind in folded and token.partner > index + 1:
            text += (token.text, ELLIPSIS, tokens[token.partner].text)
            index = token.partner
        else:
            text.append(token.text)
        index += 1
    return "".join(text).rstrip()
