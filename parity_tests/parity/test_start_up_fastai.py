"""The twin that `python -m benchmarks start_up` times: it trains as train.py's defaults say, and leaves a model."""

import numpy as np
import torch
from fastai.basics import Learner

from benchmarks import start_up_fastai
from jax_mix.training.config import Config


def test_the_twin_trains_and_evaluates_each_epoch(tmp_path, monkeypatch, capfd):
    learners, init = [], Learner.__init__
    monkeypatch.setattr(
        Learner, "__init__", lambda *args, **options: (learners.append(args[0]), init(*args, **options))[1]
    )
    rng = np.random.default_rng(0)
    splits = {"train": 130, "test": 20}
    arrays = {f"{split}_image": rng.integers(0, 17, (n, 8, 8, 1)).astype(np.uint8) for split, n in splits.items()}
    arrays |= {f"{split}_label": rng.integers(0, 10, n) for split, n in splits.items()}
    np.savez(tmp_path / "digits.npz", **arrays)
    start_up_fastai.run(tmp_path / "digits.npz", tmp_path, epochs=2)
    header, *epochs = (tmp_path / "history.csv").read_text().splitlines()
    assert header == "epoch,train_loss,valid_loss,accuracy,time"
    assert len(epochs) == 2
    assert (tmp_path / "models" / "model.pth").stat().st_size > 100_000
    (learner,), config = learners, Config()
    assert (learner.dls.train.bs, len(learner.dls.train), learner.wd) == (config.batch_size, 2, config.weight_decay)
    assert (config.mix, config.optimizer, config.schedule, config.learning_rate) == (
        "manifold",
        "sgd",
        "one_cycle",
        0.1,
    )
    assert (config.epochs, config.augment, config.model) == (20, "shift", "preact_resnet8")
    capfd.readouterr()


def test_images_are_moved_by_a_pixel_at_most_each_by_itself():
    torch.manual_seed(0)
    shift = start_up_fastai.RandomShift(torch.tensor([-1.0]))
    image = torch.arange(200 * 64.0).reshape(200, 1, 8, 8)
    shift.learn = type("Learner", (), {"x": image})()
    shift.before_batch()
    (moved,) = shift.learn.xb
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1), value=-1.0)
    places = {(y, x): padded[:, :, y : y + 8, x : x + 8] for y in range(3) for x in range(3)}
    found = [[place for place, at in places.items() if torch.equal(at[i], moved[i])] for i in range(200)]
    assert all(len(each) == 1 for each in found)
    assert {each[0] for each in found} == set(places)
