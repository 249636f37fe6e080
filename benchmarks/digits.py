"""The default run of train.py, for each method and three seeds: test accuracy, NLL, ECE and seconds.

python -m benchmarks.digits
"""

from __future__ import annotations

import statistics
import tempfile
import time

import train
from benchmarks.measuring import save

SEEDS = (0, 1, 2)


def main() -> None:
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as out:
        for mix in ("none", "mixup", "manifold", "cutmix"):
            for seed in SEEDS:
                start = time.perf_counter()
                _, metrics = train.run(train.Config(mix=mix, seed=seed, out=out))
                seconds = time.perf_counter() - start
                runs.setdefault(mix, []).append({k: metrics[k] for k in ("accuracy", "nll", "ece")} | {"s": seconds})
    save(
        "digits",
        {
            "what": f"python train.py --mix MIX --seed SEED, seeds {SEEDS}; mean and standard deviation",
            "results": {
                mix: {
                    name: {
                        "mean": statistics.mean(r[name] for r in records),
                        "std": statistics.stdev(r[name] for r in records),
                        "n": len(records),
                    }
                    for name in records[0]
                }
                for mix, records in runs.items()
            },
        },
    )


if __name__ == "__main__":
    main()
