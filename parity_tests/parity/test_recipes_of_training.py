"""What recipes train with besides mixing, against timm's and torch's own: rates, LAMB, losses, draws, dropped paths."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import timm
import torch
from flax import nnx
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.resnet import BasicBlock as TimmBasicBlock
from timm.models.resnet import Bottleneck as TimmBottleneck
from timm.models.resnet import ResNet as TimmResNet
from timm.models.vision_transformer import VisionTransformer
from timm.optim import Lamb, param_groups_layer_decay
from timm.scheduler import CosineLRScheduler, MultiStepLRScheduler

import jax_mix
from jax_mix.training import data, models, optimizers
from jax_mix.training.losses import Loss
from jax_mix.training.models import resnets, torch_names
from jax_mix.training.models.torch_names import from_torch
from parity_tests.parity.twins import images, precision, unlike_the_start
from parity_tests.tolerances import assert_close

RATE, DECAY = 0.02, 0.1


def rates_of(schedule, steps, warmup, **options):
    """The rate of each of our steps."""
    made = optimizers.make("sgd", schedule, learning_rate=RATE, weight_decay=0.0, steps=steps, warmup=warmup, **options)
    params, used = {"kernel": jnp.ones((2, 2))}, []
    state = made.init(params)
    for _ in range(steps):
        _, state = made.update(params, state, params)
        used.append(state.hyperparams["rate"])
    return used


@pytest.mark.parametrize(("steps", "warmup"), [(30, 5), (7, 1), (4, 3)])
@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_the_warm_up_is_timms_by_updates_and_torchs(schedule, steps, warmup):
    """timm's with `t_in_epochs=False`, which its script calls --sched-on-updates; LinearLR if the rate then stays."""
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    warm = {"warmup_t": warmup, "warmup_lr_init": RATE / 1000, "warmup_prefix": False, "t_in_epochs": False}
    # timm divides an update before its milestone.
    milestones = [round(0.5 * steps) + 1, round(0.75 * steps) + 1]
    if schedule == "constant":
        theirs = torch.optim.lr_scheduler.LinearLR(sgd, start_factor=1 / 1000, total_iters=warmup)
    elif schedule == "cosine":
        theirs = CosineLRScheduler(sgd, t_initial=steps, **warm)
    else:
        theirs = MultiStepLRScheduler(sgd, decay_t=milestones, decay_rate=0.1, **warm)
    rates = []
    for step in range(1, steps + 1):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        theirs.step() if schedule == "constant" else theirs.step_update(step)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        assert_close(rates_of(schedule, steps, warmup), rates, "schedule")


PARAMS = {"kernel": (3, 4), "other": (4, 2), "bias": (4,)}
OPTIMIZERS = {
    "clipped SGD": (
        "sgd",
        {"clip_norm": 1.5},
        lambda groups: torch.optim.SGD(groups, lr=RATE, momentum=0.9),
    ),
    "LAMB": ("lamb", {}, lambda groups: Lamb(groups, lr=RATE)),
    "LAMB without decay": ("lamb", {}, lambda groups: Lamb(groups, lr=RATE)),
    "AdamW": (
        "adamw",
        {"beta2": 0.999, "epsilon": 1e-8},
        lambda groups: torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-8),
    ),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_parameters_equal_timms_and_torchs_step_by_step(case):
    """Gradients of a norm from 0.1 to 10: clipped in some of the steps."""
    optimizer, options, theirs = OPTIMIZERS[case]
    decay = 0.0 if case == "LAMB without decay" else DECAY
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=shape) for name, shape in PARAMS.items()}
    given = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in start.items()}
    groups = [
        {"params": [given["kernel"], given["other"]], "weight_decay": decay},
        {"params": [given["bias"]], "weight_decay": 0.0},
    ]
    torchs = theirs(groups)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        made = optimizers.make(optimizer, "constant", learning_rate=RATE, weight_decay=decay, steps=20, **options)
        params = jax.tree.map(jnp.asarray, start)
        state, update = made.init(params), jax.jit(made.update)
        for size in np.geomspace(0.02, 2, 20):
            gradients = {name: size * rng.normal(size=shape) for name, shape in PARAMS.items()}
            for name, parameter in given.items():
                parameter.grad = torch.tensor(gradients[name])
            if "clip_norm" in options:
                torch.nn.utils.clip_grad_norm_(given.values(), options["clip_norm"])
            torchs.step()
            updates, state = update(gradients, state, params)
            params = optax.apply_updates(params, updates)
            for name, parameter in given.items():
                assert_close(params[name], parameter.detach(), "optimizer float64")


