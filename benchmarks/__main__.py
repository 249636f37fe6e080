"""Run benchmarks: all, or those that are named, each in a process of its own, in order.

    python -m benchmarks                      # all
    python -m benchmarks mixing train_step    # by name
    python -m benchmarks --list               # what each measures

A benchmark whose packages are not here is skipped, and told. The status is 1 if one failed; a target that was missed is
no failure: it is in the result, with its reason.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent
SKIPPED = 77  # the status of a process whose packages are not here


def benchmarks() -> dict[str, str]:
    """Each module of the folder that has a `main`, and the first line of its docstring; none is imported."""
    found = {}
    for path in sorted(FOLDER.glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def main(words: list[str]) -> int:
    known = benchmarks()
    if words == ["--list"]:
        for name, line in known.items():
            print(f"{name:<{max(map(len, known))}}  {line}")
        return 0
    if words and words[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0
    for word in words:
        if word.startswith("-"):
            print(f"benchmarks: there is no flag {word!r}; there are --list and --help.", file=sys.stderr)
            return 2
        if word not in known:
            near = difflib.get_close_matches(word, known, 1, 0)
            print(
                f"benchmarks: there is no {word!r}; the nearest is {near[0]!r}, and --list names all.", file=sys.stderr
            )
            return 2
    chosen = list(dict.fromkeys(words or known))
    ends = {name: run(name, known[name], f"[{at}/{len(chosen)}]") for at, name in enumerate(chosen, 1)}
    print()
    for name, end in ends.items():
        print(f"{name}: {end}")
    return int(any(end.startswith("failed") for end in ends.values()))


def run(name: str, line: str, count: str) -> str:
    """One benchmark in a process of its own; how it ended, in a line."""
    print(f"{count} {name}: {line}", flush=True)
    begun = time.time()
    code = f"from benchmarks.__main__ import here; here({name!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=FOLDER.parent, check=False)
    print(f"{count} {name}: {time.time() - begun:.0f} s", flush=True)
    if done.returncode == SKIPPED:
        return "skipped, its packages are not here"
    if done.returncode:
        return f"failed with status {done.returncode}"
    written = [path for path in (FOLDER / "results").glob("*.json") if path.stat().st_mtime >= begun]
    return "; ".join(map(end_of, sorted(written))) or "no result was written"


def end_of(path: Path) -> str:
    """Where a result is, and how its targets ended."""
    targets = json.loads(path.read_text(encoding="utf-8")).get("targets", [])
    missed = [target["what"] for target in targets if not target["hit"]]
    told = f"{len(targets) - len(missed)} of {len(targets)} targets hit" if targets else "no targets"
    where = path.relative_to(FOLDER.parent) if path.is_relative_to(FOLDER.parent) else path
    return f"{where}, {told}{', missed: ' if missed else ''}{', '.join(missed)}"


def here(name: str) -> None:
    """Run the benchmark in this process, or end with the status SKIPPED where one of its packages is missing."""
    try:
        importlib.import_module(f"benchmarks.{name}").main()
    except ModuleNotFoundError as error:
        if (FOLDER.parent / str(error.name).partition(".")[0]).exists():  # a module of ours
            raise
        print(f"{name} is skipped: {error}", flush=True)
        sys.exit(SKIPPED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
