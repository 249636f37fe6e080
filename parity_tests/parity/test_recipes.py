"""The recipes against timm and torchvision as installed: the same draws give the same batch, and draws are alike."""

import importlib.metadata
import inspect
import re
from pathlib import Path
from unittest import mock

import jax
import kornia.augmentation as kornia
import numpy as np
import optax
import pytest
import torch
from timm.data.mixup import Mixup
from torchvision.transforms import v2

import jax_mix
from jax_mix import recipes
from parity_tests.parity import twins
from parity_tests.parity.measured import alike, ours, theirs_in_turn
from parity_tests.parity.recorder import Recorder
from parity_tests.parity.replaying import Drawn, assert_same_batch, images, nchw, one_hot, replayed
from parity_tests.tolerances import assert_within_ulp

KEY = jax.random.key(0)
ROOT = Path(__file__).parents[2]
VERSIONS = {"timm": "1.0.31", "torchvision": "0.29.2", "keras": "3.15.1", "kornia": "0.9.0", "fastai": "2.8.12"}
READ = {
    "timm": "timm/data/mixup.py",
    "torchvision": "torchvision/transforms/v2/_augment.py",
    "keras": "keras/src/layers/preprocessing/image_preprocessing/mix_up.py and cut_mix.py",
    "kornia": "kornia/augmentation/_2d/mix and random_generator/_2d",
    "fastai": "fastai/callback/mixup.py",
}


@pytest.mark.parametrize("library", VERSIONS)
def test_the_versions_whose_source_was_read(library):
    now, read = importlib.metadata.version(library), VERSIONS[library]
    assert now.partition("+")[0] == read, (
        f"{library} is now {now}: read its {READ[library]} again, then change the version here"
    )
    assert (ROOT / "docs" / "recipes.md").read_text().lower().count(f"| {library} {read} |") == 3, "who has what"


@pytest.mark.parametrize(
    ("recipe", "theirs", "others"),
    [
        (recipes.timm, Mixup, {"label_smoothing", "num_classes", "multi_label"}),
        (recipes.torchvision_mixup, v2.MixUp, {"num_classes", "labels_getter"}),
        (recipes.torchvision_cutmix, v2.CutMix, {"num_classes", "labels_getter"}),
        (recipes.kornia_mixup, kornia.RandomMixUpV2, {"keepdim", "data_keys"}),
        (recipes.kornia_cutmix, kornia.RandomCutMixV2, {"keepdim", "data_keys"}),
    ],
)
def test_names_order_and_defaults_are_theirs(recipe, theirs, others):
    def names(function):
        return {name: p.default for name, p in inspect.signature(function).parameters.items() if name not in others}

    assert list(names(recipe).items()) == list(names(theirs).items())


