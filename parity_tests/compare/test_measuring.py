"""What is measured of a run's network, where the answer is known: errors, not accuracies, of the right images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_mix.compare import attacks, cells, command, planar
from jax_mix.compare.corruptions import CORRUPTIONS
from jax_mix.compare.settings import Cell, Comparison
from jax_mix.training.build import split_seed
from jax_mix.training.data import Dataset, Examples, Normalize, corrupt_labels

CLASSES, TEST, ATTACKED = 3, 30, 13
LABEL = np.arange(TEST) // 10  # by class, as a folder's come
SAID = np.where(np.arange(TEST) % 10 < 7 - 2 * LABEL, LABEL, (LABEL + 1) % CLASSES)  # right 7, 5 and 3 times of ten
CONFIDENCE = 0.8
TRAIN = 40
TRAIN_SAID = np.arange(TRAIN) % CLASSES + (np.arange(TRAIN) % 10 < 3)  # wrong 3 times of ten


class Model:
    """Says the class that an image's first pixel tells."""

    training = True

    def eval(self):
        self.training = False


def predict(model, normalize, image, sharding=None):
    assert not model.training
    said = np.asarray(image)[:, 0, 0, 0].astype(int) % CLASSES
    rest = (1 - CONFIDENCE) / (CLASSES - 1)
    return np.log(np.where(np.eye(CLASSES)[said] > 0, CONFIDENCE, rest)).astype(np.float32)


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """`measured(noise)`: what a run's file has of the model above, and the calls of attacks and corruptions."""
    image = np.zeros((TEST, 2, 2, 1), np.uint8)
    image[:, 0, 0, 0] = SAID
    shown = np.full((TRAIN, 2, 2, 1), 200, np.uint8)
    shown[:, 0, 0, 0] = TRAIN_SAID
    train = Examples(shown, np.arange(TRAIN, dtype=np.int32) % CLASSES)
    dataset = Dataset(train, Examples(image, LABEL.astype(np.int32)), Normalize(jnp.zeros(1), jnp.ones(1)), "x", "abc")
    comparison = Comparison(methods=("none",), radii=(0.2, 0.1), attacked=ATTACKED, devices=1)
    calls = []

    def errors(model, normalize, image, label, radii, *, peak):
        calls.append((image, label, radii, peak))
        return {"fgsm": [0.5, 0.6], "pgd": [0.7, 0.8]}

    def corrupt(name, image, strength, *, peak):
        """As many images are taken for the next class as this kind and strength say."""
        assert peak == 200
        worse = np.array(image, np.float32)
        worse[: hit(name, strength), 0, 0, 0] += 1
        return worse

    monkeypatch.setattr(cells.evaluation, "predict", predict)
    monkeypatch.setattr(cells.attacks, "errors", errors)
    monkeypatch.setattr(cells, "corrupt", corrupt)

    def measure(noise):
        cell = Cell("none", noise, 0, comparison.config("none", noise, 0))
        return cells.Cells(tmp_path, comparison, dataset)._measured(cell, Model(), [{"epoch": 1}]), calls

    return measure


def hit(name, strength):
    return 1 + list(CORRUPTIONS).index(name) + CORRUPTIONS[name].strengths.index(strength)


def test_errors_of_attacked_and_corrupted_images(measured):
    record, ((image, label, radii, peak),) = measured(0.0)
    assert (record["status"], record["history"]) == ("finished", [{"epoch": 1}])
    assert (len(image), radii, peak) == (ATTACKED, (0.2, 0.1), 200)
    assert set(label.tolist()) == {0, 1, 2}  # drawn from all, which come by class
    said = image[:, 0, 0, 0]
    index = [int(i) for i in np.sort(np.random.default_rng(0).permutation(TEST)[:ATTACKED])]
    assert (label.tolist(), said.tolist()) == (LABEL[index].tolist(), SAID[index].tolist())
    unharmed = np.mean(said != label)
    assert 0.2 < unharmed < 0.8  # and an odd number of images: not its own opposite
    assert record["adversarial"] == {
        "radius": (0.0, 0.2, 0.1),
        "images": ATTACKED,
        "fgsm": [unharmed, 0.5, 0.6],
        "pgd": [unharmed, 0.7, 0.8],
    }
    assert record["corrupted"].keys() == CORRUPTIONS.keys()
    for name, found in record["corrupted"].items():
        assert found["strength"] == CORRUPTIONS[name].strengths
        for strength, error in zip(found["strength"], found["error"], strict=True):
            worse = np.where(np.arange(ATTACKED) < hit(name, strength), said + 1, said) % CLASSES
            assert error == pytest.approx(np.mean(worse != label)), (name, strength)


