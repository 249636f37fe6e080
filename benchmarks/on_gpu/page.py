"""The result file's targets, and its tables in Markdown. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.measuring import target

SHARE_OF_COPY, TIMES_EAGER, TIMES_COMPILED, OVERHEAD = 0.9, 1.5, 1.1, 1.02
TIMES_YARDSTICK = 2.0  # as far from PyTorch as PyTorch is from itself elsewhere, or twice that


def targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each target that was measured: what was `measured`, its bound, whether it was `hit`, and of a miss the reason."""
    return [
        target(what, measured, reason=reason, **{bound: value})
        for what, bound, value, measured, reason in _found(result)
        if measured is not None
    ]


def not_measured(result: dict[str, Any]) -> list[str]:
    """The targets that were not: their part failed, or was left out."""
    return [what for what, _, _, measured, _ in _found(result) if measured is None]


def _found(result: dict[str, Any]) -> Iterator[tuple[str, str, float, float | None, str]]:
    """What each target is of, its bound, what was measured, and what says most about a miss."""
    for key, values in _results(result, "parity").items():
        for path, each in _distances(values):
            apart = f"{each['from_torch']:.1e} of the largest number, PyTorch from itself {each['yardstick']:.1e}"
            yield (
                f"parity, {key}, {path}, times the yardstick",
                "at_most",
                TIMES_YARDSTICK,
                each["times_yardstick"],
                apart,
            )
    for shape, values in _results(result, "mixing").items():
        for method in ("MixUp", "CutMix"):
            shares = values[method]["share_of_copy"]
            times = [1e6 * values[name]["seconds"]["jax_mix"]["median_s"] for name in (method, "copy")]
            theirs = ", ".join(f"{title} {share:.2f}" for title, share in shares.items() if title != "jax_mix")
            reason = f"{times[0]:.0f} us a call, a copy {times[1]:.0f} us; of others {theirs}"
            yield (
                f"{method} of {shape}, share of a copy's bandwidth",
                "at_least",
                SHARE_OF_COPY,
                shares["jax_mix"],
                reason,
            )
    for part in result["parts"]:
        kind, _, network = part.partition(" ")
        median = _medians(result, part)
        if kind == "train":
            times = ", ".join(f"{title} {1e3 * each:.1f}" for title, each in median.items())
            for title, least in (("PyTorch", TIMES_EAGER), ("torch.compile", TIMES_COMPILED)):
                both = "jax_mix" in median and title in median
                over = median[title] / median["jax_mix"] if both else None
                what = f"{network}, images a second over those of {title}"
                yield what, "at_least", least, over, f"ms a step: {times}"
        elif kind == "overhead":
            for method in ("mixup", "cutmix", "manifold"):
                what = f"{network}, step with {method} over the step without"
                reason = f"PyTorch's is {_number(_over(median, 'PyTorch', method), 3)}"
                yield what, "at_most", OVERHEAD, _over(median, "jax_mix", method), reason


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: what was not measured and why, then a table for each kind of part."""
    hardware = _results(result, "hardware")
    versions = hardware.get("versions", {})
    named = [f"{name} {versions[name]}" for name in ("jax", "flax", "torch", "torchvision", "timm") if name in versions]
    lines = [", ".join([hardware.get("jax", {}).get("kind", "unknown device"), *named]) + "."]
    lines += [f"Without {name}: {why}." for name, why in hardware.get("without", {}).items()]
    for name, part in result["parts"].items():
        if part["status"] != "done":
            lines.append(f'Part "{name}": {part["status"]}, {part.get("why", "no reason was told")}.')
        for key, value in part.get("results", {}).items():
            for how in ("failed", "left_out"):
                if isinstance(value, dict) and how in value:
                    lines.append(f'In part "{name}", {key}: {how.replace("_", " ")}, {value[how]}.')
    blocks = ["\n".join(f"- {line}" for line in lines)]
    blocks += [
        _table(*each) for each in (_parity(result), _mixing(result), _training(result), _overhead(result)) if each[1]
    ]
    if missing := not_measured(result):
        blocks.append("Not measured: " + "; ".join(missing) + ".")
    return "\n\n".join(blocks)


def _parity(result: dict[str, Any]) -> tuple[str, list[str]]:
    head = "parity | ours from PyTorch, largest relative | PyTorch here from on the CPU | times"
    rows = [
        f"{key}, {path} | {each['from_torch']:.1e} | {each['yardstick']:.1e} | {_number(each['times_yardstick'])}"
        for key, values in _results(result, "parity").items()
        for path, each in _distances(values)
    ]
    return head, rows


def _mixing(result: dict[str, Any]) -> tuple[str, list[str]]:
    titles = ("jax_mix", "PyTorch", "torch.compile")
    head = "GB/s (share of the faster copy's) | " + " | ".join(titles)
    rows = []
    for shape, values in _results(result, "mixing").items():
        for operation in ("copy", "MixUp", "CutMix"):
            if operation not in values:
                continue
            rates, shares = values[operation]["bytes_a_second"], values[operation].get("share_of_copy", {})
            cells = [
                f"{rates[title] / 1e9:.0f}" + (f" ({shares[title]:.2f})" if title in shares else "")
                if title in rates
                else ""
                for title in titles
            ]
            rows.append(f"{operation}, {shape} | " + " | ".join(cells))
    return head, rows


def _training(result: dict[str, Any]) -> tuple[str, list[str]]:
    titles = ("jax_mix", "PyTorch", "torch.compile")
    head = "images a second (part of the device's peak; memory, GB) | batch | " + " | ".join(titles)
    rows = []
    for part in result["parts"]:
        found = _results(result, part)
        if not part.startswith("train ") or "images_a_second" not in found:
            continue
        cells = []
        for title in titles:
            if title not in found["images_a_second"]:
                cells.append("")
                continue
            memory = found.get(f"memory, {title}", {})
            held = memory.get("program") or memory.get("in_use")
            used = found["utilisation"][title]
            told = ["-" if used is None else f"{used:.0%}", _number(held and held / 1e9)]
            cells.append(f"{found['images_a_second'][title]:.0f} ({'; '.join(told)})")
        rows.append(f"{part.removeprefix('train ')} | {found['step']['batch']} | " + " | ".join(cells))
    return head, rows


def _overhead(result: dict[str, Any]) -> tuple[str, list[str]]:
    head = "step over the step without | jax_mix | PyTorch, eager"
    rows = []
    for part in result["parts"]:
        median = _medians(result, part)
        if part.startswith("overhead ") and median:
            for method in ("mixup", "cutmix", "manifold"):
                cells = " | ".join(_number(_over(median, side, method), 3) for side in ("jax_mix", "PyTorch"))
                rows.append(f"{part.removeprefix('overhead ')}, {method} | {cells}")
    return head, rows


def _results(result: dict[str, Any], part: str) -> dict[str, Any]:
    """What a part found, without what failed or was left out in it, by name."""
    return {
        key: value
        for key, value in result["parts"].get(part, {}).get("results", {}).items()
        if not (isinstance(value, dict) and value.keys() & {"failed", "left_out"})
    }


def _medians(result: dict[str, Any], part: str) -> dict[str, float]:
    seconds = _results(result, part).get("step", {}).get("seconds", {})
    return {title: each["median_s"] for title, each in seconds.items()}


def _over(median: dict[str, float], side: str, method: str) -> float | None:
    with_it, without = median.get(f"{side}, {method}"), median.get(f"{side}, none")
    return with_it / without if with_it and without else None


def _distances(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in values.items():
        here = f"{path}, {key}" if path else key
        if "from_torch" in value:
            yield here, value
        else:
            yield from _distances(value, here)


def _table(head: str, rows: list[str]) -> str:
    return "\n".join([f"| {head} |", "|" + "---|" * (head.count("|") + 1), *(f"| {row} |" for row in rows)])


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
