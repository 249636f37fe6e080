"""The checksums of a checkpoint, by which it is known whether each file is as it was written."""

from __future__ import annotations

import hashlib
from pathlib import Path

_FILE = "SHA256SUMS"  # as `sha256sum -c` reads it


def write(folder: Path) -> None:
    """Write SHA256SUMS into the folder of a checkpoint."""
    lines = [f"{digest}  {name}\n" for name, digest in sorted(_of(folder).items())]
    (folder / _FILE).write_text("".join(lines))


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if every file is as it was written."""
    try:
        lines = (folder / _FILE).read_text(errors="replace").splitlines()
        found = _of(folder)
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}"
    written = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in sorted(written.keys() | found.keys()):
        if written.get(name) != found.get(name):
            return f"{name} is " + ("missing" if name not in found else f"not as {_FILE} says")
    return None


def _of(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file in the folders of a checkpoint; those beside them change later, and are not needed."""
    digests = {}
    for path in folder.glob("*/**/*"):
        if path.is_file():
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
