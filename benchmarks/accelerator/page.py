"""The result file's targets, and its tables in Markdown. Nothing is measured here, nor imported that measures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SHARE_OF_COPY, TIMES_EAGER, TIMES_COMPILED, OVERHEAD = 0.9, 1.5, 1.1, 1.02
TIMES_YARDSTICK = 2.0  # as far from PyTorch as PyTorch is from itself elsewhere, or twice that


def targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Each target with what was found: `hit`, or None where it was not measured."""
    return [
        {"what": what, "target": f"{'at least' if least else 'at most'} {target}", "found": found, "hit": hit}
        for what, target, least, found in _found(result)
        for hit in [None if found is None else bool(found >= target if least else found <= target)]
    ]


def _found(result: dict[str, Any]) -> Iterator[tuple[str, float, bool, float | None]]:
    for key, values in _results(result, "parity").items():
        for path, each in _distances(values):
            yield f"parity, {key}, {path}, times the yardstick", TIMES_YARDSTICK, False, each["times_yardstick"]
    for shape, values in _results(result, "mixing").items():
        for method in ("MixUp", "CutMix"):
            if method in values:
                share = values[method]["share_of_copy"]["jax_mix"]
                yield f"{method} of {shape}, share of a copy's bandwidth", SHARE_OF_COPY, True, share
    for part in result["parts"]:
        kind, _, network = part.partition(" ")
        if kind == "train":
            median = _medians(result, part)
            for title, target in (("PyTorch", TIMES_EAGER), ("torch.compile", TIMES_COMPILED)):
                both = "jax_mix" in median and title in median
                times = median[title] / median["jax_mix"] if both else None
                yield f"{network}, images a second over those of {title}", target, True, times
        elif kind == "overhead":
            median = _medians(result, part)
            for method in ("mixup", "cutmix", "manifold"):
                yield (
                    f"{network}, step with {method} over the step without",
                    OVERHEAD,
                    False,
                    _over(median, "jax_mix", method),
                )


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: what was not measured and why, then a table for each kind of part."""
    hardware = _results(result, "hardware")
    versions = result.get("versions", {})
    named = ", ".join(f"{name} {versions[name]}" for name in ("jax", "flax", "torch", "timm") if name in versions)
    lines = [f"{result.get('device', hardware.get('jax', {}).get('kind', 'unknown device'))}; {named}."]
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
    blocks.append(_targets(result))
    return "\n\n".join(block for block in blocks if block)


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
    head = "images a second (utilisation; memory, GB) | batch | " + " | ".join(titles)
    rows = []
    most = _results(result, "hardware").get("bf16_peak_flops")
    for part in result["parts"]:
        found, median = _results(result, part), _medians(result, part)
        if not part.startswith("train ") or not median:
            continue
        cells = []
        for title in titles:
            if title not in median:
                cells.append("")
                continue
            rate = found["step"]["batch"] / median[title]
            used = f"{3 * found['forward_flops_an_image'] * rate / most:.0%}" if most else "peak not known"
            memory = found.get(f"memory, {title}", {})
            held = memory.get("program") or memory.get("in_use")
            cells.append(f"{rate:.0f} ({used}; {_number(held and held / 1e9)})")
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


def _targets(result: dict[str, Any]) -> str:
    every = result.get("targets") or targets(result)
    counts = [sum(each["hit"] is verdict for each in every) for verdict in (True, False, None)]
    told = "Of {} targets {} are hit, {} missed and {} not measured.".format(len(every), *counts)
    missed = [
        f"- missed: {each['what']}: {each['found']:.3g}, target {each['target']}"
        for each in every
        if each["hit"] is False
    ]
    return "\n".join([told, *([""] if missed else []), *missed])


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
    return "not measured" if value is None else f"{value:.{digits}f}"
