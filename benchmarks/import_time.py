"""What `import jax_mix` costs above `import flax.nnx`: fresh interpreters, taking turns.

python -m benchmarks.import_time
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.measuring import save, side_by_side, summary

ROUNDS = 10


def main() -> None:
    def run(module: str):
        return lambda: subprocess.run([sys.executable, "-c", f"import {module}"], check=True)

    seconds = side_by_side({module: run(module) for module in ("flax.nnx", "jax_mix")}, rounds=ROUNDS)
    medians = {module: summary(times) for module, times in seconds.items()}
    extra = medians["jax_mix"]["median_s"] - medians["flax.nnx"]["median_s"]
    save("import_time", {"what": "seconds of a fresh interpreter", "import": medians, "above_flax_nnx_s": extra})


if __name__ == "__main__":
    main()
