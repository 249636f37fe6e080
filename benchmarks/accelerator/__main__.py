"""See the package."""

import argparse
import sys
from pathlib import Path

import jax

from benchmarks import accelerator, measuring

parser = argparse.ArgumentParser(
    "python -m benchmarks.accelerator", None, accelerator.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--minutes", type=float, default=10.0, help="in which all is done, or left out (10)")
parser.add_argument("--small", action="store_true", help="in miniature, on any machine")
parser.add_argument("--results", type=Path, help="the folder of the result file (benchmarks/results)")
given = parser.parse_args()
if given.results is not None:
    measuring.RESULTS = given.results
if jax.devices()[0].platform != "gpu" and not given.small:
    sys.exit(f"JAX sees no GPU here, but {jax.devices()[0].device_kind}: --small runs all of it in miniature.")
result = accelerator.measure(minutes=given.minutes, small=given.small)
print(accelerator.table(result))
