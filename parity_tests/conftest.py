"""Settings for every test, strict promotion and several devices, set before JAX starts; and the digits."""

import atexit
import gc
import inspect
import os
import tempfile
from pathlib import Path

import jax
import pytest

from jax_mix.training import devices
from parity_tests import quick_jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
devices.keep_collectives_in_order(processes=False)

# Most tests ask what a program does, not how fast, and most of their time would go to compiling. So XLA optimises the
# programs of those alone that are marked as_users_run, or compare with the originals: what a compiler can get wrong is
# theirs to see. JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest: of all.
_VARIABLE = "JAX_DISABLE_MOST_OPTIMIZATIONS"
_PARITY = Path(__file__).parent / "parity"
_ALWAYS_OPTIMIZED = os.environ.get(_VARIABLE) == "0"
_FLAGS = os.environ["XLA_FLAGS"]  # set above
quick_jax.install()


_sources = {}


def _findsource(thing, find=inspect.findsource):
    """For the comments that are the flags' help, config.py was parsed anew at each of a thousand command lines."""
    if not (isinstance(thing, type) and thing.__module__.startswith("jax_mix.")):
        return find(thing)
    name = thing.__module__, thing.__qualname__
    if name not in _sources:
        _sources[name] = find(thing)
    return _sources[name]


inspect.findsource = _findsource


def pytest_configure(config):
    """What one process has compiled no other compiles again: pytest's own share a folder with those that they start."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="jax_mix-")
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
        # On some processors XLA takes its own kept programs for those of another machine, compiles them again, and says
        # so on stderr, where tests look for other words.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        jax.config.update("jax_compilation_cache_dir", folder.name)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_finish():
    """The garbage collector passes over what is imported by now, and comes less often: it took a twelfth of all."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
    atexit.register(gc.unfreeze)  # else MLIR complains of what is left when Python ends


def _one_pixel(figure, path, *, dpi=120):
    import PIL.Image

    PIL.Image.new("RGB", (1, 1)).save(path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """What holds in a test and in the fixtures that are made for it."""
    marked = item.get_closest_marker("as_users_run") or item.path.is_relative_to(_PARITY)
    value = "0" if _ALWAYS_OPTIMIZED or marked else "1"
    os.environ[_VARIABLE] = value  # of processes that the test starts
    quick_jax.set_optimizations(value == "0")
    os.environ["XLA_FLAGS"] = f"{_FLAGS} {quick_jax.flags()}".strip()
    with pytest.MonkeyPatch.context() as patch:
        # A picture takes half a second, a short run leaves three, and its test looks at none.
        if item.path.parent.name in ("training", "compare") and not item.get_closest_marker("pictures"):
            patch.setattr("jax_mix.training.plots.save", _one_pixel)
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """Decoded images are not kept in the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A TFDS folder in which the digits are prepared."""
    from jax_mix.training import data  # after the settings above

    folder = tmp_path_factory.mktemp("tfds")
    data.load("digits", str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def digits(data_dir):
    from jax_mix.training import data

    return data.load("digits", data_dir)
