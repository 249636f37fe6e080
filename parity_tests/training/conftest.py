"""One short run that all tests of what is done with a run share."""

import pytest


@pytest.fixture(scope="session")
def finished_run(data_dir, tmp_path_factory):
    """Its folder, and what it printed; its weights are averaged, so that taking the last ones shows."""
    import contextlib  # after the settings of the other conftest.py
    import io

    import train
    from jax_mix.training.config import Config

    out, said = tmp_path_factory.mktemp("finished"), io.StringIO()
    flags = {"mix": "none", "epochs": 3, "width": 4, "ema": 0.8, "devices": 1}
    with contextlib.redirect_stdout(said):
        train.run(Config(data_dir=data_dir, out=str(out), name="it", **flags))
    return out / "it", said.getvalue()
