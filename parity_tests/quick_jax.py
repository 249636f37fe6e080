"""JAX made quicker in tests, which compile some ten thousand small programs: the same programs, made with less work."""

import contextlib
import functools
import threading

import jax
import jaxlib.version
from jax._src import compiler, core
from jax._src.interpreters import mlir

_OLD = jaxlib.version.__version_info__ < (0, 11)
# Most of the time of an unoptimised compilation goes to fusions made by way of MLIR, and to cutting a program into 32
# pieces for so many cores. XLA's older way makes the same of them. Newer versions know no other way than the new one.
_SIMPLE = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1} if _OLD else {}
_optimize = True


def flags():
    """What XLA_FLAGS has to hold in a process that is started now, for its programs to be compiled as this one's."""
    return "" if _optimize else " ".join(f"--{flag}={str(setting).lower()}" for flag, setting in _SIMPLE.items())


def set_optimizations(wanted):
    """Whether the programs compiled from here on are optimised."""
    global _optimize
    if wanted != _optimize:
        _optimize = wanted
        jax.clear_caches()  # programs are kept without a word of it


@contextlib.contextmanager
def unoptimized():
    """What a compiled program is compared with is computed another way, and sooner."""
    before = _optimize
    set_optimizations(False)
    try:
        yield
    finally:
        set_optimizations(before)


def install():
    """XLA reads its flags once a process, and JAX has no public way to what is set here."""
    jax.config.update("jax_disable_most_optimizations", False)  # instead
    get_compile_options = compiler.get_compile_options

    @functools.wraps(get_compile_options)
    def get(*args, **kwargs):
        options = get_compile_options(*args, **kwargs)
        if not _optimize:
            debug = options.executable_build_options.debug_options
            debug.xla_backend_optimization_level = 0
            debug.xla_llvm_disable_expensive_passes = True
            options.env_option_overrides = [*options.env_option_overrides, *_SIMPLE.items()]
        return options

    compiler.get_compile_options = get
    if _OLD:  # newer versions of JAX do both themselves
        # A program is written in a context of its own, whose making takes as long as a small program's lowering.
        mlir.make_ir_context = functools.partial(_used_again, mlir.make_ir_context, threading.local())
        # Flax asks each value that it sets for its sharding. A traced one has none: JAX makes an error that tells all
        # of the program so far, and Flax throws it away.
        core.Tracer.sharding = property(_no_sharding)


def _used_again(make, local):
    """Ten programs of a thread share a context, which keeps all that was written in it."""
    local.uses = getattr(local, "uses", 0) + 1
    if local.uses % 10 == 1:
        local.context = make()
    return local.context


def _no_sharding(tracer):
    raise AttributeError(f"a {type(tracer).__name__} has no sharding")
