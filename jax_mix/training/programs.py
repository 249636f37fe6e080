"""Compiled programs on disk: the next start of a run like this one takes them from there, by JAX's own cache of them.

JAX knows a program's entry by all that it was compiled from. What it leaves to others is done here: which processor an
entry is for, whether it is as it was written, and how much of the disk all of them may take.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import math
import os
import platform
import sys
import time
import warnings
from pathlib import Path
from stat import S_ISREG
from typing import Any

import jax

from jax_mix.training.data.cache import default_folder
from jax_mix.training.files import expanded, write_atomically

_MOST = 512 * 2**20  # bytes, of a folder; JAX_COMPILATION_CACHE_MAX_SIZE says otherwise
# Lines of /proc/cpuinfo, of Intel's and AMD's and of ARM's.
_OF_A_PROCESSOR = ("vendor", "cpu family", "model", "stepping", "flags", "CPU ", "Features")
# JAX's options, where the environment sets none.
_OURS = {
    "persistent_cache_min_entry_size_bytes": -1,
    "persistent_cache_min_compile_time_secs": 0,  # a run's small programs together take seconds
    "persistent_cache_enable_xla_caches": "none",  # XLA's own files have no sum, and would stand in a folder beside
}
_REFUSED = "refused"  # a file by which it is known that XLA does not take its programs back
_SUM = hashlib.sha256().digest_size


def keep(cache_dir: str | None) -> Kept | None:
    """Have JAX keep what it compiles in this process, and take from there what an earlier one has compiled.

    Nothing is changed where a user has set a cache of JAX's own (JAX_COMPILATION_CACHE_DIR), or has switched caches off
    (JAX_ENABLE_COMPILATION_CACHE=0); nor for one of several processes, which would wait for those that compile. Where
    nothing can be written stderr says so, once, and all is compiled.

    Args:
      cache_dir: the folder of all caches; None: `default_folder()`.

    Returns:
      What keeps them; None: nothing does, or JAX's own.
    """
    options: Any = jax.config
    set_already = options.jax_compilation_cache_dir or not options.jax_enable_compilation_cache
    if set_already or jax.distributed.is_initialized():
        return None
    try:
        jaxs: Any = importlib.import_module("jax._src.compilation_cache")  # the public one sets no more than a folder
    except ImportError:
        return None
    if not hasattr(jaxs, "get_file_cache"):
        return None
    folder = (expanded(cache_dir) if cache_dir else default_folder()) / f"programs-{_processor()}"
    most = options.jax_compilation_cache_max_size
    kept = Kept(folder, most=most if most >= 0 else math.inf if _is_set("compilation_cache_max_size") else _MOST)
    if not kept.is_used:
        return None
    jaxs.get_file_cache = lambda path: (kept, path)
    # Of a program that XLA does not take back, after which it is compiled.
    warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
    options.update("jax_compilation_cache_dir", str(folder))
    for name, value in _OURS.items():
        if not _is_set(name):
            options.update(f"jax_{name}", value)
    return kept


class Kept:
    """The programs in a folder, as JAX asks for them: the bytes of an entry by its key.

    Several processes may use a folder at once. An entry appears whole or not at all, and one that is not as it was
    written goes, as do those that were used longest ago where all together are too large.

    >>> import tempfile
    >>> kept = Kept(Path(tempfile.mkdtemp()), most=100)
    >>> kept.put("jit_step", b"code")
    >>> kept.get("jit_step"), kept.get("jit_other")
    (b'code', None)

    Args:
      folder: made if it is not there, for nobody else to write in: who writes a program has it run. One in which
        others can write is not used.
      most: bytes, of all files.
    """

    def __init__(self, folder: Path, *, most: float) -> None:
        self._path, self._most = folder, most  # `_path` is what JAX calls it
        self._given: set[str] = set()
        self._made = 0  # by this process
        self.is_used = True
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if others := _others_who_write(folder):
                self._leave(others)
                return
            with contextlib.suppress(FileNotFoundError):
                self.is_used = (folder / _REFUSED).read_text() != jax.__version__
            self._size = self._trimmed()
        except OSError as error:
            self._leave(error.strerror or str(error))

    def get(self, key: str) -> bytes | None:
        """What was put under a key; None: nothing was, or it is damaged."""
        path = self._path / key
        try:
            content = path.read_bytes() if self.is_used else b""
        except OSError:
            return None
        if not content:
            return None
        entry = content[_SUM:]
        whole = hashlib.sha256(entry).digest() == content[:_SUM]
        with contextlib.suppress(OSError):  # of a folder that can only be read; or another process was sooner
            if whole:
                os.utime(path)  # used last now
            else:
                path.unlink()
        if not whole:
            return None
        self._given.add(key)
        return entry

    def put(self, key: str, value: bytes) -> None:
        """Keep an entry, where there is room."""
        if not self.is_used:
            return
        try:
            if key in self._given:  # and was compiled all the same: so will all be, at each start, with words from XLA
                self.is_used = False
                (self._path / _REFUSED).write_text(jax.__version__)
                return
            with write_atomically(self._path / key) as temporary:
                temporary.write_bytes(hashlib.sha256(value).digest() + value)
            self._made += 1
            self._size += _SUM + len(value)
            if self._size > self._most:
                self._size = self._trimmed()
        except OSError as error:
            self._leave(error.strerror or str(error))

    def tell(self) -> None:
        """Print where programs are kept, if this process has made some."""
        if self._made and self.is_used:
            print(f"compiled programs are kept for the next start in {self._path}")

    def _trimmed(self) -> int:
        """The size of all files, of which the oldest are removed before if it is too large."""
        found = []
        for path in self._path.iterdir():
            with contextlib.suppress(OSError):  # another process has removed it
                stat = path.stat()
                if not S_ISREG(stat.st_mode):
                    continue
                if path.name.startswith(".") and time.time() - stat.st_mtime > 24 * 3600:
                    path.unlink()  # a killed process was writing it
                else:
                    found.append((stat.st_mtime, stat.st_size, path))
        size = sum(each for _, each, _ in found)
        for _, each, path in sorted(found):
            if size <= self._most:
                break
            path.unlink(missing_ok=True)
            size -= each
        return size

    def _leave(self, why: str) -> None:
        self.is_used = False
        told = f"compiled programs cannot be kept in '{self._path}' ({why}): going on without"
        print(f"--cache-dir: {told}", file=sys.stderr)


def _others_who_write(folder: Path) -> str:
    """Why a folder's programs may be somebody else's; empty: they are not."""
    if not hasattr(os, "getuid"):
        return ""
    stat = folder.stat()
    if stat.st_uid not in (os.getuid(), 0):
        return "it is another user's"
    return "others can write to it" if stat.st_mode & 0o022 else ""


def _is_set(name: str) -> bool:
    return f"JAX_{name.upper()}" in os.environ


def _processor() -> str:
    """Which processor this is: XLA compiles for its instructions, and for how many cores there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").split("\n\n")[0].splitlines()
        found = [line for line in lines if line.startswith(_OF_A_PROCESSOR)]
    except OSError:
        found = [platform.processor()]
    told = "\n".join([platform.machine(), *found, str(os.cpu_count())])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