def test_lamb_is_optaxs_for_kernels_and_small_gradients():
    """optax.lamb scales biases by their norm too, and clips nothing: the rest is the same."""
    rng = np.random.default_rng(0)
    params = {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)}
    ours = optimizers.make("lamb", "constant", learning_rate=RATE, weight_decay=DECAY, steps=3)
    theirs = optax.lamb(RATE, b2=0.999, eps=1e-6, weight_decay=DECAY)
    states = ours.init(params), theirs.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(3):
            gradient = {"kernel": jnp.asarray(0.1 * rng.normal(size=(3, 4)), jnp.float32)}
            mine, first = jax.jit(ours.update)(gradient, states[0], params)
            optaxs, second = jax.jit(theirs.update)(gradient, states[1], params)
            states = first, second
            assert_close(mine["kernel"], optaxs["kernel"], "same program")


BCE = {"smoothing": 0.0, "threshold": None, "sum": False}


@pytest.mark.parametrize("lam", [0.1, 0.7, None])
@pytest.mark.parametrize(
    "changes", [{}, {"threshold": 0.2}, {"smoothing": 0.1}, {"smoothing": 0.1, "threshold": 0.2, "sum": True}]
)
def test_bce_is_timms_on_mixed_targets(changes, lam):
    """Loss and gradient, behind timm's own targets of two labels; None: a batch that is not mixed."""
    case, rng = BCE | changes, np.random.default_rng(0)
    label, logits = rng.integers(0, 5, 8), rng.normal(size=(8, 5)).astype(np.float32) * 3
    x = torch.tensor(logits, requires_grad=True)
    target = mixup_target(torch.tensor(label), 5, 1.0 if lam is None else lam, case["smoothing"])
    theirs = BinaryCrossEntropy(target_threshold=case["threshold"], sum_classes=case["sum"])(x, target)
    theirs.backward()
    loss = Loss("bce_sum" if case["sum"] else "bce", case["smoothing"], case["threshold"])
    mix = None if lam is None else jax_mix.Mix(lam=jnp.full(8, lam), partner=jnp.arange(8)[::-1])
    ours, gradient = jax.jit(jax.value_and_grad(lambda l: loss(l, label.astype(np.int32), mix).mean()))(logits)
    assert_close(ours, theirs.detach(), "loss float32")
    assert_close(gradient, x.grad, "loss of large logits")


def test_class_weights_are_torchs_weighted_mean():
    rng = np.random.default_rng(0)
    label, logits, lam = rng.integers(0, 3, 16), rng.normal(size=(16, 3)).astype(np.float32), 0.3
    torchs = torch.nn.CrossEntropyLoss(weight=torch.tensor([0.2, 1.0, 5.0]))
    own, partners = (torchs(torch.tensor(logits), torch.tensor(y)).item() for y in (label, label[::-1].copy()))
    mix = jax_mix.Mix(lam=jnp.full(16, lam), partner=jnp.arange(16)[::-1])
    losses = jax.jit(lambda l, y: Loss(class_weights=(0.2, 1.0, 5.0))(l, y, mix))(logits, label.astype(np.int32))
    assert_close(losses.mean(), lam * own + (1 - lam) * partners, "loss float32")


def test_balanced_draws_are_distributed_as_torchs():
    """How often each image comes: by weights of 1 / images of its class, within five deviations."""
    label = np.repeat(np.array([3, 0, 1], np.int32), [2, 5, 13])
    weight = 1 / np.bincount(label)[label]
    n, expected = 20_000, weight / weight.sum()
    torch.manual_seed(0)
    theirs = list(torch.utils.data.WeightedRandomSampler(torch.tensor(weight), n))
    ours = data.Balanced(label).draw(jax.random.key(0), n)
    for drawn in (theirs, ours):
        seen = np.bincount(drawn, minlength=20) / n
        assert np.all(np.abs(seen - expected) < 5 * np.sqrt(expected * (1 - expected) / n))


