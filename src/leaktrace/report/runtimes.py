"""Which frames are the program's own, and which belong to the runtime that carries it.

A report shows the program's own frames and folds runs of the others (report/folding.py). A frame is
judged by the name of its object; where a runtime is linked into an executable, by its function.
When in doubt, a frame counts as the program's own: then it is shown.

A runtime has two kinds of functions. Its *machinery* is on every stack or says nothing: loops that
interpret code or wait for events, calls of calls, the allocator. Its other functions say what it
did for the program: `list_append`, `Builtins_ArrayMap`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from leaktrace.printable import printable
from leaktrace.report.function_names import outermost_scope
from leaktrace.report.names import module_name
from leaktrace.site import Frame


class Part(Enum):
    """What a frame is part of."""

    OWN = "own"  # the program: its executable, its libraries and extensions, code that it generates
    LIBRARY = "library"  # a library of the distribution that is no runtime
    RUNTIME = "runtime"  # a function of a runtime that says what the runtime did
    MACHINERY = "machinery"  # one that says nothing


@dataclass(frozen=True)
class Place:
    """Where a frame belongs."""

    part: Part
    whose: str  # "CPython", "libc", "httpd"

    @property
    def says_something(self) -> bool:
        """Whether it is not own, but says what was done for the program."""
        return self.part in (Part.LIBRARY, Part.RUNTIME)


@dataclass(frozen=True)
class _Runtime:
    """`modules`: file names of its objects; `machinery`: functions; both match in full."""

    name: str
    modules: re.Pattern[str]
    machinery: re.Pattern[str] | None = None  # None: all of its functions
    nameless_too: bool = True  # functions without names are machinery (most of them are static)


# Of C++ and Rust: both are called std, and their templates are compiled into programs.
STANDARD_LIBRARY = "the standard library"


def _re(text: str) -> re.Pattern[str]:
    return re.compile(text, re.VERBOSE)


# How a program and its threads start. Parts of it are in the executable itself.
_START = _re(
    r"""_start | _start_c | __libc_start_(?:main|call_main)\w* | generic_start_main
    | (?:__)?libc_start_main\w* | start_thread | (?:__GI_)?_*clone3? | thread_start
    | __libc_csu_init | call_init | _dl_(?:init|start_user|relocate_object) | _dl_catch_\w+"""
)

# Functions that forward a request for memory, whatever they are called: xmalloc, zrealloc.
_WRAPPER = _re(r"\w*(?:malloc|calloc|realloc|zalloc|strdup|strndup|memdup)(?:_\w+)?")

_RUNTIMES = (
    _Runtime(
        "libc",
        _re(
            r"""lib(?:c|pthread|dl|m|rt|resolv|anl)[-.]\S* | ld-(?:linux|musl|[\d.]+)\S*
            | libc\.musl\S* | \[?vdso\]?"""
        ),
        _re(r"__nptl_\w+ | __run_exit_handlers | _?exit | __cxa_\w+ | qsort\w* | bsearch"),
    ),
    _Runtime(
        STANDARD_LIBRARY,
        _re(r"lib(?:stdc\+\+|c\+\+|c\+\+abi|gcc_s)\.\S+"),
        _re(
            r"operator\ (?:new|delete).* | __cxa_\w+ | _Unwind_\w+ | execute_native_thread_routine"
        ),
    ),
    _Runtime(
        "CPython",  # Debian's python3 contains the interpreter; others are in libpython
        _re(r"python[\d.]*[a-z]* | libpython\S+"),
        _re(
            r"""_?PyEval_\w+ | eval_\w+ | run_eval_code_obj | run_mod | pyrun_\w+ | _?PyRun_\w+
            | pymain_\w+ | _?Py_(?:RunMain|BytesMain|Main|InitializeMain) | main
            | _?PyFunction_Vectorcall | _?PyVectorcall_\w+ | \w*[Vv]ectorcall\w* | _?PyCFunction_\w+
            | (?:cfunction|method|function|object|wrapper|slot|type)_(?:v\w*call\w*|call\w*|tp_\w+)
            | wrap_\w+ | slot_\w+ | cfunction_\w+ | method_\w+ | builtin_(?:exec|eval)\w*
            | _?PyObject_(?:\w*Call\w*|GC_\w+|Malloc|Calloc|Realloc|Arena\w+) | do_call_core
            | _?PyType_(?:GenericAlloc|AllocNoTrack) | gc_alloc | _?PyMem_\w+ | _?PyObject_New\w*
            | new_arena | allocate_from_new_pool | pymalloc_\w+ | arena_map\w* | object_vacall
            | call_function | trace_call_function | function_code_fastcall | fast_function
            | gen_(?:send|iternext|close)\w* | _?PyGen_\w+ | thread_run | pythread_wrapper
            | import_\w+ | _?PyImport_\w+ | builtin___\w+ | context_run | builtin___build_class__\w*
            | partial_\w+ | bounded_lru_cache_wrapper | PyIter_\w+"""
        ),
    ),
    _Runtime(
        "Perl",
        _re(r"perl[\d.]* | libperl\S+"),
        _re(
            r"""Perl_(?:runops_\w+|call_\w+|eval_\w+|pp_entersub|safesys\w+|amagic_call) | perl_\w+
            | S_(?:run_body|docatch|doeval\w*) | main"""
        ),
    ),
    _Runtime(
        "Ruby",
        _re(r"ruby[\d.]* | libruby\S+"),
        _re(
            r"""rb_vm_\w+ | vm_\w+ | rb_v?rescue2? | rb_ensure | rb_protect | rb_func\w+
            | rb_yield\w* | rb_call\w* | ruby_\w+ | rb_(?:threadptr|postponed_job|gc|objspace)_\w+
            | rb_x\w+ | rb_(?:block|iterate|proc|method|obj)_call\w* | rb_ec_\w+ | rb_iseq_\w+
            | objspace_\w+ | invoke_\w+ | rescue_\w+ | thread_\w+ | call_cfunc_\w+ | main"""
        ),
    ),
    _Runtime(
        "Lua",
        _re(r"lua(?:jit)?[\d.-]*\S* | liblua\S+"),
        _re(r"lua[VDM]_\w+ | luaC_newobj\w* | lua_p?callk? | l_alloc | docall | pmain | main"),
    ),
    _Runtime(
        "PHP",
        _re(r"php[\d.]*(?:-\w+)? | libphp\S+"),
        _re(
            r"""execute_ex | zend_execute\w* | zend_call_\w+ | _?call_user_function\w*
            | php_execute_\w+ | _e(?:m|c|re)alloc\w* | zend_mm_\w+ | (?:ZEND_)?\w+_HANDLER
            | do_cli | main"""
        ),
    ),
    _Runtime(
        "the JVM",
        _re(r"java | lib(?:jvm|java|jli|verify|jimage)\.so"),
        _re(
            r"""Java(?:Calls|Main|Thread)\S* | Java[CT]\w+::.* | os::.* | AllocateHeap\S*
            | Arena::.* | Thread::call_run.* | thread_native_entry.* | ThreadJavaMain | Chunk\w*::.*
            | jni_\w+\S* | ResourceObj::.* | CHeapObj\S* | NMT\S*::.* | call_continuation | main"""
        ),
    ),
    _Runtime("Node.js", _re(r"node(?:js)? | libnode\S+ | electron"), _re("main")),
    _Runtime(".NET", _re(r"lib(?:coreclr|clrjit|clrgc|hostfxr|hostpolicy)\.so | dotnet")),
    _Runtime("libuv", _re(r"libuv\S*"), _re(r"uv__\w+ | uv_run")),
    _Runtime("libevent", _re(r"libevent\S*"), _re(r"event_\w+ | bufferevent_run_\w+")),
    _Runtime("libev", _re(r"libev\.\S+")),
    _Runtime(
        "GLib",
        _re(r"lib(?:glib|gobject|gio|gthread|gmodule)-2\S+"),
        _re(
            r"""g_main_\w+ | g_(?:try_)?(?:malloc|calloc|realloc)\w* | g_slice_\w+ | g_thread_\w+
            | g_signal_emit\w* | signal_emit_\w+ | g_closure_\w+ | g_cclosure_\w+ | g_idle_dispatch
            | g_timeout_dispatch | g_application_run | g_object_new\w* | g_type_create_instance"""
        ),
    ),
    _Runtime(
        "systemd's event loop", _re(r"libsystemd\S*"), _re(r"sd_event_\w+ | source_dispatch"), False
    ),
    _Runtime(
        "Qt",
        _re(r"libQt\dCore\S*"),
        _re(
            r"""Q(?:Core|Gui)?Application\w*::.* | QEventLoop::.* | QMetaObject::.*
            | QObject::event.* | QEventDispatcher\w+::.* | QThreadPrivate::.*
            | QTimerInfoList::.* | QtPrivate::.* | QArrayData::.* | qMalloc\S*"""
        ),
    ),
    _Runtime("libffi", _re(r"libffi\S+")),
    _Runtime("OpenMP", _re(r"lib(?:gomp|omp|iomp5)\.\S+")),
    _Runtime("jemalloc", _re(r"libjemalloc\S+")),
    _Runtime("tcmalloc", _re(r"libtcmalloc\S+")),
    _Runtime("mimalloc", _re(r"libmimalloc\S+")),
)

# Machinery by function alone, wherever it is linked into.
_LINKED_IN = (
    ("libuv", _re(r"uv__\w+ | uv_run")),
    ("libevent", _re(r"event_base_(?:loop|dispatch) | event_process_active\w*")),
    ("libev", _re(r"ev_(?:run|loop|invoke_pending)")),
    ("GLib", _re(r"g_main_(?:loop_run|context_\w+|dispatch)")),
    (
        "the Go runtime",
        _re(r"runtime[./]\S+ | _cgo_\w+ | x_cgo_\w+ | crosscall\w+ | _rt0_\w+ | cgocallback\S*"),
    ),
    (
        "CPython",
        _re(
            r"""_?PyEval_\w+ | _?PyFunction_Vectorcall | _?PyObject_\w*(?:Call|Vectorcall)\w*
            | Py_(?:RunMain|BytesMain|Main) | pymain_\w+"""
        ),
    ),
    (
        "the kernel's entry code",
        _re(
            r"""entry_SYSCALL\w* | do_syscall_\w+ | x64_sys_call | el0t?_\w+ | invoke_syscall\S*
            | el0_svc\w* | ret_from_fork\w* | kthread | worker_thread | process_one_work
            | asm_sysvec_\w+ | asm_common_interrupt"""
        ),
    ),
)

# V8 is linked into node and Electron. Its names are all in one namespace, or begin with Builtins_.
_V8_MACHINERY = _re(
    r"""v8::base::.* | .*\bv8::internal::(?:VirtualMemory|MemoryAllocator|\w*Space\w*|Heap|Factory
        |FactoryBase\S*|\w*Allocator\w*|Execution|FunctionCallbackArguments|BackingStore
        |MemoryChunk\w*|LocalAllocationBuffer)\b.*
    | v8::internal::Runtime_Allocate.* | .*::Invoke\(.* | .*HandleApiCall.* | v8::Function::Call.*
    | v8::(?:internal::)?(?:Microtask|PageAllocator|ArrayBuffer::NewBackingStore).*
    | Builtins_(?:CEntry|JSEntry|JSConstruct|JSBuiltinsConstruct|Interpreter|Call|Construct
        |BaselineEnter|RunMicrotasks|AsyncFunction|PromiseReaction|PromiseFulfill|Adaptor)\w*"""
)
_NODE_MACHINERY = _re(
    r"""node::(?:Environment|NodeMainInstance|SpinEventLoop|Start|LoadEnvironment|StartExecution
        |InternalMakeCallback|InternalCallbackScope|MakeCallback|AsyncWrap|StreamBase|LibuvStream
        |NodeArrayBufferAllocator|Malloc|UncheckedMalloc|Realloc|CallbackScope|CustomBufferJS
        |builtins|worker|PerIsolatePlatformData|NodePlatform)\w*.*"""
)

# Namespaces of the C++ library, the first one of Rust's, too.
_LIBRARY_SCOPES = ("std", "__gnu_cxx", "__cxxabiv1")
# What debug information calls functions of the C++ library that are inlined, without a namespace.
_INVOKED = _re(r"(?:_?_invoke(?:_impl)?|__invoke_r)<.*")
# The rest of Rust's. (Only these modules: a C++ program may have a namespace called core.)
_RUST = re.compile(
    r"<?(?:core::(?:ops|iter|slice|ptr|option|result|array|convert|str|fmt|mem|cell|any|future)"
    r"|alloc::(?:vec|string|boxed|collections|rc|sync|raw_vec|alloc|borrow|slice|str|fmt)"
    r"|hashbrown::\w+)\b"
)

# Code that is in no file and has a name, from a perf map, but was written by a runtime's makers.
_GENERATED_BY_RUNTIME = (
    (Part.RUNTIME, "Node.js", re.compile(r"JS:.* node:")),
    (Part.MACHINERY, "V8", re.compile(r"(?:Builtin|BytecodeHandler|Stub):")),
    (Part.RUNTIME, "CPython", re.compile(r"py::.*:<frozen ")),
    (
        Part.MACHINERY,
        "the JVM",
        re.compile(r"Interpreter$|StubRoutines|call_stub|I2C/C2I|(?:itable|vtable) stub"),
    ),
)

_DISTRIBUTION = re.compile(r"(?:/usr(?:/local)?)?/lib(?:x?32|64)?/(?:[\w-]+-linux-\w+/)?[^/]+$")
_SHARED_OBJECT = re.compile(r"\.so(?:\.|$)")
# Extensions that come with an interpreter say what it did, as its own functions do.
_BUNDLED = re.compile(r"/lib-dynload/")


def place_of(frame: Frame) -> Place:
    """Where a frame belongs."""
    return _place(frame.function, frame.module)


def is_own(frame: Frame) -> bool:
    """Whether a frame is the program's own."""
    return place_of(frame).part is Part.OWN


def is_of_library(frame: Frame) -> bool:
    """Whether a frame's function is the C++ library's, by its name."""
    return outermost_scope(printable(frame.function or "")) in _LIBRARY_SCOPES


@lru_cache(maxsize=16_384)
def _place(function: str | None, module: str | None) -> Place:
    if function is not None and _START.fullmatch(function):
        return Place(Part.MACHINERY, "libc")
    if module is None or not module.startswith(("/", "kernel", "[vdso")):
        return _place_of_generated(function, module)
    name = module_name(module)
    for of_runtime in (_by_linked_function, _by_scope):
        if function is not None and (found := of_runtime(function, name)) is not None:
            return found
    runtime = _runtime_of(name)
    if runtime is not None:
        return _place_in(runtime, function)
    if _BUNDLED.search(module):
        return Place(Part.RUNTIME, "CPython")
    if function is not None and _WRAPPER.fullmatch(function):
        return Place(Part.MACHINERY, name)
    is_library = _DISTRIBUTION.match(module) and _SHARED_OBJECT.search(name)
    return Place(Part.LIBRARY if is_library else Part.OWN, name)


@lru_cache(maxsize=1024)
def _runtime_of(module: str) -> _Runtime | None:
    """The runtime to which a module belongs, by its name."""
    return next((one for one in _RUNTIMES if one.modules.fullmatch(module)), None)


def _place_of_generated(function: str | None, module: str | None) -> Place:
    """Of code that is in no file."""
    if function is None:
        return Place(Part.MACHINERY, "code without names")
    for part, name, expression in _GENERATED_BY_RUNTIME:
        if expression.match(function):
            return Place(part, name)
    return Place(Part.OWN, module_name(module) if module else "generated code")


def _by_linked_function(function: str, _module: str) -> Place | None:
    for name, expression in _LINKED_IN:
        if expression.fullmatch(function):
            return Place(Part.MACHINERY, name)
    return None


def _by_scope(function: str, module: str) -> Place | None:
    if _RUST.match(function):
        return Place(Part.RUNTIME, STANDARD_LIBRARY)
    scope = "v8" if function.startswith("Builtins_") else outermost_scope(printable(function))
    if scope in _LIBRARY_SCOPES or _INVOKED.fullmatch(function):
        return Place(Part.RUNTIME, STANDARD_LIBRARY)
    if scope in ("v8", "cppgc"):
        return Place(_machinery_if(_V8_MACHINERY, function), "V8")
    if scope == "node" and _is_node(module):  # a C++ program may have a namespace of that name
        return Place(_machinery_if(_NODE_MACHINERY, function), "Node.js")
    return None


_is_node: Callable[[str], object] = next(r for r in _RUNTIMES if r.name == "Node.js").modules.match


def _place_in(runtime: _Runtime, function: str | None) -> Place:
    if function is None:
        return Place(Part.MACHINERY if runtime.nameless_too else Part.RUNTIME, runtime.name)
    if runtime.machinery is None or _WRAPPER.fullmatch(function):
        return Place(Part.MACHINERY, runtime.name)
    return Place(_machinery_if(runtime.machinery, function), runtime.name)


def _machinery_if(expression: re.Pattern[str], function: str) -> Part:
    return Part.MACHINERY if expression.fullmatch(function) else Part.RUNTIME
