"""jax_mix.parity: a right port is equal in everything; a mistake is found at the first layer that differs."""

import copy
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from flax import nnx

from jax_mix import parity
from jax_mix.parity.__main__ import main
from jax_mix.parity.arrays import in_pairs
from jax_mix.parity.names import Module, propose
from jax_mix.training import models
from parity_tests.parity import ports
from parity_tests.parity.ports import ConvNet, TorchConvNet, TorchTransformer, Transformer

NAMES = {ConvNet: None, Transformer: ports.NAMES}
ORIGINALS = {ConvNet: TorchConvNet, Transformer: TorchTransformer}
RUNGS = ["arrays", "layers in evaluation", "layers in training", "outputs of a step", "losses", "gradients"]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Without it, on a busy machine, each small operation waits for its other threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(n=3, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 3, 8, 8))


@functools.cache
def right(kind):
    """The right port, its original, both as they were, and what comparing them gave."""
    model, original = ports.port(kind), ports.original(ORIGINALS[kind])
    before = nnx.clone(model), copy.deepcopy(original)
    return model, original, before, parity.compare(model, original, images(), names=NAMES[kind])


@pytest.mark.parametrize("kind", [ConvNet, Transformer])
def test_a_right_port_is_equal_at_every_rung_and_left_as_it_is(kind):
    model, original, (model_before, original_before), report = right(kind)
    assert report, report
    assert report.apart == ""
    report.check()
    last = ["statistics after a step"] * (kind is ConvNet) + ["mixed at each layer"]
    assert list(dict.fromkeys(row.rung for row in report.rows)) == RUNGS + last
    compared = {rung: [row.what for row in report.rows if row.rung == rung] for rung in RUNGS + last}
    arrays = nnx.to_flat_state(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    assert sorted(compared["arrays"]) == sorted(".".join(map(str, path)) for path, _ in arrays)
    params = nnx.to_flat_state(nnx.state(model, nnx.Param))
    assert sorted(compared["gradients"]) == sorted(".".join(map(str, path)) for path, _ in params)
    blocks = ["blocks.0", "blocks.1.bn2", "dropout", "fc"] if kind is ConvNet else ["encoder.0.attn", "encoder.1.fc2"]
    assert {"input", *blocks} <= set(compared["mixed at each layer"])
    assert set(blocks) <= set(compared["layers in evaluation"])
    same = jax.tree.map(np.array_equal, nnx.to_pure_dict(nnx.state(model, nnx.Param)), nnx.to_pure_dict(nnx.state(model_before, nnx.Param)))  # fmt: skip  # noqa: E501
    assert all(jax.tree.leaves(same))
    assert all(torch.equal(a, original_before.state_dict()[name]) for name, a in original.state_dict().items())
    assert not original.training
    assert next(original.parameters()).dtype == torch.float32


MISTAKES = [
    (ConvNet, "epsilon", "blocks.1.bn2", "epsilon is 1e-06 here, the original has eps 1e-05"),
    (ConvNet, "padding", "stem.layers.0", "padding is 'SAME' here, the original's is [(1, 1), (1, 1)]"),
    (
        ConvNet,
        "momentum",
        "blocks.1.bn1",
        "momentum is 0.99 here, the original has momentum 0.1, which is momentum 0.9",
    ),
    (ConvNet, "missing bias", "blocks.1.conv1", "Not in pairs: the original's blocks.1.conv1.bias has no counterpart."),
    (ConvNet, "pool without padding", "blocks.0.conv1", "computed between stem and blocks.0.conv1"),
    (ConvNet, "flatten", "fc", "flattened with channels last here"),
    (ConvNet, "dropout left on", "dropout", "dropout is on in evaluation"),
    (ConvNet, "ReLU before the sum", "blocks.1", "what the 4 layers in it put out: look at what it does with these"),
    (ConvNet, "gradient stopped", "blocks.0.bn2", "the gradients are not: nearest to the loss"),
    (Transformer, "epsilon", "encoder.1.norm1", "epsilon is 1e-06 here"),
    (Transformer, "query and key", "encoder.1.attn", "What it is given is equal"),
    (Transformer, "norm after", "encoder.1.attn", "computed between encoder.0 and encoder.1.attn"),
    (Transformer, "GELU", "encoder.1.fc2", "the tanh approximation of GELU is applied to it here, the exact GELU in"),
]


@pytest.mark.parametrize(("kind", "mistake", "layer", "told"), MISTAKES)
def test_a_mistake_is_found_at_the_first_layer_that_differs(kind, mistake, layer, told):
    model = nnx.eval_shape(lambda: ports.port(kind, mistake))  # shapes are enough: the weights are the original's
    report = parity.compare(model, right(kind)[1], images(), names=NAMES[kind], layers=())
    assert not report
    assert report.layer == layer
    assert layer in report.apart
    assert told in report.apart
    with pytest.raises(AssertionError, match=re.escape(told)):
        report.check()


def converted(kind):
    """The port with its original's weights."""
    model = nnx.clone(right(kind)[0])
    state = nnx.state(model)
    for path, variable in nnx.to_flat_state(state):
        if (name := ".".join(map(str, path))) in right(kind)[3].weights:
            variable.set_value(jnp.asarray(right(kind)[3].weights[name], jnp.float32))
    nnx.update(model, state)
    return model


@pytest.mark.parametrize("mistake", ["transposed kernel", "query and key"])
def test_a_mistake_in_the_users_own_conversion_is_found(mistake):
    kind = ConvNet if mistake == "transposed kernel" else Transformer
    model = converted(kind)
    if kind is ConvNet:
        layer, told = "blocks.0.conv1", "blocks.0.conv1.kernel has its axes in another order: (0, 1, 3, 2)"
        kernel = model.blocks[0].conv1.kernel
        kernel.set_value(kernel[...].swapaxes(2, 3))
    else:
        layer, told = "encoder.0.attn", "encoder.0.attn.query.kernel is what encoder.0.attn.key.kernel should be."
        attention = model.encoder[0].attn
        attention.query, attention.key = attention.key, attention.query
    report = parity.compare(model, right(kind)[1], images(), names=NAMES[kind], layers=())
    assert not report
    assert report.layer == layer
    assert told in report.apart
    assert "own weights were compared" in str(report)


def test_other_layers_and_a_map_of_arrays():
    """Tokens, an output that is no logits, and a layer that is several here."""

    def third(k):
        return lambda array: np.split(array, 3)[k].T

    original = ports.original(ports.TorchOthers)
    model = ports.Others(nnx.Rngs(0))
    tokens = np.random.default_rng(0).integers(0, 7, (3, 6))
    report = parity.compare(model, original, tokens, names={"qkv": None}, layers=())
    assert not report
    assert "the Flax model's k.bias, k.kernel and 4 more have no counterpart" in report.apart
    assert "Left out, as asked for: qkv." in report.notes
    arrays = {"qkv.weight": {f"{n}.kernel": third(k) for k, n in enumerate("qkv")}}
    arrays["qkv.bias"] = {f"{n}.bias": third(k) for k, n in enumerate("qkv")}
    report = parity.compare(model, original, tokens, arrays=arrays)
    assert report, report
    assert "up" in [row.what for row in report.rows if row.rung == "mixed at each layer"]


def test_what_shapes_and_order_do_not_tell_is_left_over():
    def linear(*shape):
        return Module(frozenset({"Linear"}), {"weight": np.zeros(shape)})

    theirs = {"a": linear(3, 4), "b": linear(3, 4), "c": linear(5, 6), "d": linear(7, 8), "": Module(frozenset(), {})}
    shapes = {"one": (4, 3), "two": (4, 3), "three": (4, 3), "four": (6, 5), "d": (7, 8)}
    flax = {f"{name}.kernel": np.zeros(shape) for name, shape in shapes.items()}
    found = propose(theirs, list(shapes), flax, {})
    assert found.modules == {"c": "four", "d": "d", "": ""}
    assert found.by_order == ["c"]
    assert found.unsure == {"a": ["one", "two", "three"], "b": ["one", "two", "three"]}
    arrays = in_pairs(theirs, found.modules, flax, {}, found.left_out)
    assert list(arrays.sources) == ["four.kernel"]
    assert arrays.left_over == ["a.weight", "b.weight"]
    assert arrays.missing == ["one.kernel", "two.kernel", "three.kernel"]
    assert arrays.wrong_shapes == {"d.kernel": "[7, 8], that of the original's d.weight would be [8, 7]"}
    # A parameter of a module's own may be called otherwise.
    own = {"": Module(frozenset(), {"cls_token": np.zeros((1, 1, 4)), "pos_embed": np.zeros((1, 9, 4))})}
    arrays = in_pairs(own, {"": ""}, {"position": np.zeros((1, 9, 4)), "token": np.zeros((1, 1, 4))}, {}, set())
    assert {name: source.name for name, source in arrays.sources.items()} == {
        "position": "pos_embed",
        "token": "cls_token",
    }
    assert arrays.by_shape == ["cls_token", "pos_embed"]
    assert not arrays.missing + arrays.left_over
    # With as many on both sides the order of running says which is which; a name says more than the order.
    del flax["three.kernel"]
    assert propose(theirs, list(shapes), flax, {}).modules == {"a": "one", "b": "two", "c": "four", "d": "d", "": ""}
    assert propose(theirs, list(shapes), flax, {"b": "one"}).modules["a"] == "two"


def test_a_port_to_linen():
    original, x = ports.original(ports.TorchNet), images()
    variables = ports.LinenNet().init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    report = parity.compare(ports.LinenNet(), original, x, variables=variables, training={"train": True})
    assert report, report
    assert report.names == {"conv": "Conv_0", "bn": "BatchNorm_0", "fc": "Dense_0", "": ""}
    mixed = [row.what for row in report.rows if row.rung == "mixed at each layer"]
    assert mixed == ["input", "Conv_0", "BatchNorm_0", "Dense_0"]
    wrong = ports.LinenNet(epsilon=1e-3)
    report = parity.compare(wrong, original, x, variables=variables, training={"train": True}, layers=())
    assert report.layer == "BatchNorm_0"


def test_dropout_in_the_originals_code_is_told():
    class Dropping(TorchConvNet):
        def forward(self, x):
            return torch.nn.functional.dropout(super().forward(x), 0.5, self.training)

    report = parity.compare(right(ConvNet)[0], ports.original(Dropping), images(), layers=())
    assert not report
    assert "in training, while in evaluation all is equal" in report.apart
    assert "dropout in its code" in report.apart


@pytest.mark.long
def test_torchvisions_resnet18_needs_no_map():
    model = nnx.eval_shape(lambda: models.resnet18(3, 10, rngs=nnx.Rngs(0)))
    original = ports.original(lambda: torchvision.models.resnet18(num_classes=10))
    x = np.random.default_rng(0).normal(size=(3, 3, 33, 40))
    report = parity.compare(model, original, x, layers=("input", "layer?"))
    assert report, report
    assert report.names["layer2.0.downsample.1"] == "layer2.layers.0.downsample.layers.1"
    assert len([row for row in report.rows if row.rung == "layers in evaluation"]) == 57
    assert len([row for row in report.rows if row.rung == "mixed at each layer"]) == 5


BAD = [
    ({"model": torch.nn.Linear(3, 3)}, TypeError, "model must be a Flax NNX model"),
    ({"original": nnx.relu}, TypeError, "original must be a torch.nn.Module, got"),
    ({"variables": {}}, TypeError, "variables are a Linen model's"),
    ({"x": images(1)}, ValueError, "x must be a batch of two samples or more, got shape (1, 3, 8, 8)"),
    ({"x": "image.png"}, ValueError, "x must be a batch of numbers"),
    ({"weights": "mine"}, ValueError, "weights must be 'own', 'original' or None, got 'mine'"),
    ({"tolerance": -1}, ValueError, "tolerance must be a number from 0 to 1"),
    ({"loss": abs}, ValueError, "loss must be two functions, (for Flax, for PyTorch)"),
    ({"names": {"blocks": 3}}, ValueError, "names must give 'blocks' a name of the Flax model's or None, got 3"),
    ({"names": {"block": "b"}}, ValueError, "'block', which matches no module of the original: did you mean 'blocks"),
    ({"names": {"f(c": "b"}}, ValueError, "names has 'f(c', which is no regular expression"),
    ({"names": {"fc": "head"}}, ValueError, "names maps 'fc' to 'head', which the Flax model has not"),
    (
        {"arrays": {"fc.wait": None}},
        ValueError,
        "'fc.wait', which matches no array of the original: did you mean 'fc.w",
    ),
    ({"arrays": {"fc.weight": "fc.kernal"}}, ValueError, "has not: did you mean 'fc.kernel'"),
    ({"arrays": {"fc.weight": 3}}, ValueError, "arrays must give 'fc.weight' a name of the Flax model's"),
]


@pytest.mark.parametrize(
    ("change", "kind", "told"), BAD, ids=[f"{k}-{n}" for n, (c, _, _) in enumerate(BAD) for k in c]
)
def test_bad_input_is_told_in_a_sentence(change, kind, told):
    model, original, _, _ = right(ConvNet)
    given = {"model": model, "original": original, "x": images(), **change}
    with pytest.raises(kind, match=re.escape(told)):
        parity.compare(given.pop("model"), given.pop("original"), given.pop("x"), **given)


def test_labels_losses_and_layers_that_do_not_fit_are_told():
    model, original, _, _ = right(ConvNet)
    reduced = (lambda output, y: output.mean(1), lambda output, y: output.mean())
    for given, told in (
        ({"y": np.ones(5)}, "y must be class numbers [3] or targets [3, 5], got [5]"),
        ({"layers": ["stam"]}, "layers has 'stam', which is no layer that both can mix: did you mean 'stem'"),
        ({"loss": reduced}, "y is None, and a loss of your own needs labels."),
        ({"loss": reduced, "y": np.arange(3)}, "the loss for PyTorch must give a loss for each sample, [3], got []"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            parity.compare(model, original, images(), **given)


PORT = """
import torch
from flax import nnx

class Original(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, 4, 1), torch.nn.Linear(4, 5)
    def forward(self, x):
        return self.fc(torch.nn.functional.gelu(self.conv(x).mean((2, 3))))

class Port(nnx.Module):
    def __init__(self, rngs, approximate=False):
        self.convolution, self.head = nnx.Conv(3, 4, (1, 1), rngs=rngs), nnx.Linear(4, 5, rngs=rngs)
        self.approximate = approximate
    def __call__(self, x):
        return self.head(nnx.gelu(self.convolution(x).mean((1, 2)), approximate=self.approximate))

def wrong(rngs):
    return Port(rngs, approximate=True)

original = Original()
NAMES = {"conv": "convolution"}
"""


def test_the_command(tmp_path, capsys):
    (tmp_path / "my_port.py").write_text(PORT)
    here = f"{tmp_path}/my_port.py"
    rest = ["--names", f"{here}:NAMES", "--image", "3", "2", "2"]
    assert main([f"{here}:Port", f"{here}:Original", *rest, "--details"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("All is equal.\n\nrung ")
    assert re.search(r"^gradients +convolution\.kernel +\d\.\de-\d+ +yes$", told, re.MULTILINE)
    assert main([f"{here}:wrong", f"{here}:original", *rest]) == 1
    assert capsys.readouterr().out.startswith("The first layer that differs is head (fc in the original), in")
    assert main([f"{here}:Prot", f"{here}:original", *rest]) == 2
    assert "has no 'Prot': did you mean 'Port'" in capsys.readouterr().err
    assert main([f"{here}:wrong", f"{here}:original"]) == 2
    assert "give --image 3 224 224" in capsys.readouterr().err