RULES = {"ViT": torch_names._TIMM_VIT, "ConvNeXt": torch_names._TIMM_CONVNEXT, "ResNet": torch_names._TORCHVISION}
SIZE = {"image_size": (32, 32)}
THIN = {"channels": (64, 16, 32, 64)}  # the first has to be as wide as the stem
DROPPED = {
    "ViT": (
        lambda rate: VisionTransformer(
            img_size=32, patch_size=8, num_classes=5, embed_dim=16, depth=3, num_heads=2, drop_path_rate=rate
        ),
        lambda rngs: models.ViT(3, 5, **SIZE, patch_size=8, width=16, depth=3, heads=2, timm=True, rngs=rngs),
    ),
    "ConvNeXt": (
        lambda rate: TimmConvNeXt(num_classes=5, depths=(1, 1, 1, 1), dims=(8, 16, 32, 64), drop_path_rate=rate),
        lambda rngs: models.ConvNeXt(3, 5, **SIZE, blocks=(1, 1, 1, 1), width=8, rngs=rngs),
    ),
    "ResNet": (
        lambda rate: TimmResNet(TimmBasicBlock, (1, 1, 1, 1), num_classes=5, **THIN, drop_path_rate=rate),
        lambda rngs: models.ResNet(3, 5, width=8, blocks=(1, 1, 1, 1), rngs=rngs),
    ),
    "ResNet of bottlenecks": (
        lambda rate: TimmResNet(TimmBottleneck, (1, 1, 1, 1), num_classes=5, **THIN, drop_path_rate=rate),
        lambda rngs: models.ResNet(3, 5, width=8, block=resnets.Bottleneck, blocks=(1, 1, 1, 1), rngs=rngs),
    ),
}


@pytest.mark.parametrize("name", DROPPED)
def test_networks_drop_what_timms_drop(name, monkeypatch):
    """Logits in training, with our draws in the place of timm's: which branches, how likely, and how scaled."""
    make_theirs, make_ours = DROPPED[name]
    rate = 0.5 if name == "ViT" else 0.75  # timm's rates are float32: these are whole numbers of quarters
    torch.manual_seed(0)
    theirs = unlike_the_start(make_theirs(rate)).double().train()
    with precision(np.float64):
        ours = nnx.eval_shape(lambda: make_ours(nnx.Rngs(0)))  # weights come from timm
        twin = torch_names.Twin("", RULES[type(ours).__name__])
        arrays = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
        for path, variable in torch_names.variables(ours).items():
            variable.set_value(jnp.asarray(from_torch(arrays[twin.name(path)])))
        models.set_drop_path(ours, rate, name)
        key, image = jax.random.key(3), images(size=(32, 32), dtype=np.float64)
        masks = []  # in the order in which branches are added
        for i, block in enumerate([each for each in models.residual_blocks(ours).values() if each.drop_rate]):
            for which in range(2 if name == "ViT" else 1):
                drawn = jax.random.fold_in(jax.random.fold_in(key, i), which)
                kept = 1 - block.drop_rate
                masks.append((kept, np.asarray(jax.random.bernoulli(drawn, kept, (len(image),)))))
        assert any(not mask.all() for _, mask in masks)
        assert any(mask.any() for _, mask in masks)
        turn = iter(masks)

        def replayed(tensor, probability):
            kept, mask = next(turn)
            assert probability == pytest.approx(kept)
            return tensor.copy_(torch.tensor(mask, dtype=tensor.dtype).reshape(tensor.shape))

        monkeypatch.setattr(torch.Tensor, "bernoulli_", replayed)
        with torch.no_grad():
            wanted = theirs(torch.tensor(image)).numpy()
        assert next(turn, None) is None
        ours.train()

        @nnx.jit
        def logits(model, image):
            with models.dropping(model, key):
                return model(image)

        assert_close(logits(ours, jnp.asarray(image.transpose(0, 2, 3, 1))), wanted, "logits float64")


@pytest.mark.parametrize("name", ["vit_small_patch16_224", "convnext_tiny"])
def test_rates_by_layer_are_timms(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=5)
    names = {id(parameter): each for each, parameter in theirs.named_parameters()}
    groups = param_groups_layer_decay(theirs, layer_decay=0.7)
    wanted = {names[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}
    arguments = {"in_channels": 3, "num_classes": 5, "image_size": (224, 224)}
    ours = nnx.eval_shape(lambda: models.make(name, **arguments, rngs=nnx.Rngs(0)))
    twin = torch_names.twin(name, **arguments, width=None)
    rates = {twin.name(tuple(path.split("."))): rate for path, rate in models.layer_rates(ours, 0.7, "head", name)}
    assert rates == pytest.approx(wanted)
    assert len(set(rates.values())) == len(models.residual_blocks(ours)) + 2
