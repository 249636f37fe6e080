"""What trains: data, networks, the step and its loop, and what a run leaves. It needs the extra "train".

Networks, optimizers and the step are imported with optax and orbax alone; `needed.py` says what a run needs.

| asked                                  | answered in                                                          |
|----------------------------------------|----------------------------------------------------------------------|
| which flags are there, what may be given | `config.py`, with `checks.py` and `command_line.py`                 |
| what is made of them                   | `build.py`: the model, from `weights.py`; the method, the optimizer   |
| what a step does: draw, mix, loss      | `step.py`, with `methods.py`, `losses.py`, `ema.py`                   |
| what happens when                      | `loop.py`, with `evaluation.py`, `signals.py`, `failed_step.py`       |
| what is written                        | `run.py`, with `checkpoints.py`, `logs.py`, `plots.py`, `files.py`    |
| what can be done with a run            | `trained.py`; `predicting.py`, `evaluating.py`, `exporting.py`        |
| what is trained, and on what           | `models/`, `optimizers.py`; `data/`; `devices.py`                     |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax_mix.training.trained import Trained, load_run

__all__ = ["Trained", "load_run"]


def __getattr__(name: str) -> Any:
    """`load_run` and what it gives, imported when they are asked for: who trains has no need of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from jax_mix.training import needed, trained  # noqa: F401 - the first says what is not installed

    return getattr(trained, name)