def test_reliability_is_of_all_test_images(measured):
    record, _ = measured(0.0)
    found = record["reliability"]
    (bin_of_all,) = np.flatnonzero(found["number"])
    assert bin_of_all == int(np.ceil(CONFIDENCE * 15)) - 1
    assert found["number"][bin_of_all] == TEST
    assert found["confidence"][bin_of_all] == pytest.approx(CONFIDENCE, rel=1e-6)
    assert found["accuracy"][bin_of_all] == pytest.approx(0.5)


def test_a_run_with_wrong_labels_is_not_attacked(measured):
    record, calls = measured(0.5)
    assert record.keys() == {"status", "history", "training", "reliability"}
    assert calls == []


@pytest.mark.parametrize("limit", [TRAIN, 13])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_how_well_training_images_are_fitted(noise, limit, measured, monkeypatch):
    """Against the labels that were given, against the right ones, and the wrong ones alone: of images drawn by seed."""
    monkeypatch.setattr(cells, "_FITTED", limit)
    record, _ = measured(noise)
    some = np.sort(np.random.default_rng(0).permutation(TRAIN)[:limit])
    key = split_seed(Comparison(methods=("none",)).config("none", noise, 0))[4]
    true = (np.arange(TRAIN) % CLASSES).astype(np.int32)
    shown = Examples(np.zeros((TRAIN, 1, 1, 1), np.uint8), true)
    dataset = Dataset(shown, shown, Normalize(jnp.zeros(1), jnp.ones(1)), "x", ("a", "b", "c"))
    given, true, said = corrupt_labels(dataset, noise, key).train.label[some], true[some], TRAIN_SAID[some] % CLASSES
    wrong, right = given != true, said == given
    assert wrong.any() == (noise > 0)
    nll = np.where(right, -np.log(CONFIDENCE), -np.log((1 - CONFIDENCE) / (CLASSES - 1))).mean()
    expected = {"images": limit, "error": 1 - right.mean(), "nll": nll, "true_error": np.mean(said != true)}
    learned = record["training"].pop("learned")
    assert record["training"] == pytest.approx(expected, rel=1e-6)
    assert learned == (pytest.approx(right[wrong].mean()) if noise else None)


def test_an_attack_has_its_own_error_for_each_radius_in_the_order_given(monkeypatch):
    """Each attack tells its radius by how many images it fools, in batches with a rest."""

    def wrong(model, normalize, key, image, label, radius, *, peak, steps):
        fooled = {"fgsm": 100 * radius, "pgd": 200 * radius}
        return np.stack([image >= 100 - count for count in fooled.values()])  # the last too, which fills up batches

    monkeypatch.setattr(attacks, "_wrong", wrong)
    image = np.arange(100, dtype=np.float32)
    for batch_size in (7, 50, 100, 250):
        found = attacks.errors(None, None, image, image, (0.3, 0.1, 0.2), peak=1.0, batch_size=batch_size)
        assert found == {"fgsm": [0.3, 0.1, 0.2], "pgd": [0.6, 0.2, 0.4]}


def test_what_is_measured_on_the_plane(monkeypatch):
    """Error is of fresh points and unsure of the grid, a number for each seed; the picture is the first seed's."""
    fresh, side = 4, 3
    monkeypatch.setattr(planar, "_FRESH", fresh)
    monkeypatch.setattr(planar, "_GRID", side)
    _, label = planar.points("moons", fresh, 2**31)
    seeds = np.arange(2)[:, None]
    says = np.where(np.arange(fresh) <= seeds, 1 - label, label)  # one is wrong, then two
    probability = np.where(np.arange(side**2) <= 2 * seeds, 0.7, 0.95)  # of class 1; one is unsure, then three
    probability = np.concatenate([np.where(says == 1, 0.9, 0.1), probability], 1)
    logits = np.log(np.stack([1 - probability, probability], -1))
    monkeypatch.setattr(planar, "_train_and_predict", lambda *_: logits)
    found = planar._measure("moons", None, 2)
    assert found["error"] == [1 / 4, 2 / 4]
    assert found["unsure"] == pytest.approx([1 / 9, 3 / 9])
    assert found["probability"] == pytest.approx([0.7, *[0.95] * 8])


