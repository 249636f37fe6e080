"""JAX made quicker in tests, which compile some ten thousand small programs: the same programs, made with less work."""

import functools

import jaxlib.version
from jax._src import compiler, core
from jax._src.interpreters import mlir

# Most of the time of an unoptimised compilation goes to fusions made by way of MLIR, and to cutting a program into 32
# pieces for so many cores. XLA's older way makes the same of them. Newer versions know no other way than the new one.
_OLD_XLA = jaxlib.version.__version_info__ < (0, 11)
_SIMPLE = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1} if _OLD_XLA else {}
FLAGS = " ".join(f"--{flag}={str(setting).lower()}" for flag, setting in _SIMPLE.items())


def install(unoptimized):
    """XLA reads its flags once a process, and JAX has no public way to what is set here.

    Args:
      unoptimized: says whether a program is now to be compiled without optimisations, for which the flags are.
    """
    get_compile_options = compiler.get_compile_options

    @functools.wraps(get_compile_options)
    def with_flags(*args, **kwargs):
        options = get_compile_options(*args, **kwargs)
        if unoptimized():
            options.env_option_overrides = [*options.env_option_overrides, *_SIMPLE.items()]
        return options

    compiler.get_compile_options = with_flags
    # Each program is written in a context of its own, whose making takes as long as a small program's lowering.
    mlir.make_ir_context = functools.cache(mlir.make_ir_context)
    # Flax asks each value it sets for its sharding. A traced one has none: JAX writes an error that tells all of the
    # program so far, and Flax throws it away.
    if _OLD_XLA:
        core.Tracer.sharding = property(_no_sharding)


def _no_sharding(tracer):
    raise AttributeError(f"a {type(tracer).__name__} has no sharding")
