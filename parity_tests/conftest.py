"""Settings for every test, strict promotion and several devices, set before JAX starts; and the digits."""

import jax
import pytest

from jax_mix.training import devices

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
devices.keep_collectives_in_order(processes=False)


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