def test_the_plane_is_looked_at_in_rows_from_below():
    points = planar.grid()
    assert points.shape == (planar._GRID**2, 2)
    np.testing.assert_allclose(points[0], [-planar.REACH, -planar.REACH])
    np.testing.assert_allclose(points[planar._GRID - 1], [planar.REACH, -planar.REACH])
    np.testing.assert_allclose(points[-1], [planar.REACH, planar.REACH])


def test_steps_of_pgd_are_a_quarter_of_the_radius():
    """Along a slope, from wherever it starts, it goes no further in so many steps."""
    start = [attacks.pgd(lambda x: x.sum(), jax.random.key(0), jnp.full(50, 0.5), 0.1, steps=n) for n in range(3)]
    moved = jnp.minimum(start[0] + 0.025, 0.6), jnp.minimum(start[0] + 0.05, 0.6)
    np.testing.assert_allclose(start[1], moved[0], rtol=1e-6)
    np.testing.assert_allclose(start[2], moved[1], rtol=1e-6)


def test_each_run_is_what_its_cell_says():
    comparison = Comparison(methods=("none", "mixup:0.3", "manifold"), seeds=3, noise_levels=(0.4, 0.2), alpha=2.0)
    assert [cell[:3] for cell in comparison.cells] == [
        (method, noise, seed) for noise in (0.0, 0.2, 0.4) for seed in range(3) for method in comparison.methods
    ]
    for method, noise, seed, config in comparison.cells:
        alpha = {"none": None, "mixup:0.3": 0.3, "manifold": 2.0}[method]
        assert (config.mix, config.alpha) == (method.partition(":")[0], alpha)
        assert (config.label_noise, config.seed) == (noise, seed)


def test_runs_that_are_trained_as_one_differ_in_their_seed_alone():
    every = Comparison(methods=("none", "mixup:0.3", "mixup"), seeds=3, noise_levels=(0.2,)).cells
    groups = command._groups(every, together=True)
    assert sorted(cell.name for group in groups for cell in group) == sorted(cell.name for cell in every)
    assert [[cell.seed for cell in group] for group in groups] == [[0, 1, 2]] * 6
    for first, *others in groups:
        assert all(dataclasses.replace(cell.config, seed=0) == first.config for cell in others)
    assert command._groups(every, together=False) == [[cell] for cell in every]


def test_the_plane_is_kept_for_as_many_seeds(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(planar, "compare", lambda seeds: made.append(seeds) or {"seeds were": seeds})
    path = tmp_path / "plane.json"
    for seeds in (2, 2, 3, 3):
        assert command._plane(path, seeds) == {"seeds were": seeds}
    path.write_text("{")
    assert command._plane(path, 3) == {"seeds were": 3}
    assert made == [2, 3, 3]


@pytest.mark.parametrize("seed", range(4))
def test_the_draws_that_are_shown(seed, digits, monkeypatch):
    """Of each method that mixes and can; of Manifold Mixup one for a hidden layer; of the batch's size."""
    monkeypatch.setattr(command, "split_seed", lambda config: [jax.random.key(seed)] * 5)
    methods = ("none", "mixup", "manifold", "cutmix")
    comparison = Comparison(methods=methods, model="mlp", batch_size=32, devices=1)
    found = command._mixes(comparison, digits, {"mixup": "it cannot be"})
    assert list(found) == ["manifold", "cutmix"]
    assert found["manifold"].layer_name.startswith("hidden.")
    assert (found["cutmix"].box is None, found["manifold"].box is None) == (False, True)
    assert {mix.lam.shape for mix in found.values()} == {(32,)}


def test_fresh_points_are_none_of_those_trained_on(monkeypatch):
    asked = []

    def points(problem, n, seed):
        asked.append((n, seed))
        return np.zeros((n, 2), np.float32), np.zeros(n, np.int32)

    seen = planar._FRESH + planar._GRID**2
    monkeypatch.setattr(planar, "points", points)
    monkeypatch.setattr(planar, "_train_and_predict", lambda *_: np.zeros((3, seen, 2)))
    planar._measure("moons", None, 3)
    of_seeds = {seed for n, seed in asked if n == planar._POINTS}
    (of_fresh,) = {seed for n, seed in asked if n == planar._FRESH}
    assert of_seeds == {0, 1, 2}
    assert of_fresh > 2**16  # beyond any --seeds
