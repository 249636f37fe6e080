"""What --mix says: read, told, trained with as the library draws it, and gone on with."""

import dataclasses
import re
import shlex
import signal
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import jax_mix
import train
from jax_mix import CutMix, ManifoldMixup, MixUp, OneOf, OutputMixup, recipes
from jax_mix.training import data, load_run, loop, methods, plots
from jax_mix.training.build import prepare, resolve, split_seed
from jax_mix.training.checkpoints import Checkpoints
from jax_mix.training.command_line import parse
from jax_mix.training.config import Config
from jax_mix.training.errors import Stopped

SAYS = {
    "none": None,
    "mixup": MixUp(),
    "output:0.3": OutputMixup(0.3),
    "cutmix:1.0,box=paper,probability=0.5": CutMix(1.0, box="paper", probability=0.5),
    "cutmix:side=(0.2,0.8),box='inside'": CutMix(side=(0.2, 0.8), box="inside"),
    "mixup:lam=[0.5,0.9],fold=False": MixUp(lam=(0.5, 0.9), fold=False),
    "cutmix:layers=(stem,layer1)": CutMix(layers=("stem", "layer1")),
    "manifold:2.0,layers=blocks.*,use_input=False": ManifoldMixup(2.0, layers="blocks.*", use_input=False),
    "mixup:0.8+cutmix:1.0": OneOf(MixUp(0.8), CutMix(1.0)),
    "mixup:1e+2+cutmix@0.25+none": OneOf(MixUp(100.0), CutMix(), None, probabilities=(0.375, 0.25, 0.375)),
    "cutmix@0.5+none@0.5": OneOf(CutMix(), None, probabilities=(0.5, 0.5)),
    "timm:0.8,1.0,switch_prob=0.3+none": OneOf(recipes.timm(0.8, 1.0, switch_prob=0.3), None),
}


@pytest.mark.parametrize("mix", SAYS)
def test_what_is_written_is_made(mix):
    assert methods.make(mix) == SAYS[mix]
    method = Config(mix=mix).mix  # as it was written, for config.json to say the same
    assert methods.make(method) == SAYS[mix]


def test_flags_reach_the_methods_that_leave_them_open():
    made = methods.make("mixup+cutmix:0.5+mixup:lam=0.7+timm", alpha=2.0, groups=4, per="batch")
    mixup, cutmix, fixed, timm = made.methods
    assert (mixup.alpha, cutmix.alpha, fixed.alpha, timm.alpha) == (2.0, 0.5, 0.4, 1.0)
    assert {each.groups for each in made.methods} == {4}
    assert methods.make("mixup+cutmix", per="sample") == OneOf(MixUp(), CutMix(), per="sample")
    resolved = [resolve(Config(mix=mix, devices=1)).alpha for mix in ("cutmix", "cutmix:0.3", "mixup+cutmix", "timm")]
    assert resolved == [1.0, None, None, None]


def test_every_row_of_the_recipes_page_can_be_trained():
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text().partition("## Who has what")[0]
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 20
    for _, recipe, mix, _ in rows:
        (word,) = shlex.split(mix.strip("`"))
        assert methods.make(word) == eval(recipe.strip("`"), vars(recipes)), mix
        assert methods.parse(word)[0].name == recipe.strip("`").partition("(")[0]
    assert {methods.parse(shlex.split(row[2].strip("`"))[0])[0].name for row in rows} == set(recipes.__all__)


def test_names_of_files_are_safe_and_differ():
    mixes = [*SAYS, "mixup:0.8+cutmix:0.1", "manifold:layers=a.*", "manifold:layers=a.?", "mixup+" * 40 + "cutmix"]
    names = [methods.file_name(mix) for mix in mixes]
    assert len(set(names)) == len(mixes)
    assert all(re.fullmatch(r"[\w.+=@-]{1,80}", name, re.ASCII) for name in names)
    assert methods.file_name("mixup:0.8+cutmix:1.0") == "mixup-0.8+cutmix-1.0"


def test_what_the_makers_do_besides_is_told():
    (smooths,) = methods.beside("mixup+timm:0.8", label_smoothing=0.0)
    assert "--label-smoothing 0.1" in smooths
    assert methods.beside("timm:0.8", label_smoothing=0.1) == methods.beside("mixup", label_smoothing=0.0) == []
    assert "binary cross-entropy" in methods.beside("manifold_mixup_paper", label_smoothing=0.1)[0]


FLAGS = {"mix": "mixup:0.8+cutmix:1.0", "model": "mlp", "augment": "none", "devices": 1}


