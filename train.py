"""Train an image classifier with MixUp, Manifold Mixup or CutMix.

python train.py: handwritten digits with Manifold Mixup, some fifteen seconds on two CPU cores.

python train.py --mix cutmix --alpha 0.5: another method; --mix mixup:0.8+cutmix:1.0: one of two for each batch.

python train.py --dataset fashion_mnist --epochs 5: any image-classification set of TFDS that is in data-dir.

python train.py --resume runs/digits-manifold-0: go on with a run that was cut off.

python train.py compare: train with every method, and write a report of what each does; compare --help tells more.

python train.py predict runs/digits-manifold-0 photo.jpg folder/: what is on images; evaluate and export: --help tells.

python train.py --config recipes/deit_s.toml --epochs 9: as a file says, or a run's config.json, but for what follows.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import io
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    gc.disable()  # until all is imported: it would look through all modules again and again, and find nothing
    if (heard := signal.getsignal(signal.SIGINT)) is signal.default_int_handler:  # its traceback would be of an import
        ended = b"train.py: stopped by SIGINT before it began.\n"
        signal.signal(signal.SIGINT, lambda *_: (os.write(2, ended), os._exit(128 + signal.SIGINT)))

from flax import nnx

try:
    from jax_mix._checks import shown, suggest
    from jax_mix.training import devices, needed, programs  # noqa: F401 - needed says what is not installed
except ModuleNotFoundError as error:  # it says what to install
    sys.exit(f"train.py: {error}")

from jax_mix.training import run as run_files
from jax_mix.training.build import described, layers_table, load, prepare, resolve
from jax_mix.training.checkpoints import Checkpoints
from jax_mix.training.command_line import parse
from jax_mix.training.config import HELP, MAY_DIFFER, OF_EACH_PROCESS, Config
from jax_mix.training.errors import Stopped, UserError, require
from jax_mix.training.files import one_line
from jax_mix.training.logs import Logs
from jax_mix.training.loop import train
from jax_mix.training.methods import told_in_groups


def main(args: Sequence[str] | None = None) -> int:
    """Returns 0; 2 after one sentence on stderr of what cannot be used; after a signal, 128 and its number."""
    args = sys.argv[1:] if args is None else args
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path need not be of letters that can be printed
    name, flags = (args[0], args[1:]) if args and not args[0].startswith("-") else (None, args)
    try:
        if name is not None and name not in COMMANDS:
            raise UserError(f"there is no command {shown(name)}: {suggest(name, COMMANDS)} Without one it trains.")
        command = train_command if name is None else importlib.import_module(COMMANDS[name]).main
        command(flags)
    except (UserError, OSError) as error:  # an OSError says in a sentence of its own which file it is about
        print(f"train.py: {one_line(str(error))}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(f"train.py: {stopped}", file=sys.stderr)
        return 128 + stopped.number
    except KeyboardInterrupt:
        print("train.py: stopped by SIGINT, outside of training.", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def train_command(flags: Sequence[str]) -> None:
    """`python train.py`: one run, of one process or of several."""
    config = parse(flags, Config, description=__doc__)
    if config.layers == HELP:
        return print(layers_table(config))
    devices.keep_collectives_in_order(processes=config.coordinator is not None)
    if config.coordinator:
        devices.join(config.coordinator, config.num_processes, config.process_id)
    kept = programs.keep(config.cache_dir)
    with devices.together(), contextlib.nullcontext() if devices.is_first() else contextlib.redirect_stdout(None):
        run(config)
        if kept:
            kept.tell()


# Each is a module's `main`, imported when it is asked for: a run does without all that. Without one: train_command.
COMMANDS = {
    "compare": "jax_mix.compare.command",
    "predict": "jax_mix.training.predicting",
    "evaluate": "jax_mix.training.evaluating",
    "export": "jax_mix.training.exporting",
}


def run(config: Config) -> tuple[nnx.Module, dict[str, Any]]:
    """What a run goes through: load, train and evaluate, write the results.

    Returns:
      The model, and what is in metrics.json, as `metrics_of` says.

    Raises:
      UserError: something in `config` cannot be used.
      Stopped: SIGINT or SIGTERM came.
    """
    start, first = time.perf_counter(), devices.is_first()
    folder = Path(devices.decided_by_first(lambda: str(run_files.choose_folder(config))))

    # 1. The data, and all else that the run is made of.
    config, dataset = devices.in_every_process(lambda: ((resolved := resolve(config)), load(resolved)))
    print(dataset)
    differs = devices.disagreement(described(config, dataset), of_each=OF_EACH_PROCESS)
    require(not differs, f"--process-id: {differs}: all processes need the same flags and data.")
    prepared = devices.in_every_process(lambda: prepare(config, dataset))
    config = prepared.config
    print(f"mixing: {told_in_groups(prepared.recipe.method, devices.make_mesh(config.devices).size)}")

    # 2. Training, with an evaluation after each epoch: jax_mix/training/loop.py, its step in step.py.
    with (
        run_files.locked_run(folder, config) as beside,
        Checkpoints(folder / "checkpoints", described(config, dataset), may_differ=MAY_DIFFER) as checkpoints,
        run_files.best_checkpoints(folder, config, dataset) as best,
    ):
        picture = run_files.begin(folder, prepared, beside, checkpoints)
        model, history = train(prepared, checkpoints, Logs(folder) if first else None, best=best, meanwhile=picture)

        # 3. The results; a checkpoint that could not be saved is told after them.
        metrics = run_files.write_results(folder, prepared, model, history, picture)
        print(f"wrote {folder} in {time.perf_counter() - start:.0f} s")
    return model, metrics


if __name__ == "__main__":
    gc.freeze()  # modules stay: from here on it looks through what is made after them alone
    gc.enable()
    if heard is signal.default_int_handler:
        signal.signal(signal.SIGINT, heard)
    atexit.register(gc.freeze)  # nor does the interpreter, when it ends
    sys.exit(main())
