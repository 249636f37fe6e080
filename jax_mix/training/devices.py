"""The devices a run is split over: those of one process, or of several, joined by JAX's own runtime."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from jax_mix.training import last_words, signals
from jax_mix.training.errors import UserError, require

Made = TypeVar("Made")
_HEARTBEAT = 30  # seconds without a sign of life of one process, or after its end, when JAX ends the others
_SCHEDULER = "--xla_cpu_enable_concurrency_optimized_scheduler"


def keep_collectives_in_order(*, processes: bool) -> None:
    """Where CPU devices are several, have each start its collectives in the same order: the program's.

    XLA's scheduler for CPU may order them otherwise on each device, which ends in a hang or in a "collective mismatch".
    It reads its flags when JAX is first asked for its devices: this must come before. A user's own setting stays.

    Args:
      processes: whether there will be several; otherwise several devices of this process are looked for.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    forced = re.search(r"--xla_force_host_platform_device_count=(\d+)", flags)
    count = int(forced[1]) if forced else jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    if (processes or count > 1) and _SCHEDULER not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_SCHEDULER}=false".strip()
        print(f"XLA_FLAGS={_SCHEDULER}=false, for several CPU devices to work together reliably", file=sys.stderr)


def join(coordinator: str, num_processes: int | None, process_id: int | None) -> None:
    """Join this process to the others of its run. Nothing may have asked JAX for its devices before.

    Args:
      coordinator: "host:port" of process 0, where the others find it; or "auto", where JAX knows the cluster.
      num_processes: how many there are; None with "auto".
      process_id: which of them this is, from 0; None with "auto".

    Raises:
      UserError: with "auto", JAX does not know this cluster; or the others did not come.

    Source: `jax.distributed.initialize`, which lists the clusters it knows.
    """
    address = None if coordinator == "auto" else coordinator
    unwatch = last_words.watch()
    try:
        with signals.at_once():
            if process_id is not None:
                told = f"process {process_id} of {num_processes}, waiting for the others at {coordinator}"
                print(told, file=sys.stderr)
            jax.distributed.initialize(
                address,
                num_processes,
                process_id,
                heartbeat_timeout_seconds=_HEARTBEAT,
                shutdown_timeout_seconds=_HEARTBEAT,
            )
    except (ValueError, RuntimeError) as error:
        unwatch()
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--coordinator {coordinator}: the processes could not be joined ({reason}).") from error


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Where another process is gone, end this one with a sentence of it, as no `finally` may wait for that one."""
    if jax.process_count() == 1:
        yield
        return
    try:
        yield
        _of_every_process("")  # all end together: JAX ends one that waits for the others for half a minute
    except jax.errors.JaxRuntimeError as error:
        if last_words.are_of_another(error):
            last_words.end(str(error))
        raise


def in_every_process(make: Callable[[], Made]) -> Made:
    """What `make` gives, in which processes do not wait for each other.

    Raises:
      UserError: `make` raises it, or an OSError, in any process; then in every one, for none to wait for it.
    """
    if jax.process_count() == 1:
        return make()
    told = ""
    try:
        made = make()
    except (UserError, OSError) as error:
        told = str(error)
    for i, text in enumerate(_of_every_process(told)):
        require(not text, told or f"in process {i}: {text}")
    return made


def decided_by_first(decide: Callable[[], str]) -> str:
    """What `decide` gives, which process 0 alone calls, in every process.

    Raises:
      UserError: `decide` raises it, or an OSError; then in every process.
    """
    if jax.process_count() == 1:
        return decide()
    text = ""
    if is_first():
        try:
            text = "=" + decide()
        except (UserError, OSError) as error:
            text = "!" + str(error)
    text = _of_every_process(text)[0]
    require(text.startswith("="), text[1:])
    return text[1:]


def make_mesh(count: int | None = None) -> Mesh:
    """A mesh of one axis, "batch", over all devices of all processes, or the first `count`.

    Raises:
      UserError: there are not so many; or fewer than all are asked for with several processes.
    """
    there = jax.devices()
    count = count or len(there)
    require(count <= len(there), f"--devices must be at most {len(there)}, all there are; got {count}.")
    require(
        count == len(there) or jax.process_count() == 1,
        f"--devices must be all {len(there)} with several processes, got {count}.",
    )
    # Auto, not Explicit: a user's own model need not say how each of its operations is split.
    return jax.make_mesh((count,), ("batch",), (AxisType.Auto,), devices=there[:count])


def split(mesh: Mesh) -> NamedSharding:
    """The first axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("batch"))


def everywhere(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """A copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def is_on_the_host(a: Any) -> bool:
    """Whether an array is one of JAX's, and all of it in this process's own memory."""
    whole = isinstance(a, jax.Array) and a.is_fully_addressable and a.is_fully_replicated
    return whole and all(device.platform == "cpu" for device in a.devices())


def disagreement(values: Mapping[str, Any], *, of_each: Collection[str] = ()) -> str:
    """What another process of this run has otherwise than process 0, in words; "" if nothing, or there is one process.

    Every process calls this, and gets the same answer.

    Args:
      values: of this process, by name; anything that JSON can hold.
      of_each: names whose values may be another in each process.
    """
    if jax.process_count() == 1:
        return ""
    mine = json.dumps({name: value for name, value in values.items() if name not in of_each})
    first, *others = map(json.loads, _of_every_process(mine))
    for i, other in enumerate(others, 1):
        for name in sorted(first.keys() | other.keys()):
            here, there = (values.get(name) for values in (first, other))
            if here != there:
                return f"--{name.replace('_', '-')} is {here} in process 0, but {there} in process {i}"
    return ""


def _of_every_process(text: str) -> list[str]:
    """The text that each process calls this with, in their order."""
    mine = np.frombuffer(text.encode(errors="surrogatepass"), np.uint8)  # whatever the bytes of a path are
    lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(mine))))
    padded = np.pad(mine, (0, lengths.max() - len(mine) + 1))  # to one length, which is not 0
    texts = np.asarray(multihost_utils.process_allgather(padded))
    return [bytes(each[:n]).decode(errors="surrogatepass") for each, n in zip(texts, lengths, strict=True)]


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0
