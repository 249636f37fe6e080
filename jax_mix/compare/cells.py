"""Training the runs of a comparison and measuring their networks; each leaves a file, and is never made twice."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from jax_mix.compare import attacks
from jax_mix.compare.corruptions import CORRUPTIONS, corrupt
from jax_mix.compare.seeds import train_seeds
from jax_mix.compare.settings import Cell, Comparison
from jax_mix.compare.summary import row
from jax_mix.training import data, devices, evaluation
from jax_mix.training.build import described, prepare, resolve, split_seed
from jax_mix.training.checkpoints import Checkpoints, differences
from jax_mix.training.config import MAY_DIFFER
from jax_mix.training.environment import environment
from jax_mix.training.errors import Stopped, TrainingFailed, UserError
from jax_mix.training.files import write_json
from jax_mix.training.loop import train

Record = dict[str, Any]  # what is in a run's file
# Training images that are looked at as they are: once a run has ended, enough to tell 0.2% wrong from 0.4%; and after
# each epoch, for a curve, few enough to take no time beside the test images.
_FITTED, _WATCHED = 5000, 1000


class Cells:
    """The runs of a comparison, in a folder.

    Args:
      folder: where their files are or will be.
      comparison: what is compared.
      dataset: with all its labels right.
    """

    def __init__(self, folder: Path, comparison: Comparison, dataset: data.Dataset) -> None:
        self._folder, self._comparison, self._dataset = folder, comparison, dataset
        self._peak = float(dataset.train.image.max())
        self._sharding = devices.split(devices.make_mesh(comparison.devices))
        n = len(dataset.test.label)
        chosen = np.random.default_rng(0).permutation(n)[: comparison.attacked]  # of a folder they come by class
        self._attacked = np.sort(chosen)

    def steps(self, cell: Cell) -> int:
        """How many steps a run has."""
        return cell.config.epochs * (len(self._dataset.train.label) // cell.config.batch_size)

    def read(self, cell: Cell) -> Record | None:
        """What is known of a run; None if it has not been made.

        Raises:
          UserError: it was made with another config, or its file cannot be read.
        """
        path = self._path(cell)
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text())
            saved = record["config"]
            _check(record, cell)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            told = f"{type(error).__name__}: {error}"
            raise UserError(f"--name: cannot read '{path}' ({told}): delete it, to train it once more.") from error
        told = differences(saved, self._config(cell), MAY_DIFFER)
        if told:
            raise UserError(f"--name: '{path}' was made with {told}: give this comparison another --name.")
        return record

    def make(self, cell: Cell, progress: tqdm[Any]) -> Record:
        """Train and measure one run, or go on where that was cut off; then its file is there.

        Raises:
          Stopped: a signal came; a checkpoint is kept.
        """
        config, start = resolve(cell.config), time.perf_counter()
        unfinished = self._folder / cell.name
        depends_on = described(config, self._dataset)
        with Checkpoints(unfinished / "checkpoints", depends_on, may_differ=MAY_DIFFER) as checkpoints:
            config = dataclasses.replace(config, resume=bool(checkpoints.steps))
            try:
                prepared = prepare(config, self._data(cell))
                model, history = train(prepared, checkpoints, progress=progress, watched=self._watched(cell))
            except TrainingFailed as error:
                result = failed(error)
            except Stopped as stopped:
                raise Stopped(f"{stopped}; the same command goes on.", stopped.number) from None
            else:
                result = self._measured(cell, model, history)
        record = self.keep(cell, result, time.perf_counter() - start)
        shutil.rmtree(unfinished, ignore_errors=True)
        return record

    def make_together(self, cells: Sequence[Cell], progress: tqdm[Any]) -> list[Record]:
        """Train runs that differ in their seed alone as one, and measure each; then their files are there.

        Raises:
          Stopped: a signal came; nothing is kept of these runs.
        """
        start = time.perf_counter()
        configs, datasets = [resolve(cell.config) for cell in cells], [self._data(cell) for cell in cells]
        trained = train_seeds(configs, datasets, progress, [self._watched(cell) for cell in cells])
        of_each = (time.perf_counter() - start) / len(cells)
        records = []
        for cell, found in zip(cells, trained, strict=True):
            start = time.perf_counter()
            result = failed(found) if isinstance(found, TrainingFailed) else self._measured(cell, *found)
            records.append(self.keep(cell, result, of_each + time.perf_counter() - start))
        return records

    def keep(self, cell: Cell, result: Record, seconds: float) -> Record:
        """Write what is known of a run to its file, and give it back."""
        record = {
            "method": cell.method,
            "noise": cell.noise,
            "seed": cell.seed,
            **result,
            "seconds": round(seconds, 2),
            "environment": environment(),
            "config": self._config(cell),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._path(cell), record)
        return record

    def _data(self, cell: Cell) -> data.Dataset:
        return data.corrupt_labels(self._dataset, cell.noise, split_seed(cell.config)[4])

    def _some(self, cell: Cell, limit: int) -> Any:
        """Which training images are looked at: the same of every method, others with another seed."""
        chosen = np.random.default_rng(cell.seed).permutation(len(self._dataset.train.label))[:limit]
        return np.sort(chosen)

    def _watched(self, cell: Cell) -> data.Examples:
        some = self._some(cell, min(_WATCHED, len(self._dataset.test.label)))
        return data.Examples(*(array[some] for array in self._data(cell).train))

    def _path(self, cell: Cell) -> Path:
        return self._folder / f"{cell.name}.json"

    def _config(self, cell: Cell) -> Record:
        """All that a run's file depends on, as JSON has it."""
        values = described(resolve(cell.config), self._dataset)
        measured = {name: getattr(self._comparison, name) for name in ("radii", "attacked")}
        return json.loads(json.dumps(values | measured))

    def _measured(self, cell: Cell, model: Any, history: Any) -> Record:
        model.eval()
        found = {"training": self._fit(cell, model), **self._measure(model, clean=cell.noise == 0)}
        return {"status": "finished", "history": history, **found}

    def _fit(self, cell: Cell, model: Any) -> Record:
        """How well a network fits its training images as they are, neither mixed nor augmented.

        "error" and "nll" are against the labels it was trained with: whether it has fitted what it was given. With
        wrong ones among them, "true_error" is against the right labels, and "learned" the share of the wrong labels
        that it says: whether it fits by learning them by heart. None if there are none.
        """
        some, train = self._some(cell, _FITTED), self._dataset.train
        given, true = self._data(cell).train.label[some], train.label[some]
        logits: Any = evaluation.predict(model, self._dataset.normalize, train.image[some], self._sharding)
        said, wrong = np.argmax(logits, axis=-1), given != true
        return {
            "images": len(some),
            "error": float(np.mean(said != given)),
            "nll": float(evaluation.nll(logits, given)),
            "true_error": float(np.mean(said != true)),
            "learned": float(np.mean((said == given)[wrong])) if wrong.any() else None,
        }

    def _measure(self, model: Any, *, clean: bool) -> Record:
        """What the last epoch's network does on test images; if it was trained with right labels, on worse ones too."""
        dataset, peak = self._dataset, self._peak
        logits: Any = evaluation.predict(model, dataset.normalize, dataset.test.image, self._sharding)
        reliability = evaluation.reliability(logits, dataset.test.label)
        found: Record = {"reliability": {k: np.asarray(v).tolist() for k, v in reliability._asdict().items()}}
        if clean:
            some, radii = data.Examples(*(array[self._attacked] for array in dataset.test)), self._comparison.radii
            unharmed = float(np.mean(np.argmax(logits[self._attacked], axis=-1) != some.label))
            adversarial = attacks.errors(model, dataset.normalize, some.image, some.label, radii, peak=peak)
            found["adversarial"] = {
                "radius": (0.0, *radii),
                "images": len(some.label),
                **{attack: [unharmed, *errors] for attack, errors in adversarial.items()},
            }
            found["corrupted"] = {
                name: {
                    "strength": corruption.strengths,
                    "error": [
                        self._error(model, corrupt(name, some.image, strength, peak=peak), some.label)
                        for strength in corruption.strengths
                    ],
                }
                for name, corruption in CORRUPTIONS.items()
            }
        return found

    def _error(self, model: Any, image: Any, label: Any) -> float:
        logits: Any = evaluation.predict(model, self._dataset.normalize, image, self._sharding)
        return 1 - float(evaluation.accuracy(logits, label))


def _check(record: Record, cell: Cell) -> None:
    """Raise an error if a record, read from a file, has not what the report is made of."""
    if (record["method"], record["noise"], record["seed"]) != (cell.method, cell.noise, cell.seed):
        raise ValueError("it is of another run")
    if record["status"] != "finished":
        str(record["reason"])
        return
    line = row(record)  # whatever is missing is missed here
    numbers = [line[f"{which}_{name}"] for which in ("last", "best") for name in ("error", "nll", "ece")]
    numbers += [each for values in record["reliability"].values() for each in values]
    if cell.noise == 0:
        numbers += [line["corrupted"], *record["adversarial"]["fgsm"], *record["adversarial"]["pgd"]]
    numbers += [each for name, each in line.items() if name.startswith("train_")]  # runs made before have none
    if not all(math.isfinite(each) for each in numbers):
        raise ValueError("not all of its numbers are finite")


def failed(reason: object) -> Record:
    """What is known of a run that did not end well."""
    return {"status": "failed", "reason": str(reason)}
