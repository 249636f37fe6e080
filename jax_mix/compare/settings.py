"""What a comparison depends on, and the runs it is made of."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from jax_mix.training import methods
from jax_mix.training.balance import BALANCED
from jax_mix.training.checks import Count, Must, check_fields, within
from jax_mix.training.config import Alpha, Config
from jax_mix.training.errors import require

# Not flags of a comparison.
_OF_A_RUN = (
    *("mix", "seed", "label_noise", "overwrite", "resume", "coordinator", "num_processes", "process_id"),
    *("patience", "keep_best", "shard_parameters"),  # every run is of all epochs, and keeps no network; all fit
    *("crop_scale", "auto_augment", "erasing", "test_crop"),  # of --augment crop
)
_ONLY_MIXED = ("alpha", "alpha_end", "mix_off_epochs", "mix_groups", "mix_per", "layers")


_PART = Must("above 0 and at most 1", lambda part: 0 < part <= 1, or_else="; 0 is always among them")
Parts = tuple[Annotated[float, _PART], ...]


@dataclasses.dataclass(frozen=True)
class ComparisonFlags:
    """What is compared."""

    # what to train; mixup:0.2 for an alpha of its own, mixup:0.8+cutmix:1.0 for one of them each batch, timm:0.8,1.0
    # for timm's: all that a run can be mixed by
    methods: tuple[str, ...] = ("none", "mixup", "manifold", "cutmix")
    # runs of each method; those of one seed share first weights, order of images and wrong labels
    seeds: Annotated[int, within(1, 1000)] = 5
    noise_levels: Parts = (0.2, 0.4, 0.8)  # shares of wrong training labels to train with as well
    radii: Parts = (0.01, 0.03, 0.1)  # of adversarial noise, as parts of the range of pixels
    attacked: Count = 1000  # test images, at most, that are attacked
    batch_seeds: Literal["auto", "on", "off"] = "auto"  # train a method's seeds as one, with vmap; auto: if faster
    quick: bool = False  # in two minutes on two cores: fewer epochs, seeds and noise levels, unless given


@dataclasses.dataclass(frozen=True)
class Comparison(ComparisonFlags, Config):
    """The flags of a run, which hold for every method alike, and what is compared."""

    GROUPS: ClassVar[tuple[type, ...]] = (ComparisonFlags, *Config.GROUPS)
    HIDDEN: ClassVar[tuple[str, ...]] = _OF_A_RUN

    mix: str = "none"
    alpha: Alpha | None = 1.0

    def __post_init__(self) -> None:
        check_fields(self)
        for flag, values in {"methods": self.methods, "noise-levels": self.noise_levels, "radii": self.radii}.items():
            require(len(set(values)) == len(values), f"--{flag} must differ from each other, got {values}.")
        require(bool(self.methods), "--methods must name at least one.")
        require(
            self.augment != "crop",
            "--augment crop is not for compare, whose attacks and corruptions need images that are decoded beforehand.",
        )
        for method in self.methods:
            self.config(method, 0.0, 0)  # complains of what a run cannot do
        require(
            self.batch_seeds != "on" or self.class_weights != (BALANCED,),
            "--batch-seeds on trains seeds as one, and with --class-weights balanced each has weights of its own, by "
            "its wrong labels: drop one.",
        )
        names = set(map(methods.file_name, self.methods))
        require(len(names) == len(self.methods), f"--methods must differ in letters and digits, got {self.methods}.")

    def config(self, method: str, noise: float, seed: int) -> Config:
        """That of one run.

        Raises:
          UserError: there is no such method, or the run is not possible.
        """
        written = methods.make(method, where=f"--methods: {method!r}")
        mix, alpha = methods.as_flags(method)
        parts = methods.parse(mix)
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Config)}
        values |= {"mix": mix, "label_noise": noise, "seed": seed, "name": None}
        if alpha is not None or not any(part.leaves_alpha for part in parts):
            values["alpha"] = alpha
        if len(parts) == 1:
            values["mix_per"] = None
        if not any(map(methods.leaves_layers, methods.every(written))):
            values["layers"] = None
        if written is None:
            values |= {name: getattr(Config, name) for name in _ONLY_MIXED}
        return Config(**values)

    @property
    def flags(self) -> dict[str, Any]:
        """What `--config` reads: all that can be given."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in _OF_A_RUN}

    @property
    def cells(self) -> list[Cell]:
        """All runs, in the order in which they are made: first what the first seeds tell without wrong labels."""
        return [
            Cell(method, noise, seed, self.config(method, noise, seed))
            for noise in (0.0, *sorted(self.noise_levels))
            for seed in range(self.seeds)
            for method in self.methods
        ]


class Cell(NamedTuple):
    """One run of a comparison."""

    method: str  # as in --methods
    noise: float  # share of wrong training labels
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{methods.file_name(self.method)}-noise{self.noise:g}-seed{self.seed}"


QUICK: dict[str, Any] = {"seeds": 3, "epochs": 5, "noise_levels": (0.4,), "radii": (0.03, 0.1), "attacked": 200}
