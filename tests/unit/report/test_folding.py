"""Which frames of a stack are shown, and which are folded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leaktrace.report.folding import FoldedRun, Repeats, Shown, folded
from leaktrace.report.runtimes import Part, is_own, place_of
from leaktrace.site import Frame

PYTHON = "/usr/bin/python3.11"
NODE = "/usr/bin/node"
LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"
CPP = "/usr/lib/x86_64-linux-gnu/libstdc++.so.6.0.30"
START = [
    ("__libc_start_call_main", LIBC),
    ("__libc_start_main", LIBC),
    ("_start", "/opt/app"),
]


def frames(*named: tuple[str | None, str | None]) -> list[Frame]:
    return [Frame(0x1000 + i, name, 1, module) for i, (name, module) in enumerate(named)]


def said(shown: list[Shown]) -> list[str]:
    """One word for each line."""
    words = []
    for one in shown:
        match one:
            case Frame():
                words.append(one.function or hex(one.address))
            case Repeats():
                words.append(f"x{one.times}")
            case FoldedRun():
                words.append(f"{one.count} of {'+'.join(one.whose)}")
    return words


@pytest.mark.parametrize(
    ("function", "module", "part"),
    [
        # The executable, unless it is an interpreter; functions that start it are libc's.
        ("remember", "/usr/bin/redis-server", Part.OWN),
        ("main", "/usr/bin/redis-server", Part.OWN),
        (None, "/usr/sbin/nginx", Part.OWN),
        ("_start", "/usr/sbin/nginx", Part.MACHINERY),
        ("plpgsql_exec", "/usr/lib/postgresql/15/lib/plpgsql.so", Part.OWN),
        ("postgres_main", "/usr/lib/postgresql/15/bin/postgres", Part.OWN),
        ("remember", "/opt/app/lib/libcache.so.1", Part.OWN),
        ("deflateInit2_", "/usr/lib/x86_64-linux-gnu/libz.so.1.2.13", Part.LIBRARY),
        ("deflateInit2_", "/lib64/libz.so.1", Part.LIBRARY),
        ("getaddrinfo", LIBC, Part.RUNTIME),
        # Allocation wrappers, wherever they are.
        ("zrealloc", "/usr/bin/redis-server", Part.MACHINERY),
        ("xmalloc", "/opt/app", Part.MACHINERY),
        ("malloc_stats_of", "/opt/app", Part.MACHINERY),
        ("connection_alloc", "/opt/app", Part.OWN),
        # CPython, in the executable or a library.
        ("_PyEval_EvalFrameDefault", PYTHON, Part.MACHINERY),
        ("_PyEval_EvalFrameDefault", "/opt/py/lib/libpython3.11.so.1.0", Part.MACHINERY),
        ("_PyEval_EvalFrameDefault", "/opt/app-with-python", Part.MACHINERY),
        ("PyArray_NewLikeArray", "/opt/app-with-python", Part.OWN),
        ("list_append", PYTHON, Part.RUNTIME),
        (None, PYTHON, Part.MACHINERY),
        ("scanner_call", "/usr/lib/python3.11/lib-dynload/_json.cpython-311.so", Part.RUNTIME),
        ("PyArray_New", "/usr/lib/python3/dist-packages/numpy/core/_multi.so", Part.OWN),
        ("encode", "/srv/venv/lib/python3.11/site-packages/fast.abi3.so", Part.OWN),
        # node, with V8 and libuv in it.
        ("uv__run_timers", NODE, Part.MACHINERY),
        ("v8::internal::Heap::AllocateRaw(int)", NODE, Part.MACHINERY),
        ("Builtins_JSEntry", NODE, Part.MACHINERY),
        ("Builtins_ArrayMap", NODE, Part.RUNTIME),
        ("node::Buffer::New(v8::Isolate*, unsigned long)", NODE, Part.RUNTIME),
        ("node::Buffer::New(unsigned long)", "/opt/graph", Part.OWN),
        ("Remember(Napi::CallbackInfo const&)", "/srv/node_modules/x/x.node", Part.OWN),
        # Generated code that has names is the program's own, unless the names say otherwise.
        ("JS:^remember /srv/app.js:2:18", None, Part.OWN),
        ("JS:*FastBuffer node:internal/buffer:960:14", None, Part.RUNTIME),
        ("py::remember:/srv/app.py", None, Part.OWN),
        ("py::_find_and_load:<frozen importlib._bootstrap>", None, Part.RUNTIME),
        ("Lcom/acme/Cache;::put", "//anon", Part.OWN),
        ("Interpreter", None, Part.MACHINERY),
        (None, None, Part.MACHINERY),
        # The C++ library, compiled into the program.
        ("std::vector<app::A>::reserve(unsigned long)", "/opt/app", Part.RUNTIME),
        ("void std::__invoke_impl<void, app::A>(app::A&&)", "/opt/app", Part.RUNTIME),
        ("std::shared_ptr<app::A> app::make<app::A>()", "/opt/app", Part.OWN),
        ("operator new(unsigned long)", CPP, Part.MACHINERY),
        ("core::ops::function::FnOnce::call_once", "/opt/rust", Part.RUNTIME),
        ("core::Engine::run()", "/opt/engine", Part.OWN),
        # Others.
        ("runtime.cgocall", "/opt/go", Part.MACHINERY),
        ("main.remember", "/opt/go", Part.OWN),
        ("Perl_runops_standard", "/usr/bin/perl", Part.MACHINERY),
        ("Perl_pp_anonhash", "/usr/bin/perl", Part.RUNTIME),
        ("g_main_context_iteration", "/usr/lib/libglib-2.0.so.0", Part.MACHINERY),
        ("create_pipe_files", "kernel", Part.OWN),
        ("do_syscall_64", "kernel", Part.MACHINERY),
        ("remember_node", "leaky_module", Part.OWN),
    ],
)  # fmt: skip
def test_part_of(function: str | None, module: str | None, part: Part) -> None:
    assert place_of(Frame(0x10, function, 1, module)).part is part


def test_libc_is_one_line_after_own_frames() -> None:
    stack = frames(("remember", "/opt/app"), ("main", "/opt/app"), *START)
    assert said(folded(stack)) == ["remember", "main", "3 of libc"]


def test_one_frame_is_not_folded() -> None:
    stack = frames(("remember", "/opt/app"), ("uv_run", "/opt/app"), ("main", "/opt/app"))
    assert said(folded(stack)) == ["remember", "uv_run", "main"]


def test_a_python_program_shows_what_the_interpreter_was_told_to_do() -> None:
    loop = [("_PyEval_EvalFrameDefault", PYTHON), ("_PyFunction_Vectorcall", PYTHON)] * 3
    json = "/usr/lib/python3.11/lib-dynload/_json.cpython-311.so"
    stack = frames(
        ("_PyObject_Malloc", PYTHON), ("new_arena", PYTHON), ("PyUnicode_New", PYTHON),
        *[(f"scan_{depth}", json) for depth in range(9)], ("scanner_call", json),
        ("_PyObject_MakeTpCall", PYTHON), *loop, ("list_append", PYTHON), *loop, *START,
    )  # fmt: skip
    assert said(folded(stack)) == [
        "_PyObject_Malloc",
        "new_arena",
        "PyUnicode_New",
        "9 of CPython",
        "scanner_call",
        "17 of CPython+libc",
    ]


def test_generated_code_with_names_is_shown() -> None:
    named = [("JS:^remember /a.js:2:18", None), ("JS:^request /a.js:3:17", None)]
    before = [
        ("node::NodeArrayBufferAllocator::Allocate(unsigned long)", NODE),
        ("v8::internal::Heap::Allocate()", NODE),
        ("JS:^alloc node:buffer:391:30", None),
    ]
    after = [("Builtins_JSEntry", NODE), ("node::Start(int, char**)", NODE), ("uv_run", NODE)]
    assert said(folded(frames(*before, *named, *after, *START))) == [
        before[0][0],
        before[1][0],
        before[2][0],
        named[0][0],
        named[1][0],
        "6 of V8+Node.js+libuv+libc",
    ]


def test_the_function_that_the_program_called_is_shown() -> None:
    gtk = "/usr/lib/libgtk-3.so.0"
    stack = frames(
        ("g_malloc", "/usr/lib/libglib-2.0.so.0"),
        *[(f"gtk_inner_{depth}", gtk) for depth in range(20)],
        ("gtk_window_new", gtk),
        ("open_window", "/opt/app"),
    )
    assert said(folded(stack)) == [
        "g_malloc", "gtk_inner_0", "gtk_inner_1", "18 of libgtk-3.so.0", "gtk_window_new",
        "open_window",
    ]  # fmt: skip


def test_a_deep_stack_keeps_the_own_frames_nearest_the_leaf() -> None:
    stack = frames(*[(f"own_{depth}", "/opt/app") for depth in range(100)])
    assert said(folded(stack)) == [*(f"own_{depth}" for depth in range(5)), "95 of app"]
    assert said(folded(stack, None)) == [f"own_{depth}" for depth in range(100)]


def test_recursion_counts_its_frames() -> None:
    walk, start = Frame(0x10, "walk", 1, "/opt/app"), frames(*START)
    assert said(folded([walk] * 50 + start)) == ["walk", "x49", "3 of libc"]
    leaf = frames(*[(f"own_{depth}", "/opt/app") for depth in range(5)])
    assert said(folded(leaf + [walk] * 50))[-1] == "50 of app"


NAMES = [None, "own_a", "own_b", "uv_run", "std::sort<int>(int*)", "v8::Isolate::Enter()", "_start"]
MODULES = [None, "/opt/app", "/usr/lib/libz.so.1", LIBC, PYTHON, NODE]
ANY_FRAME = st.builds(
    Frame,
    st.integers(1, 9),
    st.sampled_from(NAMES),
    st.just(1),
    st.sampled_from(MODULES),
    inlined=st.booleans(),
)


@given(st.lists(ANY_FRAME, max_size=40), st.sampled_from([None, 1, 6, 9]))
def test_every_frame_is_shown_or_counted(stack: list[Frame], most_lines: int | None) -> None:
    shown, at = folded(stack, most_lines), 0
    for one in shown:
        match one:
            case Frame():
                assert stack[at] == one
                at += 1
            case Repeats():
                assert stack[at : at + one.length * one.times] == (
                    stack[at - one.length : at] * one.times
                )
                at += one.length * one.times
            case FoldedRun():
                assert one.count > 1
                assert one.whose
                at += one.count
    assert at == len(stack)
    if stack:
        assert shown[0] == stack[0]
    first_own = next((frame for frame in stack if is_own(frame)), None)
    assert first_own is None or first_own in shown
    if most_lines is None:
        assert all(frame in shown for frame in stack if is_own(frame))
