"""The default run of train.py as a fastai user writes it: a process of its own, which start_up.py starts.

python -m benchmarks.start_up_fastai IMAGES.npz FOLDER EPOCHS
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from fastai.basics import Callback, DataLoader, DataLoaders, Learner, accuracy
from fastai.callback.progress import CSVLogger, ProgressCallback
from fastai.losses import CrossEntropyLossFlat

from torch_ref import fitting, models
from torch_ref.manifold_mixup import ManifoldMixup


class RandomShift(Callback):
    """`random_shift` of jax_mix.training.data on a batch: each image moved by up to an eighth, at least a pixel."""

    order, run_valid = -1, False  # before the callback that mixes

    def __init__(self, black: torch.Tensor) -> None:
        self.black = black  # a normalised pixel

    def before_batch(self) -> None:
        n, channels, height, width = self.x.shape
        reach = max(1, min(height, width) // 8)
        padded = self.black[:, None, None].expand(n, -1, height + 2 * reach, width + 2 * reach).clone()
        padded[:, :, reach : reach + height, reach : reach + width] = self.x
        row, column = torch.randint(0, 2 * reach + 1, (2, n, 1))
        rows, columns = row + torch.arange(height), column + torch.arange(width)
        which = torch.arange(n)[:, None, None, None], torch.arange(channels)[None, :, None, None]
        self.learn.xb = (padded[*which, rows[:, None, :, None], columns[:, None, None, :]],)


def run(images: Path, folder: Path, *, epochs: int) -> None:
    """Train, evaluate after each epoch, and save the model, as train.py's defaults say.

    Args:
      images: .npz of "train_image", uint8 `[n, height, width, channels]`, "train_label", and the same of "test".
      folder: where history.csv and the model go.
      epochs: as many as train.py takes.
    """
    arrays = np.load(images)
    train = torch.tensor(arrays["train_image"]).permute(0, 3, 1, 2).float() / 255
    mean, std = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), keepdim=True)

    def loader(split: str, **options: object) -> DataLoader:
        image = torch.tensor(arrays[f"{split}_image"]).permute(0, 3, 1, 2).float() / 255
        label = torch.tensor(arrays[f"{split}_label"]).long()
        return DataLoader(list(zip((image - mean) / std, label, strict=True)), num_workers=0, **options)

    loaders = DataLoaders(
        loader("train", bs=64, shuffle=True, drop_last=True), loader("test", bs=360), device=torch.device("cpu")
    )
    learner = Learner(
        loaders,
        models.PreActResNet(train.shape[1], 10),
        CrossEntropyLossFlat(),
        fitting.OPTIMIZERS["sgd"],
        wd=5e-4,
        metrics=accuracy,
        path=folder,
        cbs=[ProgressCallback(), CSVLogger()],
    )
    mixing = [RandomShift((-mean / std).reshape(-1)), ManifoldMixup(0.4, layers=("layer1", "layer2"))]
    learner.fit_one_cycle(epochs, 0.1, cbs=mixing)
    learner.save("model")


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), epochs=int(sys.argv[3]))
