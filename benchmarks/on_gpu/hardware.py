"""On what it runs, in more words than `environment` has, and how many operations a second the card is sold for."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess

import jax
import torch

from benchmarks.on_gpu.child import Part
from benchmarks.on_gpu.clock import torch_device
from jax_mix.training.environment import environment

# bfloat16 with float32 sums, dense, in 10^12 operations a second: NVIDIA's data sheets. The first name that is found
# in the device's counts.
PEAKS = (
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H200", 989.0),
    ("GH200", 989.0),
    ("B200", 2250.0),
    ("A100", 312.0),
    ("L40S", 362.0),
    ("L4", 121.0),
    ("A10", 125.0),
)
_NOT_NEEDED = {
    "fastai": "its callbacks' arithmetic is written in plain PyTorch here, in the same loop; its own are not run",
    "tensorflow_datasets": "images are random numbers",
    "grain": "images are on the device already: what is measured is the step",
}


def peak(kind: str) -> float | None:
    """Operations a second in bfloat16 of a device by name; None: it is not known, or a slice of one (MIG).

    >>> peak("NVIDIA H100 80GB HBM3"), peak("NVIDIA L40S"), peak("cpu")
    (989000000000000.0, 362000000000000.0, None)
    """
    found = (tera for name, tera in PEAKS if re.search(rf"\b{name}\b", kind) and "MIG" not in kind)
    tera = next(found, None)
    return None if tera is None else tera * 1e12


def run(part: Part) -> None:
    device = jax.devices()[0]
    part.tell("jax", {"platform": device.platform, "kind": device.device_kind})
    part.tell("versions", environment("torch", "torchvision", "timm", "orbax-checkpoint", "fastai")["versions"])
    part.tell("without", {name: why for name, why in _NOT_NEEDED.items() if importlib.util.find_spec(name) is None})
    part.tell("bf16_peak_flops", peak(device.device_kind))
    if torch_device().type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        told = {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
        part.tell("torch", told | {"cudnn": torch.backends.cudnn.version(), "cards": torch.cuda.device_count()})
    else:
        part.tell("torch", {"name": "cpu"})
    if command := shutil.which("nvidia-smi"):
        asked = "name,driver_version,power.limit,clocks.max.sm,clocks.max.mem"
        done = subprocess.run(
            [command, f"--query-gpu={asked}", "--format=csv,noheader"], capture_output=True, text=True
        )
        part.tell("nvidia-smi", {"asked": asked, "told": done.stdout.strip().splitlines()})
