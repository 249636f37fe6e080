"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

try:
    import fcntl
except ModuleNotFoundError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

from jax_mix.training.errors import UserError

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LONGEST = 150  # bytes, which leaves room for what is put around them


def expanded(path: str) -> Path:
    """A path as a user writes it: ~ is the home folder, also after a =, where shells leave it."""
    return Path(os.path.expanduser(path))  # of a user that there is not, it leaves it


def one_line(text: str) -> str:
    """A text in which characters that move the cursor, colour a terminal or turn the order of letters are spelled out.

    >>> print(one_line("two\\nlines, \\x1b[31mred"))
    two\\nlines, \\x1b[31mred
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable(text: str) -> str:
    """A file's name as it can be printed, whatever its bytes are.

    >>> printable("caf\\udce9")
    'caf\\\\xe9'
    """
    return one_line(os.fsencode(text).decode("utf-8", "backslashreplace"))


def as_name(text: str) -> str:
    """A text as a part of a file's name, of which the end is kept if it is long: file systems allow 255 bytes.

    >>> as_name("./photos/cats and dogs")
    '.-photos-cats-and-dogs'
    """
    return re.sub(r"[^\w.-]+", "-", text).encode(errors="replace")[-_LONGEST:].decode(errors="ignore")


def as_file_name(text: str) -> str:
    """What of a text can be in a file's name.

    >>> as_file_name("./photos/cats")
    'photos-cats'
    """
    return as_name(text).strip("-.")


@contextlib.contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; it replaces `path` once the body is through, and goes if that fails.

    Raises:
      OSError: `path`, which it names, cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")  # the suffix tells matplotlib the format
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:  # that of a full disk names no file
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_half_written(folder: Path) -> None:
    """Remove what `write_atomically` was writing in processes that were killed; no other may be at work in `folder`."""
    for path in folder.glob(".*.*"):
        if re.fullmatch(r"\..+\.\d+(\.\w+)?", path.name):
            path.unlink()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a folder, which is made if it is not there, for this process until the body ends, or the process is killed.

    Raises:
      UserError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(
            f"another process is at work in '{folder}': wait for its end, or give this one another --name."
        ) from None
    except OSError as error:  # not every file system has locks
        print(f"'{folder}' cannot be locked ({error.strerror}): start nothing else in it meanwhile.", file=sys.stderr)
    try:
        yield
    finally:
        os.close(descriptor)  # and with it the lock goes


def standard(value: Any) -> Any:
    """`value` as JSON's standard has it: null for numbers that are infinite or nan, which it does not know.

    >>> standard({"mean": 0.5, "interval": (-math.inf, math.nan)})
    {'mean': 0.5, 'interval': [None, None]}
    """
    if isinstance(value, Mapping):
        return {key: standard(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [standard(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, whole or not at all."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(standard(value), indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, values: Iterable[Any]) -> None:
    """Write `values` to `path` as JSON, one a line, whole or not at all."""
    with write_atomically(path) as temporary:
        temporary.write_text("".join(json.dumps(standard(value), allow_nan=False) + "\n" for value in values))


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays by name to `path`, which ends in .npz, whole or not at all; `np.load` reads them."""
    with write_atomically(path) as temporary:
        np.savez(temporary, **arrays)


def check_writable(folder: Path) -> None:
    """Try to write where `folder` is or will be made, so that a wrong one is found before training.

    Raises:
      UserError: nothing can be written there, or its path is not UTF-8, as TensorStore needs it for checkpoints.
    """
    path = str(folder.absolute())
    try:
        os.fsencode(path).decode()
    except UnicodeError:
        raise UserError(f"--out: the path of the folder '{printable(path)}' is not UTF-8: give one that is.") from None
    above = (folder, *folder.absolute().parents)
    existing = next(path for path in above if os.path.lexists(path))  # a link to nothing is there too
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"--out: cannot write to the folder '{folder}' ({error.strerror}): give a folder that can be written."
        ) from error
