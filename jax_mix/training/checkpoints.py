"""Checkpoints of a run: written while it trains, whole or not at all, and checked before they are used.

Orbax writes and reads the arrays. What it does not notice is checked here: a changed byte, another dtype.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jax_mix.training import checksums, devices
from jax_mix.training.errors import UserError, require
from jax_mix.training.files import check_writable

_UNFINISHED = ".orbax-checkpoint-tmp"  # what Orbax appends to a checkpoint's name until all is written


class Checkpoints:
    """The checkpoints of one run, in a folder of their own.

    Each is a folder named by its step, with a pytree of arrays, the run's config and its history. With several
    processes (`jax.distributed`), every process makes this object and calls its methods, on a folder they all see.

    >>> import tempfile, jax.numpy as jnp
    >>> folder, config = Path(tempfile.mkdtemp()) / "checkpoints", {"batch_size": 64}
    >>> with Checkpoints(folder, config) as checkpoints:
    ...     checkpoints.save(100, {"weight": jnp.ones(3)}, [{"epoch": 1, "loss": 0.5}])
    >>> with Checkpoints(folder, config) as checkpoints:
    ...     checkpoints.restore({"weight": jnp.zeros(3)})
    (100, {'weight': Array([1., 1., 1.], dtype=float32)}, [{'epoch': 1, 'loss': 0.5}])

    Args:
      folder: where they are or will be; made when first needed.
      config: what the run depends on, anything that JSON can hold. A run of another config cannot be continued.
      keep: how many are kept, the newest; two, for one to be left if the newest is damaged.
      may_differ: keys of `config` that may be another when the run is continued, such as where it writes to.

    Raises:
      UserError: the folder cannot be written; or, on leaving, the last checkpoint could not be saved.
    """

    # One thread for all folders: Orbax numbers the saves of a process, and confuses two that are begun at a time.
    _beside = ThreadPoolExecutor(1)

    def __init__(
        self, folder: Path, config: Mapping[str, Any], *, keep: int = 2, may_differ: Collection[str] = ()
    ) -> None:
        check_writable(folder)
        for name in ("absl", "asyncio"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # Orbax logs, at length, what it also raises
        self.folder = folder.absolute()
        self._config = json.loads(json.dumps(config))  # as it will be read: no tuples
        self._may_differ = frozenset(may_differ)
        self._step = 0  # of the last save
        self._failure: str | None = None  # of the last save
        self._keep = keep
        self._begun: Future[Any] | None = None  # what Orbax does before its own threads write

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.wait()
        if "_manager" in vars(self):
            self._manager.close()
        if self._failure and error is None:
            raise UserError(self._failure)

    @property
    def steps(self) -> list[int]:
        """The steps of the checkpoints there are, ascending."""
        self.wait()
        return steps_in(self.folder)

    def save(self, step: int, state: Any, history: Any) -> None:
        """Save a checkpoint: the arrays are copied now, and written by threads while training goes on.

        If a save fails, say because the disk is full, the next one says so on stderr, and training goes on: the older
        checkpoints are kept, and the next may find room again.

        Args:
          step: how many steps are done, more than at any checkpoint there is.
          state: pytree of arrays, typed keys among them, such as `nnx.state((model, optimizer))`.
          history: anything that JSON can hold.
        """
        self.wait()
        self._step, self._failure = step, None
        run = {"config": self._config, "history": history, "arrays": _describe(state)}
        run = json.loads(json.dumps(run))  # a copy: the run may append to its history before the thread is through
        # Before it returns Orbax copies what is on an accelerator, and makes folders, which takes longer than a small
        # network's step. What is in the host's memory already is copied here, and Orbax called beside; where processes
        # are several they call it in step.
        beside = jax.process_count() == 1 and all(map(devices.is_on_the_host, jax.tree.leaves(state)))
        if beside:
            state = jax.tree.map(_copied, state)
        try:
            if beside:
                self._begun = self._beside.submit(self._save, step, state, run)
            else:
                self._save(step, state, run)
        except Exception as error:
            self._fail(error)

    def _save(self, step: int, state: Any, run: dict[str, Any]) -> None:
        import orbax.checkpoint as ocp

        items = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
        self._manager.save(step, args=items, force=True)

    def restore(self, state_like: Any) -> tuple[int, Any, Any]:
        """Read the newest checkpoint that is not damaged; stderr names the damaged ones, which are kept aside.

        Args:
          state_like: pytree of arrays, or of `jax.ShapeDtypeStruct` with a sharding: what to restore, and on which
            devices, which need not be those it was saved from.

        Returns:
          Step, state and history, as they were saved, in dtypes too.

        Raises:
          UserError: there is no checkpoint, or only damaged ones; or it is of another config, or of other arrays.
        """
        require(bool(self.steps), f"--resume: there is no checkpoint in '{self.folder}'.")
        step, run = self._newest()
        self._check_config(run["config"])
        self._check_arrays(run["arrays"], _describe(state_like))
        from orbax.checkpoint import args

        items = args.Composite(state=args.StandardRestore(_with_dtypes(state_like, run["arrays"])))
        return step, self._manager.restore(step, args=items).state, run["history"]

    def forget(self, *, after: int) -> None:
        """Delete the checkpoints of later steps, which a run that goes on from `after` makes again."""
        for step in self.steps:
            if step > after:
                self._manager.delete(step)

    @functools.cached_property
    def _manager(self) -> Any:
        """Made when first used, and so the folder: nothing is left of a run that ends before."""
        self._remove_unfinished()
        _pass_over_closed_loops()
        import orbax.checkpoint as ocp  # here, as it takes a fifth of a second: it is imported beside training

        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep,
            save_root_metadata=False,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_checksums),
        )
        return ocp.CheckpointManager(self.folder, options=options)

    def _remove_unfinished(self) -> None:
        """What a killed or failed save has left: Orbax waits until the next save, for which a disk may be too full."""
        for unfinished in self.folder.glob("*" + _UNFINISHED) if jax.process_index() == 0 else ():
            shutil.rmtree(unfinished, ignore_errors=True)

    def wait(self) -> None:
        """Wait until the last save is through, or has failed."""
        begun, self._begun = self._begun, None
        try:
            if begun is not None:
                begun.result()
            if "_manager" in vars(self):
                self._manager.wait_until_finished()
        except Exception as error:  # whatever Orbax's threads met
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        number = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's, after much text
        code = int(number[1]) if number else getattr(error, "errno", None)
        reason = os.strerror(code) if code else textwrap.shorten(str(error), 200)
        manager = vars(self).pop("_manager", None)  # it would raise the error again at the next save; or none was made
        with contextlib.suppress(Exception):
            manager.close()
        self._remove_unfinished()
        steps = self.steps
        self._failure = f"the checkpoint of step {self._step} could not be saved in '{self.folder}' ({reason}); " + (
            f"that of step {steps[-1]} is kept." if steps else "there is none yet."
        )
        if jax.process_count() > 1:  # the others wait for this one, and would for long
            raise UserError(self._failure) from error
        print(self._failure, file=sys.stderr)

    def _write_checksums(self) -> None:
        """Orbax calls this, on process 0, when all files are written, just before a rename makes them a checkpoint."""
        checksums.write(self.folder / f"{self._step}{_UNFINISHED}")

    def _newest(self) -> tuple[int, dict[str, Any]]:
        """The newest checkpoint that is not damaged: its step and what it has besides arrays.

        Process 0 looks, and renames newer ones, which are damaged.
        """
        steps = self.steps[::-1]
        newest, damaged = -1, {}
        for step in steps if jax.process_index() == 0 else []:
            reason = checksums.damage(self.folder / str(step))
            if reason is None:
                newest = step
                break
            damaged[step] = reason
        for step, reason in damaged.items():
            # Renamed, as the run will save that step again; if none is whole, none will.
            then = f"; now '{self._set_aside(step)}', step {newest} is used" if newest >= 0 else ""
            print(f"the checkpoint '{self.folder / str(step)}' is damaged: {reason}{then}.", file=sys.stderr)
        newest = int(multihost_utils.broadcast_one_to_all(np.int32(newest)))
        require(newest >= 0, f"every checkpoint in '{self.folder}' is damaged: start anew with another --name.")
        self._manager.reload()
        from orbax.checkpoint import args

        items = args.Composite(run=args.JsonRestore())
        return newest, self._manager.restore(newest, args=items).run

    def _set_aside(self, step: int) -> str:
        path = self.folder / str(step)
        names = (path.with_name(f"{step}.damaged{i}") for i in itertools.count(1))
        return path.rename(next(name for name in names if not name.exists())).name

    def _check_config(self, saved: Mapping[str, Any]) -> None:
        told = differences(saved, self._config, self._may_differ)
        require(not told, f"--resume: the checkpoint in '{self.folder}' was made with {told}.")

    def _check_arrays(self, saved: dict[str, str], wanted: dict[str, str]) -> None:
        if differing := _differing(saved, wanted):
            raise UserError(
                f"--resume: the checkpoint in '{self.folder}' is of another model or optimizer: {differing[0]}; "
                f"so differ {len(differing)} of {len(saved.keys() | wanted.keys())} arrays."
            )


def steps_in(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, ascending."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if path.name.isdecimal())


def read_part(folder: Path, name: str, like: Any, *, or_else: str) -> tuple[int, Any]:
    """One part of the state in the newest checkpoint of a run that has ended; nothing in the folder is touched.

    Args:
      folder: of checkpoints.
      name: of the part, such as "model": a key of the state that was saved.
      like: pytree of arrays, which say what to restore, and on which devices.
      or_else: what to do if it is damaged, in words.

    Returns:
      Step and part, in the dtypes that were saved.

    Raises:
      UserError: there is no checkpoint; or the newest is damaged, or of other arrays.
    """
    steps = steps_in(folder)
    require(bool(steps), f"there is no checkpoint in '{folder}'.")
    path = folder.absolute() / str(steps[-1])
    damage = checksums.damage(path)
    require(damage is None, f"the checkpoint '{path}' is damaged: {damage}; {or_else}.")
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs what is of no concern to the user
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        run = checkpointer.restore(path, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
    saved = {key: array for key, array in run["arrays"].items() if key.startswith(f"{name}.")}
    wanted = _describe({name: like})
    if differing := _differing(saved, wanted):
        raise UserError(f"the checkpoint '{path}' is of another model: {differing[0]}.")
    target = _with_dtypes({name: like}, saved)
    arguments = ocp.args.PyTreeRestore(
        item=target, restore_args=ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
    )
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return steps[-1], checkpointer.restore(path / "state", args=arguments)[name]


def resuming(folder: Path) -> str:
    """The command that goes on with the run in `folder`."""
    return f"python train.py --resume {shlex.quote(str(folder))}"


def differences(saved: Mapping[str, Any], wanted: Mapping[str, Any], may_differ: Collection[str] = ()) -> str:
    """Which values of a saved config are not those wanted, in words; "" if there are none.

    >>> differences({"epochs": 20, "seed": 1}, {"epochs": 5, "seed": 1})
    '--epochs 20; now it is 5'

    Args:
      saved, wanted: names and values, as JSON has them.
      may_differ: names that are not looked at.
    """
    names = [name for name in sorted(saved.keys() | wanted.keys()) if name not in may_differ]
    names = [name for name in names if saved.get(name) != wanted.get(name)]
    # A flag that there was not yet, and that is not used: false, where None is equal already.
    names = [name for name in names if name in saved or wanted[name] is not False]
    was = ", ".join(f"--{name.replace('_', '-')} {_shown(saved.get(name))}" for name in names)
    now = " and ".join(_shown(wanted.get(name)) for name in names)
    return f"{was}; now {'it is' if len(names) == 1 else 'they are'} {now}" if names else ""


@functools.cache  # once in a process
def _pass_over_closed_loops() -> None:
    """When a save fails, which it tells, TensorStore's threads each print that nobody waits for them any more."""
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def _copied(a: jax.Array) -> Any:
    """A copy of an array in the host's memory: NumPy's, which has nothing to compile and Orbax writes twice as fast."""
    return jnp.copy(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else np.array(a)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _describe(tree: Any) -> dict[str, str]:
    """The name of each array, and its dtype and shape: "float32[3, 4]"."""
    return {_name(path): f"{a.dtype}{list(a.shape)}" for path, a in jax.tree_util.tree_leaves_with_path(tree)}


def _differing(saved: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """In what the arrays of a checkpoint differ from those that are wanted, one sentence each, without a stop."""
    return [
        f"{name} is {saved.get(name, 'missing')} there and {wanted.get(name, 'missing')} here"
        for name in sorted(saved.keys() | wanted.keys())
        if _to_agree(saved.get(name, "")) != _to_agree(wanted.get(name, ""))
    ]


def _to_agree(array: str) -> str:
    """What of an array's dtype and shape must be the same: the shape, and of keys all.

    optax makes some states float32 in the first step, those of bfloat16 parameters, so a new state has other dtypes.
    """
    return array if array.startswith("key") else array[array.find("[") :]


def _with_dtypes(like: Any, saved: Mapping[str, str]) -> Any:
    """`like` with the dtypes that were saved, because Orbax would round to those of `like`."""

    def leaf(path: Any, a: Any) -> Any:
        dtype = saved[_name(path)].partition("[")[0]
        if str(a.dtype) == dtype:
            return a
        return jax.ShapeDtypeStruct(a.shape, jnp.dtype(dtype), sharding=a.sharding)

    return jax.tree_util.tree_map_with_path(leaf, like)


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
