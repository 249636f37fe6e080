"""Small faults, planted one at a time in a copy of the project: the test that is named has to turn red for each.

python -m parity_tests.faults: all of them, in some minutes.

python -m parity_tests.faults compare pgd: those with "compare" or "pgd" in their file, text or test.

It ends with status 1 if a test stayed green, or could not be run. parity_tests/parity/test_mutations.py does the same
for the library's arithmetic, without a copy.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from parity_tests.planted import FAULTS, Fault

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "runs", "shared", "evidence", "*.png")


def main() -> int:
    words = sys.argv[1:]
    chosen = [fault for fault in FAULTS if not words or any(word in text for word in words for text in fault)]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(ROOT, Path(folder) / "copy", ignore=LEFT_OUT))
        green = [fault for fault in chosen if not turns_red(copy, fault)]
    print(f"{len(chosen)} faults, of which {len(green)} stayed unseen")
    return 1 if green else 0


def turns_red(copy: Path, fault: Fault) -> bool:
    """Whether the test fails with the fault in the copy, which is mended then."""
    path = copy / "jax_mix" / fault.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    options = ["-n", "0", "-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb", "no"]
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}  # no stale bytecode
    command = [sys.executable, "-m", "pytest", *options, f"parity_tests/{fault.test}"]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    path.write_text(text, encoding="utf-8")
    red = done.returncode == 1  # others: a test that is not there, or an import that fails
    seen = {0: "GREEN", 1: "red"}.get(done.returncode, f"NOT RUN, status {done.returncode}")
    print(f"{seen}: {fault.file}: {fault.new!r} in the place of {fault.old!r}", flush=True)
    if not red:
        print(f"    {fault.test}\n    {(done.stdout.strip().splitlines() or [''])[-1]}", flush=True)
    return red


if __name__ == "__main__":
    sys.exit(main())
