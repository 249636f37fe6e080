"""How many photographs a second are read, decoded and cropped, beside torchvision; and the memory that it takes.

    python -m benchmarks.loader

2,000 JPEGs of 300 to 600 pixels, parts of the photographs inside scikit-learn and matplotlib, are cropped at random to
224 pixels: by `--augment crop`, and by torchvision's ImageFolder with PyTorch's DataLoader, transformed alike. Both
give uint8 batches in the host's memory; alternatives take turns. "one thread" is a loop in the main thread, "two
workers" are two processes.
"""

from __future__ import annotations

import io
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import matplotlib.cbook
import numpy as np
import PIL.Image
import torch
from sklearn.datasets import load_sample_images
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.measuring import save, summary
from jax_mix.training import data, devices
from jax_mix.training.data.encoded import Picture
from jax_mix.training.data.feeding import _Steps
from jax_mix.training.data.policies import parse_policy
from jax_mix.training.data.source import Form

IMAGES, SIZE, BATCH, ROUNDS = 2000, 224, 64, 3
AHEAD = 12
EPOCH = IMAGES // BATCH * BATCH
CASES: tuple[tuple[str, Any, float], ...] = (
    ("crop and flip", None, 0.0),
    ("crop, flip, RandAugment and erasing", "rand:2,9", 0.25),
)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        write_photographs(photographs)
        found: dict[str, dict[str, Any]] = {}
        for name, policy, erasing in CASES:
            cropping = data.Cropping(SIZE, policy=policy and parse_policy(policy), erasing=erasing)
            cache = str(Path(folder) / "cache")
            ours = data.load(str(photographs), image_size=SIZE, cropping=cropping, cache_dir=cache)
            theirs = ImageFolder(str(photographs / "train"), transform=torchvision_transform(policy, erasing))
            found[f"{name}, one thread"] = rates_of(
                {"jax_mix": partial(in_one_thread, ours), "torchvision": partial(torch_loader, theirs, 0)}
            )
            found[f"{name}, two workers"] = rates_of(
                {"jax_mix": partial(fed, ours, 2), "torchvision": partial(torch_loader, theirs, 2)}
            )
            found[f"{name}, threads of train.py"] = rates_of({"jax_mix": partial(fed, ours, 0)})
        memory = megabytes_over_epochs(ours)
        decoders = decoded_a_core_second(sorted(photographs.glob("train/*/*.jpg")))
    ratios = {
        case: {unit: of["jax_mix"][unit]["median"] / of["torchvision"][unit]["median"] for unit in of["torchvision"]}
        for case, of in found.items()
        if "torchvision" in of
    }
    save(
        "loader",
        {
            "what": f"{IMAGES} JPEGs of 300 to 600 pixels, crops of {SIZE}, batches of {BATCH}, {os.cpu_count()} cores",
            "images": found,
            "times_torchvision": ratios,
            "decoded_a_core_second": decoders,
            "resident_megabytes_after_each_epoch": memory,
        },
    )


