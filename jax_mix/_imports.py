"""Importing what a user names on a command line: a package's module, or a file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any


def import_from(where: str) -> Any:
    """The module `package.module`, also of the current folder, or that of `path/to/file.py`."""
    if where.endswith(".py"):
        return _import_file(Path(where))
    if "" not in sys.path:
        sys.path.insert(0, "")  # the current folder, where a script's own folder comes first
    return importlib.import_module(where)


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # where dataclasses look for it
    if (beside := str(path.parent.absolute())) not in sys.path:
        sys.path.append(beside)  # what it imports from its own folder
    spec.loader.exec_module(module)
    return module