def test_a_step_draws_as_the_library_does(digits):
    """Runs of one step: its loss and training accuracy are those of OneOf's own draw."""
    few, drawn = data.take(digits, 64), []

    @nnx.jit
    def by_hand(model, key, image, label):
        mix = OneOf(MixUp(0.8), CutMix(1.0)).sample(jax.random.split(key)[1], image.shape)
        logits, accuracy = model(mix.blend(image)), jax_mix.MixedAccuracy()
        accuracy.update(logits=logits, labels=label, mix=mix)
        losses = optax.softmax_cross_entropy(logits, mix.targets(jax.nn.one_hot(label, 10)))
        return losses.mean(), accuracy.compute(), mix.box

    for seed in (0, 2):
        prepared = prepare(resolve(Config(**FLAGS, epochs=1, seed=seed)), few)
        _, order_key, step_key, *_ = split_seed(prepared.config)
        index = data.epoch_batches(order_key, 1, 64, 64)[0]
        image, label = few.normalize(few.train.image[index]), few.train.label[index]
        *expected, box = by_hand(prepared.model, jax.random.fold_in(step_key, 0), image, label)
        ((record,),) = loop.train(prepared)[1:]
        np.testing.assert_allclose([record["loss"], record["train_accuracy"]], expected, rtol=1e-5)
        drawn.append(bool((box[:2] < box[2:]).all()))
    assert drawn == [False, True]  # one of each


def stop_at(patch, count):
    """A signal comes in that step."""
    step, calls = loop.pure_step, []

    def stopped(*args):
        calls.append(1)
        if len(calls) == count:
            signal.raise_signal(signal.SIGTERM)
        return step(*args)

    patch.setattr(loop, "pure_step", stopped)


def test_a_run_of_several_methods_goes_on_to_the_same_bytes(data_dir, tmp_path, monkeypatch):
    flags = ["--mix", "mixup:0.8+manifold:2.0@0.75", "--layers", "hidden.0", "--model", "mlp", "--batch-size", "256"]
    flags += ["--epochs", "2", "--devices", "1", "--data-dir", data_dir]
    monkeypatch.setattr(plots, "save", lambda *_, **__: None)  # what takes longest
    assert train.main([*flags, "--out", str(tmp_path / "whole")]) == 0
    name = "digits-mixup-0.8+manifold-2.0@0.75-0"
    with monkeypatch.context() as patch:
        stop_at(patch, 7)  # within the second epoch
        assert train.main([*flags, "--out", str(tmp_path / "cut")]) == 128 + signal.SIGTERM
    assert train.main(["--resume", str(tmp_path / "cut" / name), "--devices", "1"]) == 0
    whole, cut = (tmp_path / each / name / "metrics.json" for each in ("whole", "cut"))
    assert cut.read_bytes() == whole.read_bytes()
    config = parse(["--config", str(whole.with_name("config.json"))], Config)
    assert (config.mix, config.alpha, config.layers) == (flags[1], None, ("hidden.0",))
    assert load_run(whole.parent).about.layers == ("hidden.0",)


def test_a_run_that_a_version_without_training_accuracy_has_begun_goes_on(digits, tmp_path, monkeypatch):
    """But for the accuracy of the epoch it was in, all is as in a whole run."""
    config = Config(**FLAGS, batch_size=256, epochs=2)

    def run(**others):
        with Checkpoints(tmp_path, {}) as checkpoints:
            return loop.train(prepare(resolve(dataclasses.replace(config, **others)), digits), checkpoints)[1]

    _, whole = loop.train(prepare(resolve(config), digits))
    save = Checkpoints.save
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        patch.setattr(Checkpoints, "save", lambda *of: save(*of[:3], {k: of[3][k] for k in ("history", "losses")}))
        with pytest.raises(Stopped):
            run()
    assert whole[1].pop("train_accuracy") > 0
    assert run(resume=True) == whole


def test_layers_are_those_of_the_methods_that_leave_them_open(digits):
    config = Config(**FLAGS | {"mix": "manifold:layers=hidden.0+manifold+manifold_mixup_v2"}, layers=("hidden.1",))
    prepared = prepare(resolve(config), digits)
    assert [each.layers for each in prepared.recipe.method.methods] == [("hidden.0",), ("hidden.1",), ("hidden.1",)]
    assert prepared.config.layers == ("hidden.1",)
    named = prepare(resolve(dataclasses.replace(config, mix="manifold:layers=hidden.0", layers=None)), digits)
    assert (named.recipe.method.layers, named.config.layers) == (("hidden.0",), None)