def timm_draws(calls, n, mixup_alpha=1.0, cutmix_alpha=0.0, cutmix_minmax=None, prob=1.0, switch_prob=0.5, mode="batch",
               correct_lam=True):  # fmt: skip
    """What timm drew, read in the order of its source, as what jax_mix draws."""
    cutmix_alpha = 1.0 if cutmix_minmax is not None else cutmix_alpha
    both, given = mixup_alpha > 0 and cutmix_alpha > 0, {}
    shape = {"batch": (), "elem": (n,), "pair": (n // 2,)}[mode]
    lam, cut, applied = {}, np.zeros(shape, bool), np.ones(shape, bool)
    if mode == "batch":
        applied = np.asarray(calls.next("rand")[1] < prob)
        if applied:
            cut = np.asarray(calls.next("rand")[1] < switch_prob if both else mixup_alpha == 0)
            (alpha, _), value = calls.next("beta")
            assert alpha == (cutmix_alpha if cut else mixup_alpha)
            lam[bool(cut)] = value
    else:
        cut = calls.next("rand")[1] < switch_prob if both else np.full(shape, mixup_alpha == 0)
        for of_cutmix, alpha in ((True, cutmix_alpha), (False, mixup_alpha)):
            if alpha > 0:
                (drawn, _), lam[of_cutmix] = calls.next("beta")
                assert drawn == alpha
        applied = calls.next("rand")[1] < prob
    boxed = np.argwhere(cut & applied).tolist()
    integers = [[np.full(shape, np.nan) for _ in range(3)] for _ in range(4 if cutmix_minmax is not None else 2)]
    for row in map(tuple, boxed):
        for low, high, value in integers:
            (low[row], high[row]), value[row] = calls.next("randint")
    assert not calls.calls
    betas = [Drawn((mixup_alpha,), lam.get(False, np.full(shape, np.nan)))] if mixup_alpha > 0 else []
    if cutmix_alpha > 0:
        if cutmix_minmax is None:
            betas.append(Drawn((cutmix_alpha,), lam.get(True, np.full(shape, np.nan))))
        given["integers"] = [Drawn((low, high), value) for low, high, value in integers]
    given["beta"] = betas
    if prob < 1:
        given["applies"] = [Drawn((prob,), applied)] * (2 if both else 1)
    if both:
        given["choice"] = [Drawn((1 - switch_prob, switch_prob), cut)]
    pasted = np.broadcast_to(cut & applied, shape)
    rows = np.concatenate([pasted, pasted[::-1]]) if mode == "pair" else np.broadcast_to(pasted, (n,))
    return given, np.flatnonzero(rows)


TIMM = [
    {},
    {"mixup_alpha": 0.8, "prob": 0.5},
    {"mixup_alpha": 0.0, "cutmix_alpha": 1.0},
    {"mixup_alpha": 0.0, "cutmix_alpha": 0.6, "correct_lam": False},
    {"mixup_alpha": 0.0, "cutmix_minmax": (0.2, 0.8)},
    {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch_prob": 0.3},
    {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.6, "correct_lam": False},
    {"cutmix_minmax": (0.1, 0.9), "prob": 0.6, "correct_lam": False},
]


@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("arguments", TIMM, ids=str)
def test_timms_draws_make_timms_batch(arguments, mode):
    x, labels, smoothed = images(), np.arange(8), optax.smooth_labels(one_hot(), 0.1)
    mixed = set()
    for seed in range(3):
        np.random.seed(seed)  # noqa: NPY002 - timm draws from numpy's global state
        calls = Recorder()
        with (
            mock.patch("numpy.random.rand", calls.of("rand", np.random.rand)),
            mock.patch("numpy.random.beta", calls.of("beta", np.random.beta)),
            mock.patch("numpy.random.randint", calls.of("randint", np.random.randint)),
        ):
            theirs_x, theirs_y = Mixup(num_classes=10, mode=mode, **arguments)(nchw(x), torch.tensor(labels))
        given, rows = timm_draws(calls, len(x), mode=mode, **arguments)
        with replayed(**given):
            mix = recipes.timm(mode=mode, **arguments).sample(KEY, x.shape)
        assert_same_batch(mix, x, twins.nhwc(theirs_x.numpy()), rows)
        assert_within_ulp(mix.targets(smoothed), theirs_y.numpy(), np.ones_like(smoothed), ulps=2)
        mixed.add(bool(np.any(theirs_y.numpy() != np.asarray(smoothed))))
    assert True in mixed


@pytest.mark.parametrize("alpha", [1.0, 0.3])
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_torchvisions_draws_make_torchvisions_batch(name, alpha):
    x, labels = images(), np.arange(8)
    transform = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[name](alpha=alpha, num_classes=10)
    method = {"mixup": recipes.torchvision_mixup, "cutmix": recipes.torchvision_cutmix}[name](alpha)
    for seed in range(4):
        calls, sample = Recorder(), transform._dist.sample
        with (
            torch.random.fork_rng(),
            mock.patch.object(transform._dist, "sample", calls.of("beta", sample)),
            mock.patch("torch.randint", calls.of("randint", torch.randint)),
        ):
            torch.manual_seed(seed)
            theirs_x, theirs_y = transform(nchw(x), torch.tensor(labels))
        given = {"beta": [Drawn((alpha,), calls.next("beta")[1].item())]}
        centres = [Drawn((0, args[0]), value.item()) for _, args, _, value in calls.calls]
        with replayed(**given, integers=centres[::-1]):  # it draws x before y
            mix = method.sample(KEY, x.shape)
        assert_same_batch(mix, x, twins.nhwc(theirs_x.numpy()), range(8) if name == "cutmix" else ())
        assert_within_ulp(mix.targets(one_hot()), theirs_y.numpy(), np.ones((8, 10)), ulps=2)


def timms(**arguments):
    np.random.seed(0)  # noqa: NPY002
    return theirs_in_turn(Mixup(num_classes=2, label_smoothing=0.0, **arguments))


def torchvisions(transform):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return theirs_in_turn(transform(num_classes=2))


BOTH = {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "switch_prob": 0.3, "prob": 0.8}
SIDES = {"mixup_alpha": 0.0, "cutmix_minmax": (0.2, 0.8)}


def test_draws_are_distributed_as_timms():
    theirs = timms(**BOTH)
    assert alike(ours(recipes.timm(**BOTH)), theirs) > 1e-3
    assert alike(ours(recipes.timm(**BOTH | {"mixup_alpha": 1.6})), theirs) < 1e-3
    theirs = timms(mixup_alpha=0.0, cutmix_alpha=1.0)
    assert alike(ours(recipes.timm(mixup_alpha=0.0, cutmix_alpha=1.0)), theirs) > 1e-3
    assert alike(ours(jax_mix.CutMix(1.0, box="paper", partner="flip")), theirs) < 1e-6
    theirs = timms(**SIDES)
    assert alike(ours(recipes.timm(**SIDES)), theirs) > 1e-3


def test_draws_are_distributed_as_torchvisions():
    assert alike(ours(recipes.torchvision_mixup()), torchvisions(v2.MixUp)) > 1e-3
    theirs = torchvisions(v2.CutMix)
    assert alike(ours(recipes.torchvision_cutmix()), theirs) > 1e-3
    assert alike(ours(jax_mix.CutMix(1.0, box="timm", partner="roll")), theirs) < 1e-6, "timm's boxes"


# Without the libraries: what is refused, and what the recipes of the others are.

REFUSED = [
    (lambda: recipes.timm(mode="half"), "mode is 'half', .* use mode='elem'"),
    (lambda: recipes.timm(mode="element"), "mode is 'element': did you mean 'elem'"),
    (lambda: recipes.timm(0.0), "mixup_alpha and cutmix_alpha are both 0"),
    (lambda: recipes.timm(-1.0), "mixup_alpha must be a number of 0 or more, .* got -1.0"),
    (lambda: recipes.timm(switch_prob=1.5), "switch_prob must be a number from 0 to 1, .* got 1.5"),
    (lambda: recipes.timm(cutmix_minmax=(0.8, 0.2)), "cutmix_minmax must be a range"),
    (lambda: recipes.timm(cutmix_minmax=0.2), r"cutmix_minmax must be two numbers \(low, high\), got 0.2"),
    (lambda: recipes.timm(correct_lam="no"), "correct_lam must be True or False"),
    (lambda: jax.jit(lambda a: recipes.timm(a).sample(KEY, (4,)).lam)(0.4), "mixup_alpha .* known before compilation"),
    (lambda: recipes.kornia_cutmix(num_mix=2), r"num_mix must be 1, .* got 2: make as many draws"),
    (
        lambda: recipes.kornia_cutmix(cut_size=(0.2, 1)),
        r"cut_size must be None or \(0, 1\), .* CutMix\(lam=\(0.2, ",
    ),
    (lambda: recipes.kornia_mixup(lambda_val=(0.0, 1.2)), "lambda_val must be a range"),
    (lambda: recipes.kornia_mixup(p=2), "p must be a number from 0 to 1"),
    (lambda: recipes.keras_cutmix(0), "factor must be a number above 0 and up to 1, .* got 0"),
    (lambda: recipes.keras_cutmix((0.5, 1.5)), "factor must be"),
    (lambda: recipes.composer_cutmix(length=1.5), "length must be a number from 0 to 1, .* got 1.5"),
    (lambda: recipes.composer_mixup(0), "alpha must be positive"),
    (lambda: recipes.manifold_mixup_v2(use_input_mixup=None), "use_input_mixup must be True or False"),
]


@pytest.mark.parametrize(("make", "told"), REFUSED)
def test_what_cannot_be_drawn_is_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_the_nearest_that_a_refusal_names_can_be_made():
    assert jax_mix.CutMix(lam=(0.2, 1.0), per="sample", box="inside").sample(KEY, (4, 8, 8, 1)).box.shape == (4, 4)
    mixed = recipes.timm(mode="elem").sample(KEY, (8, 4, 4, 1)).blend(images(8, 4, 4))[:4]
    assert mixed.shape == (4, 4, 4, 3)


@pytest.mark.parametrize(
    ("made", "method"),
    [
        (recipes.composer_mixup(), jax_mix.MixUp(0.2, per="batch")),
        (recipes.composer_cutmix(0.5), jax_mix.CutMix(0.5, box="paper")),
        (recipes.composer_cutmix(0), jax_mix.CutMix(lam=0.0, box="paper")),
        (recipes.composer_cutmix(length=0.5, uniform_sampling=True), jax_mix.CutMix(side=0.5, box="uniform")),
        (recipes.big_vision_mixup(0.2), jax_mix.MixUp(0.2, per="batch", partner="roll")),
        (recipes.manifold_mixup_v2(), jax_mix.ManifoldMixup(0.4)),
        (recipes.manifold_mixup_v2(1.0, False, "a.*"), jax_mix.ManifoldMixup(1.0, use_input=False, layers="a.*")),
        (recipes.mixup_paper(0.4), jax_mix.MixUp(0.4, per="batch", fold=False)),
        (recipes.cutmix_paper(cutmix_prob=1.0), jax_mix.CutMix(1.0, box="paper")),
        (
            recipes.manifold_mixup_paper(),
            jax_mix.ManifoldMixup(2.0, layers=("layer1", "layer2"), per="batch", fold=False),
        ),
    ],
)
def test_the_recipes_of_the_others(made, method):
    assert made == method


@pytest.mark.parametrize("name", recipes.__all__)
def test_every_recipe_draws(name):
    recipe = getattr(recipes, name)
    method = recipe(0.2) if name == "big_vision_mixup" else recipe()
    if name == "manifold_mixup_v2":
        method = recipe(module_list="layer1")
    assert jax.eval_shape(lambda: method.sample(KEY, (8, 16, 16, 3))).lam.shape == (8,)
    doc = inspect.getdoc(recipe)
    assert ">>>" in doc
    assert "Source:" in doc
    assert name in (ROOT / "docs" / "recipes.md").read_text()


def test_the_pages_table_says_what_a_recipe_is_made_of():
    page = (ROOT / "docs" / "recipes.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `(\w+\(.*?\))` \| `[^|]+` \| `(\w+\(.*?\))`[^|]*\|$", page, re.MULTILINE)
    assert len(rows) == 18
    for recipe, method in rows:
        assert eval(recipe, vars(recipes).copy()) == eval(method, vars(jax_mix).copy()), recipe
