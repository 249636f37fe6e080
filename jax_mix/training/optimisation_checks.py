"""What flags of how a network is trained must be together, told before anything is read."""

from __future__ import annotations

from typing import Any

from jax_mix.training.balance import BALANCED, numbers_of
from jax_mix.training.errors import require


def check_optimisation(config: Any) -> None:
    """Raise `UserError` if flags of a `Config` do not go together: rates, optimizer, loss, and how classes weigh."""
    _check_rates(config)
    adams = {"adam-beta2": config.adam_beta2, "adam-epsilon": config.adam_epsilon}
    for name, value in adams.items():
        require(
            value is None or config.optimizer != "sgd",
            f"--{name} is {value}, but --optimizer sgd has none: it is of adam, adamw and lamb.",
        )
    _check_loss(config)


def _check_rates(config: Any) -> None:
    warmup, schedule, frozen = config.warmup_epochs, config.schedule, config.freeze_epochs
    require(
        warmup is None or schedule not in ("one_cycle", "fine_tune"),
        f"--warmup-epochs is {warmup}, but --schedule {schedule} has a warm-up of its own: drop it, or take cosine, "
        "step or constant.",
    )
    require(
        warmup is None or warmup < config.epochs,
        f"--warmup-epochs must be less than --epochs {config.epochs}, of which they are the first; got {warmup}.",
    )
    clips = "--optimizer lamb" if config.optimizer == "lamb" else f"--clip-norm {config.clip_norm}"
    require(
        frozen is None or (config.clip_norm is None and config.optimizer != "lamb"),
        f"{clips} clips by the norm of all gradients, and --freeze-epochs leaves some of them out: drop one.",
    )
    require(
        config.layer_decay is None or config.body_rate is None,
        f"--layer-decay is {config.layer_decay} and --body-rate {config.body_rate}: both say how fast the body learns: "
        "drop one.",
    )


def _check_loss(config: Any) -> None:
    threshold, weights, loss = config.target_threshold, config.class_weights, config.loss or "cross_entropy"
    require(
        threshold is None or loss != "cross_entropy",
        f"--target-threshold is {threshold}, but --loss cross_entropy has none: it is of bce and bce_sum.",
    )
    if weights is None:
        return
    told = f"--class-weights is {' '.join(weights)}"
    require(
        loss == "cross_entropy",
        f"{told}, but --loss {loss} weighs no classes: drop one, or take --sampler balanced.",
    )
    require(
        config.label_smoothing == 0,
        f"{told} and --label-smoothing {config.label_smoothing}: torch and fastai weigh smoothed labels in different "
        "ways: drop one.",
    )
    require(
        config.sampler is None or weights != (BALANCED,),
        "--class-weights balanced and --sampler balanced both make up for rare classes: drop one.",
    )
    numbers_of(weights)
