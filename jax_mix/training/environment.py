"""On what something was run: what belongs beside every number."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def environment(*packages: str) -> dict[str, Any]:
    """The device, the cores of the host, the versions of Python, JAX and `packages`; as JSON can hold it."""
    device = jax.devices()[0]
    name = device.device_kind if device.platform != "cpu" else _processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": f"{name}, {jax.device_count()} device(s)",
        "cores": cores,
        "python": platform.python_version(),
        "versions": {p: importlib.metadata.version(p) for p in (*_PACKAGES, *packages) if importlib.util.find_spec(p)},
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
