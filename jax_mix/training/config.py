"""What a run depends on: its flags, in the groups that --help shows.

A new flag is one line: its type, which says what it must be, its default, and a comment, which is its --help. What two
flags must be together is checked in `Config`; what depends on devices or data, in `build.py` and `data/`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from typing import Annotated, Any, ClassVar, Literal

from jax_mix.training import cropping, methods
from jax_mix.training.checks import POSITIVE, Between0And1, Count, Must, Positive, check_fields, within
from jax_mix.training.data import AugmentName, BrokenImages, FeedName, SplitBy, check_normalization
from jax_mix.training.errors import UserError, require
from jax_mix.training.losses import LossName
from jax_mix.training.models import NAMES, ModelName
from jax_mix.training.optimisation_checks import check_optimisation
from jax_mix.training.optimizers import OptimizerName, ScheduleName

_MOST = 4 * (os.cpu_count() or 1)  # each is a Python with JAX in it: thousands would fill the memory
_MIXES = Must(
    f"at least {methods.LEAST_ALPHA}, below which next to nothing is mixed", lambda alpha: alpha >= methods.LEAST_ALPHA
)
AlphaEnd = Annotated[float, POSITIVE, _MIXES]
Alpha = Annotated[float, *(dataclasses.replace(must, or_else="; or --mix none") for must in (POSITIVE, _MIXES))]
Parts = Annotated[tuple[float, ...], Must("parts between 0 and 1", lambda part: 0 < part < 1)]
PartOfRate = Annotated[float, Must("positive, and at most 1", lambda part: 0 < part <= 1)]
Share = Annotated[float, within(0, 1)]
ShareLess1 = Annotated[float, Must("0 or more, and less than 1", lambda share: 0 <= share < 1)]
Bits = Annotated[int, within(8, 16)]
Decay = Annotated[float, Must("0 or positive, and finite", lambda decay: 0 <= decay < math.inf)]
Side = Annotated[int, within(1, 4096)]
Seed = Annotated[int, within(0, 2**32 - 1)]
Workers = Annotated[int, within(0, _MOST, ", four a core")]


@dataclasses.dataclass(frozen=True)
class MixingFlags:
    """How batches are mixed."""

    # how each batch is mixed: manifold, mixup, cutmix, output or none; a method's own arguments stand behind it, as in
    # cutmix:1.0,box=paper; mixup+cutmix draws one of them for each batch, mixup+cutmix@0.3 the second one for 30%;
    # timm:0.8,1.0 mixes as timm does, and docs/recipes.md names the others
    mix: str = "manifold"
    # what one of several methods is drawn for: each batch, sample or pair of partners; None: batch
    mix_per: Literal["batch", "sample", "pair"] | None = None
    # lambda is drawn from Beta(alpha, alpha), but of methods that say their own; None: 0.4, for cutmix 1.0
    alpha: Alpha | None = None
    alpha_end: AlphaEnd | None = None  # alpha at the end of the run, reached along half a cosine; None: it stays
    # where manifold mixes besides the input: names of layers, * for any; None: as the model has it; help: show them
    layers: tuple[str, ...] | None = None
    mix_off_epochs: int = 0  # how many epochs at the end are not mixed
    mix_groups: Count | None = None  # groups of a batch that mix among themselves; None: one for each device


@dataclasses.dataclass(frozen=True)
class DataFlags:
    """The images, and what is done to them before they are mixed."""

    dataset: str = "digits"  # digits, the name of a TFDS set that is in data-dir, or a folder of images, ./photos
    data_dir: str | None = None  # TFDS's folder; None: TFDS_DATA_DIR or ~/tensorflow_datasets
    train_images: Count | None = None  # how many of the training images are used, drawn at random; None: all
    label_noise: Share = 0.0  # share of training labels that are drawn anew, to see what wrong labels do
    image_size: Side | None = None  # side to which images are resized, and cut square; None: they are of one size
    # a table, .csv, of a folder's files and their labels, a header first; None: labels are the names of its folders
    labels: str | None = None
    # what stands between the labels of a file in that table, as " " or ";", where each has any number; None: each has
    # one, but where the table has a column of 0 and 1 for each label
    label_delim: str | None = None
    # share of a folder's images for the test, if neither folders nor --labels say which; None: 0.2
    test_fraction: Between0And1 | None = None
    # folder: all in a subfolder of a class, a patient's or a video's, go together to training or the test; image: each
    # by itself; None: image, but subfolders that could be the classes are refused
    split_by: SplitBy | None = None
    bits: Bits | None = None  # bits that are in use in a folder's 16-bit images: 12 for most scanners; None: 16
    broken_images: BrokenImages = "stop"  # at a folder's image that cannot be decoded: stop, or name it and go on
    # where decoded images and compiled programs are kept; with JAX_ENABLE_COMPILATION_CACHE=0 in the environment
    # programs are not; None: ~/.cache/jax_mix
    cache_dir: str | None = None
    # by which mean and deviation pixels are normalised: data: the training images'; imagenet; half: a half each; or
    # those of each channel, of pixels from 0 to 255; None: as the network of --weights needs it, else data
    normalize: tuple[str, ...] | None = None
    # what is done to training images at random, besides mixing: moved by up to an eighth; shift_flip: mirrored too;
    # crop: a part of the image, resized and mirrored, of images of any size, which are decoded as they are needed
    augment: AugmentName = "shift"
    crop_scale: tuple[float, ...] | None = None  # the least and largest part of an image that a crop is; None: 0.08 1
    # what is done to crops besides: trivial: TrivialAugment; rand:2,9: RandAugment, two operations, level 9 of 30;
    # none or None: nothing
    auto_augment: str | None = None
    erasing: Share | None = None  # probability that a box of a crop is erased; None: 0
    test_crop: PartOfRate | None = None  # with crop: the part of test images' shorter side that is kept; None: 0.875
    feed: FeedName = "auto"  # device: all images are kept there; grain: they are read as needed; auto: by size
    workers: Workers = 0  # processes that read images for grain; 0: threads of this one


@dataclasses.dataclass(frozen=True)
class OptimisationFlags:
    """How the network is trained."""

    epochs: Count = 20  # passes over the training images
    batch_size: Count = 64  # images in a step
    # sgd and adam add weight decay to the gradient, adamw to the step; lamb is timm's, for batches of thousands
    optimizer: OptimizerName = "sgd"
    adam_beta2: Between0And1 | None = None  # of adam, adamw and lamb; None: 0.99, fastai's; of lamb 0.999, timm's
    adam_epsilon: Positive | None = None  # of the same; None: 1e-5, fastai's; of lamb 1e-6, timm's
    # of the learning rate; one_cycle: of momentum too; fine_tune: one such for --freeze-epochs and one for the rest
    schedule: ScheduleName = "one_cycle"
    milestones: Parts = (0.5, 0.75)  # with --schedule step: the rate is divided by 10 after these parts of the run
    learning_rate: Positive = 0.1  # the peak of the schedule
    # epochs in which the rate first rises, from a thousandth, where cosine, step or constant begin; None: none
    warmup_epochs: Count | None = None
    clip_norm: Positive | None = None  # gradients of a larger norm, all together, are scaled down to it; None: none are
    weight_decay: Decay = 5e-4  # of convolutions and the head; none for BatchNorm and biases
    label_smoothing: ShareLess1 = 0.0  # share of each target that is spread over all classes
    # bce: the binary cross-entropy of each class by itself, its mean over the classes; bce_sum: its sum; None:
    # cross_entropy
    loss: LossName | None = None
    target_threshold: Between0And1 | None = None  # with bce: mixed targets above it are 1, others 0; None: they stay
    # how much the loss of each class's images weighs: balanced: as if all had as many; or a number for each class, in
    # the order in which the start of a run names them; None: all alike
    class_weights: tuple[str, ...] | None = None
    # balanced: images are drawn anew for each epoch, of every class about as many; None: each image comes once
    sampler: Literal["balanced"] | None = None
    # how likely the last residual block is left out for an image (stochastic depth); the first never is, those between
    # by their depth; None: none are
    drop_path: Between0And1 | None = None
    accumulate: Count = 1  # parts of a batch that are computed one after the other, to save memory
    freeze_epochs: Count | None = None  # epochs at the start in which the head learns alone, and norms; None: none
    body_rate: PartOfRate | None = None  # the learning rate of all but the head, as a part of the head's; None: 1
    # of vit and convnext: the learning rate of each layer, as a part of that of the layer above it; None: 1
    layer_decay: Between0And1 | None = None
    ema: Between0And1 | None = None  # decay of averaged weights, say 0.999, which are then evaluated; None: no average
    # epochs from one look at the test images to the next, the last of which is always taken; None: after each
    evaluate_every: Count | None = None
    # end after so many epochs without one of higher test accuracy (mean average precision); None: after --epochs
    patience: Count | None = None


@dataclasses.dataclass(frozen=True)
class ModelFlags:
    """The network."""

    # a network's name, or package.module:factory or file.py:factory, one of your own
    model: ModelName | str = "preact_resnet8"
    # weights to start from: a file, .safetensors, .pt or .pth, by the names of torchvision, fastai or timm; or the
    # folder of a finished run; None: random ones
    weights: str | None = None
    width: Count | None = None  # channels of the network's first stage; None: its own
    dtype: Literal["float32", "bfloat16"] = "float32"  # what layers compute in; parameters are float32


@dataclasses.dataclass(frozen=True)
class RunFlags:
    """Random numbers, and where results go."""

    seed: Seed = 0  # of everything random: the same seed on the same machine gives the same numbers
    out: str = "runs"  # folder for results
    name: str | None = None  # the run's folder in out; None: DATASET-MIX-SEED, with a number if that is taken
    overwrite: bool = False  # replace the run of that name


@dataclasses.dataclass(frozen=True)
class CheckpointFlags:
    """What a run that is cut off goes on from."""

    resume: bool = False  # --resume runs/NAME: continue it, with its flags; alone: the run that the other flags name
    checkpoint_every: Count | None = None  # steps between checkpoints; None: those of an epoch
    keep_best: bool = False  # keep the epoch of the highest test accuracy (mean average precision) besides the last


@dataclasses.dataclass(frozen=True)
class DeviceFlags:
    """What a batch is split over."""

    devices: Count | None = None  # how many the batch is split over; None: all
    # split the parameters over them too, with their averages and the optimizer's state: for networks that are too large
    # for one; each array is whole only while it is used
    shard_parameters: bool = False
    coordinator: str | None = None  # host:port of process 0 when there are several; auto on clusters that JAX knows
    num_processes: int | None = None  # how many processes --coordinator joins
    process_id: int | None = None  # which of them this is, from 0


@dataclasses.dataclass(frozen=True)
class Config(
    DeviceFlags, CheckpointFlags, RunFlags, ModelFlags, OptimisationFlags, DataFlags, MixingFlags
):  # fields come from the last base first
    """What a run depends on."""

    GROUPS: ClassVar[tuple[type, ...]] = (
        MixingFlags,
        DataFlags,
        ModelFlags,
        OptimisationFlags,
        RunFlags,
        CheckpointFlags,
        DeviceFlags,
    )
    HIDDEN: ClassVar[tuple[str, ...]] = ()  # flags that --help does not show

    def __post_init__(self) -> None:
        check_fields(self)
        self._check_mixing()
        self._check_batch()
        self._check_data_and_schedule()
        cropping.check(self)
        self._check_fine_tuning()
        check_optimisation(self)
        self._check_processes()
        require(not (self.resume and self.overwrite), "--resume goes on with a run, --overwrite replaces it: drop one.")

    def evaluates(self, epoch: int) -> bool:
        """Whether the test images are looked at after this epoch, counted from 1."""
        return epoch % (self.evaluate_every or 1) == 0 or epoch == self.epochs

    def _check_mixing(self) -> None:
        mix, off = self.mix, self.mix_off_epochs
        parts = methods.parse(mix)
        if mix == "none":
            require(self.alpha is None, f"--alpha is {self.alpha}, but --mix none draws no lambda: drop one.")
            given = {"alpha-end": self.alpha_end, "mix-groups": self.mix_groups, "mix-off-epochs": off or None}
            for name, value in given.items():
                require(value is None, f"--{name} is {value}, but --mix none does not mix: drop one of them.")
        require(0 <= off <= self.epochs, f"--mix-off-epochs must be from 0 to --epochs {self.epochs}, got {off}.")
        require(
            self.alpha is None or any(part.leaves_alpha for part in parts),
            f"--alpha is {self.alpha}, but --mix {mix} leaves no alpha open: say it there, or drop it.",
        )
        require(
            self.mix_per is None or len(parts) > 1,
            f"--mix-per is {self.mix_per}, but --mix {mix} is one method, not one of several: drop it; a method's own "
            "is --mix mixup:per=batch.",
        )
        method = methods.make(mix, self.alpha, self.mix_groups, self.mix_per)
        require(
            self.alpha_end is None or methods.has_one_alpha(method),
            f"--alpha-end is {self.alpha_end}, but --mix {mix} has not one alpha for all, to begin with: drop it.",
        )
        require(
            self.layers in (None, HELP) or any(map(methods.leaves_layers, methods.every(method))),
            f"--layers is only for --mix manifold, where --mix does not name layers itself; got --mix {mix}.",
        )
        require(self.layers != (), "--layers must name at least one layer; to mix the input alone: --mix mixup.")

    def _check_batch(self) -> None:
        parts, groups = self.accumulate, self.mix_groups
        require(
            self.batch_size % parts == 0,
            f"--accumulate must divide --batch-size {self.batch_size}, got {parts}.",
        )
        part = self.batch_size // parts
        require(
            part % (groups or 1) == 0,
            f"--mix-groups must divide the {part} images of a batch, or of its part with --accumulate; got {groups}.",
        )
        if self.mix == "none":
            return
        require(
            part >= 2,
            f"--batch-size must be at least {2 * parts}, or an image has none to be mixed with in its "
            f"{'batch' if parts == 1 else f'part, one of --accumulate {parts}'}; got {self.batch_size}; or --mix none.",
        )
        require(
            part // (groups or 1) >= 2,
            f"--mix-groups must leave two images or more in each group of {part}, or none has a partner; got {groups}.",
        )

    def _check_data_and_schedule(self) -> None:
        delimiter, split_by = self.label_delim, self.split_by
        require(
            delimiter is None or self.labels is not None,
            f"--label-delim is {delimiter!r}, but there is no table: give --labels FILE.csv.",
        )
        require(delimiter != "", "--label-delim must be a letter or more, as ' ' or ';', got ''.")
        require(
            split_by is None or self.labels is None,
            f"--split-by is {split_by}, of folders that are classes, and --labels says what is on images: drop it; a "
            "column is_valid in the table can say which are for the test.",
        )
        require(self.workers == 0 or self.feed != "device", f"--workers is {self.workers}, but --feed device has none.")
        require(
            self.schedule == "step" or self.milestones == Config.milestones,
            f"--milestones is only for --schedule step, got --schedule {self.schedule}.",
        )

    def _check_fine_tuning(self) -> None:
        if self.normalize is not None:
            check_normalization(self.normalize)
        frozen, start = self.freeze_epochs, self.weights is not None or self.model not in NAMES
        for name, value in {"freeze-epochs": frozen, "body-rate": self.body_rate}.items():
            told = f"--{name} is {value}, but --model {self.model} starts from random weights: give --weights too."
            require(value is None or start, told)
        require(
            frozen is None or frozen <= self.epochs,
            f"--freeze-epochs must be at most --epochs {self.epochs}, of which they are the first; got {frozen}.",
        )
        require(
            self.schedule != "fine_tune" or (frozen or self.epochs) < self.epochs,
            f"--schedule fine_tune needs --freeze-epochs, less than --epochs {self.epochs}; got {frozen}.",
        )

    def _check_processes(self) -> None:
        count, which = self.num_processes, self.process_id
        if self.coordinator in (None, "auto"):
            for name, value in {"num-processes": count, "process-id": which}.items():
                told = f"--{name} is {value}, but --coordinator is {self.coordinator}: it must be host:port."
                require(value is None, told)
            return
        host_and_port = re.fullmatch(r".+:\d{1,5}", self.coordinator)
        require(bool(host_and_port), f"--coordinator must be host:port or auto, got {self.coordinator!r}.")
        if count is None or which is None:
            missing = "--num-processes" if count is None else "--process-id"
            raise UserError(f"{missing} must be given with --coordinator {self.coordinator}.")
        require(count >= 1, f"--num-processes must be at least 1, got {count}.")
        require(
            0 <= which < count, f"--process-id must be from 0 to {count - 1} (--num-processes less 1), got {which}."
        )


HELP = ("help",)  # as --layers: show the layers there are
# Flags that say where a run is, and their neutral values. Another number of devices only changes rounding.
HERE: dict[str, Any] = {"resume": False, "overwrite": False}
HERE |= {field.name: field.default for field in dataclasses.fields(DeviceFlags)}
# May differ between the processes of one run.
OF_EACH_PROCESS = ("process_id", "data_dir", "cache_dir", "feed", "workers", "out")
MAY_DIFFER = ("data_dir", "cache_dir", "feed", "workers", "out", "name", "checkpoint_every", *HERE)