def write_photographs(folder: Path) -> None:
    """Folders of two classes, for training; and a few images for the test, which are not measured."""
    sources = [PIL.Image.fromarray(each) for each in load_sample_images().images]
    portrait = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    sources.append(PIL.Image.open(portrait).convert("RGB"))
    rng = np.random.default_rng(0)
    for i in range(IMAGES + 8):
        source = sources[i % len(sources)]
        width, height = (int(each) for each in rng.integers(300, 601, 2))
        across = min(int(source.width * rng.uniform(0.5, 1)), source.height * width // height)
        down = across * height // width
        left, top = int(rng.integers(source.width - across + 1)), int(rng.integers(source.height - down + 1))
        path = folder / ("train" if i < IMAGES else "test") / f"class{i % 2}" / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = source.resize((width, height), PIL.Image.Resampling.BICUBIC, (left, top, left + across, top + down))
        part.save(path, quality=int(rng.integers(80, 96)))


def torchvision_transform(policy: str | None, erasing: float) -> Any:
    each = [v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip()]
    each += [v2.RandAugment()] if policy else []
    each += [v2.PILToTensor()]
    each += [v2.RandomErasing(erasing)] if erasing else []
    return v2.Compose(each)


def in_one_thread(dataset: data.Dataset) -> Iterable[Any]:
    steps = _Steps(dataset.train, jax.random.key(0), BATCH, 10**6, 0, 1)
    return (steps[i] for i in range(10**6))


def fed(dataset: data.Dataset, workers: int) -> Iterable[Any]:
    split = devices.split(devices.make_mesh(1))
    return data.batches(
        dataset.train, jax.random.key(0), BATCH, start=0, stop=10**6, sharding=split, feed="grain", workers=workers
    )


def torch_loader(dataset: Any, workers: int) -> Iterable[Any]:
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        yield from loader


def rates_of(alternatives: dict[str, Callable[[], Iterable[Any]]]) -> dict[str, dict[str, Any]]:
    """Of each alternative, an epoch at a time, in turn, after one to warm up; each is stopped while others run.

    "a_second" is by the clock; "a_core_second" by the time that the process and its workers had a core, which other
    programs on the machine hardly change.
    """
    rates: dict[str, dict[str, list[float]]] = {name: {"a_second": [], "a_core_second": []} for name in alternatives}
    for i in range(ROUNDS + 1):
        for name, start in alternatives.items():
            batches = iter(start())
            for _ in range(AHEAD):  # processes are started, and what they have ready is used up
                next(batches)
            begun, used = time.perf_counter(), core_seconds()
            for _ in range(EPOCH // BATCH):
                jax.block_until_ready(next(batches))
            if i:
                rates[name]["a_core_second"].append(EPOCH / (core_seconds() - used))
                rates[name]["a_second"].append(EPOCH / (time.perf_counter() - begun))
            if close := getattr(batches, "close", None):
                close()
    return {
        name: {unit: {k.replace("_s", ""): v for k, v in summary(each).items()} for unit, each in of.items()}
        for name, of in rates.items()
    }


def decoded_a_core_second(files: list[Path]) -> dict[str, dict[str, float]]:
    """JPEGs in full, and, for crops of large ones, at a quarter of each side, by the decoders that were tried."""
    contents = [file.read_bytes() for file in files]
    form = Form(grey=False)

    def by_pillow(content: bytes, shrink: int = 1) -> None:
        image = PIL.Image.open(io.BytesIO(content))
        if shrink > 1:
            image.draft("RGB", (image.width // shrink, image.height // shrink))
        np.asarray(image)

    tried = {
        "simplejpeg": lambda content: Picture(content, form).pixels(),
        "Pillow": by_pillow,
        "simplejpeg, a quarter": lambda content: Picture(content, form).pixels(4),
        "Pillow's draft, a quarter": lambda content: by_pillow(content, 4),
    }
    rates: dict[str, list[float]] = {name: [] for name in tried}
    for _ in range(ROUNDS):
        for name, decode in tried.items():
            used = time.process_time()
            for content in contents:
                decode(content)
            rates[name].append(len(contents) / (time.process_time() - used))
    return {name: {k.replace("_s", ""): v for k, v in summary(each).items()} for name, each in rates.items()}


def core_seconds() -> float:
    """Of this process and all below it."""
    parents, ticks = {}, {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            values = file.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        process = int(file.parent.name)
        parents[process], ticks[process] = int(values[1]), int(values[11]) + int(values[12])
    ours = {os.getpid()}
    while more := {each for each, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(ticks[each] for each in ours) / os.sysconf("SC_CLK_TCK")


def megabytes_over_epochs(dataset: data.Dataset) -> list[float]:
    """What this process has in memory after each of five epochs, read in its threads."""
    batches, found = iter(fed(dataset, 0)), []
    for _ in range(5):
        for _ in range(EPOCH // BATCH):
            next(batches)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        found.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
    batches.close()  # type: ignore[attr-defined]
    return found


if __name__ == "__main__":
    main()
