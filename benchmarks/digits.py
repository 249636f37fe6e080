"""The default run of train.py, for each method and three seeds: test accuracy, NLL, ECE and seconds.

    python -m benchmarks.digits

Each is a first start: no compiled program is kept from one to the next.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measuring import ROOT, save

TRAIN = ROOT / "train.py"
SEEDS = (0, 1, 2)
ANEW = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}


def main() -> None:
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as out:
        for mix in ("none", "mixup", "manifold", "cutmix"):
            for seed in SEEDS:
                flags = ["--mix", mix, "--seed", str(seed), "--out", out, "--name", "run", "--overwrite"]
                start = time.perf_counter()
                subprocess.run([sys.executable, str(TRAIN), *flags], env=ANEW, check=True)
                seconds = time.perf_counter() - start
                metrics = json.loads((Path(out) / "run" / "metrics.json").read_text())
                runs.setdefault(mix, []).append({k: metrics[k] for k in ("accuracy", "nll", "ece")} | {"s": seconds})
    save(
        "digits",
        {
            "what": f"python train.py --mix MIX --seed SEED, seeds {SEEDS}; s: seconds of the command",
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
