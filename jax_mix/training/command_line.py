"""The command line: flags become a config, and --help shows them in groups."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import io
import json
import os
import re
import sys
import tomllib
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from jax_mix._checks import shown
from jax_mix.training.checks import check_fields
from jax_mix.training.config import Config
from jax_mix.training.errors import UserError, require
from jax_mix.training.files import expanded

AnyConfig = TypeVar("AnyConfig", bound=Config)
Options = TypeVar("Options", bound=Any)


def parse(
    args: Sequence[str], kind: type[AnyConfig], default: AnyConfig | None = None, description: str | None = None
) -> AnyConfig:
    """The config that flags describe.

    `--config FILE` stands for the flags that the file names, a recipe's .toml or the config.json of a run; those that
    are typed hold in their place. `--resume FOLDER` stands for the flags of the run in that folder, its name, and
    `--resume`.

    >>> parse(["--mix", "cutmix", "--epochs", "5"], Config).epochs
    5

    Args:
      args: flags and their values.
      kind: of the config.
      default: what holds where no flag is given; None: the defaults of `kind`.
      description: for `--help`.

    Raises:
      UserError: there is no such flag, a value is out of range, or the file cannot be read.
      SystemExit: a value is not of its flag's type, or `--help` is asked for.
    """
    default = kind() if default is None else default
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", const="", action="append")
    parser.add_argument("--resume", nargs="?", const="", action="append")
    given, flags = parser.parse_known_args(args)
    hidden = {f"--{name.replace('_', '-')}" for name in kind.HIDDEN}
    typed = {word.partition("=")[0].replace("_", "-") for word in args}
    for flag in sorted(hidden & typed):
        raise UserError(f"{flag} is not a flag of this command, which gives each of its runs its own: drop it.")
    saved, where = [], ""
    for path in given.config or ():
        told = f"--config is given {' and '.join(given.config)}: one file at a time."
        require(len(given.config) == 1, told)
        require(path != "", "--config names no file: a recipe's .toml, or the config.json of a run, comes after it.")
        where = f"--config: '{path}'"
        saved = _saved_flags(path, kind, where)
    if given.resume:
        runs = {folder for folder in given.resume if folder}
        require(len(runs) < 2, f"--resume is given {' and '.join(sorted(runs))}: one run at a time.")
        for folder in runs:
            where = f"--resume: '{folder}'"
            saved += _flags_of_run(folder, kind, where)
        flags = ["--resume", *flags]
    # Groups whose names need not stand before their flags: --epochs, not --optimisation.epochs.
    settings = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)
    groups: Any
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said) if saved else contextlib.nullcontext():
            groups, unknown = tyro.cli(
                _grouped(kind, default, saved + flags),
                args=saved + flags,
                description=description,
                config=settings,
                return_unknown_args=True,
            )
    except SystemExit:
        for flag in re.findall(r"--[\w-]+", said.getvalue()):
            if flag in saved and flag not in typed:
                value = saved[saved.index(flag) + 1]
                raise UserError(f"{where} has {shown(value)} for {flag}, which it cannot be.") from None
        sys.stderr.write(said.getvalue())
        raise
    if unknown:
        names = [name for name in _names(kind) if name not in kind.HIDDEN]
        raise UserError((f"{where}: " if unknown[0] in saved else "") + _unknown(unknown[0], names))
    said_by_flags = {name: value for group in vars(groups).values() for name, value in vars(group).items()}
    return dataclasses.replace(default, **said_by_flags)


def parse_options(args: Sequence[str], kind: type[Options], description: str) -> Options:
    """What the words after a command of its own flags say; `kind` is a dataclass, whose comments are the help.

    Raises:
      UserError: there is no such flag, or a value is out of range.
      SystemExit: a value is not of its flag's type, or `--help` is asked for.
    """
    options: Any
    config = (tyro.conf.FlagCreatePairsOff,)
    options, unknown = tyro.cli(kind, args=args, description=description, config=config, return_unknown_args=True)
    if unknown:
        raise UserError(_unknown(unknown[0], [*(field.name for field in dataclasses.fields(kind)), "help"]))
    check_fields(options)
    return options


def _unknown(word: str, names: Sequence[str]) -> str:
    """What to tell of a word that is neither a flag, of a field in `names`, nor the value of one."""
    if not word.startswith("-"):
        return f"{shown(word)} belongs to no flag: a command stands first, a value after its flag; see --help."
    flag = word.partition("=")[0]
    near = nearest(flag, names)
    told = f"did you mean {' or '.join(near)}? " if near else ""
    return f"{shown(flag)} is not a flag: {told}see --help."


def nearest(flag: str, names: Sequence[str]) -> list[str]:
    """Up to three flags, of fields `names`, that may be meant by `flag`: by spelling, initials, or a word of theirs.

    >>> nearest("--lr", ["epochs", "learning_rate"]), nearest("--batchsize", ["batch_size", "seed"])
    (['--learning-rate'], ['--batch-size'])
    """
    wanted = flag.strip("-").replace("_", "-").lower()
    flags = [name.replace("_", "-") for name in names]
    found = [known for known in flags if "".join(word[0] for word in known.split("-")) == wanted]
    found += difflib.get_close_matches(wanted, flags, n=3, cutoff=0.6)
    if not found:
        found = [known for known in flags if set(known.split("-")) & set(wanted.split("-"))]
    return [f"--{known}" for known in dict.fromkeys(found)][:3]


def _names(kind: type[Config]) -> list[str]:
    return [field.name for group in kind.GROUPS for field in dataclasses.fields(group)] + ["config", "help"]


def _saved_flags(path: str, kind: type[Config], where: str) -> list[str]:
    """The flags that a recipe's .toml or a config.json stands for; `where` is what an error begins with."""
    is_toml = path.lower().endswith(".toml")
    what = "a file of flags, epochs = 20" if is_toml else "the config.json of a run"
    try:
        text = expanded(path).read_text(encoding="utf-8-sig")  # of Windows' editors, some begin it with a mark
        values = tomllib.loads(text) if is_toml else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{where} cannot be read as {what} ({error}).") from error
    require(isinstance(values, dict), f"{where} is not {what}.")
    of_one_run = sorted(set(kind.HIDDEN) & {_field(name) for name in values})
    if of_one_run:
        what = f"for one run, as {of_one_run[0]} is," if is_toml else "the config.json of one run,"
        raise UserError(f"{where} is {what} not of a comparison.")
    fields = [name for name in _names(kind) if name not in (*kind.HIDDEN, "config", "help")]
    for name in values:
        if _field(name) not in fields:
            raise UserError(f"{where}: {_unknown(f'--{name}', fields)}")
        twice = name != _field(name) and _field(name) in values
        require(not twice, f"{where} has both {name} and {_field(name)}, which are one flag: drop one of them.")
    switches = {name for name, hint in typing.get_type_hints(kind).items() if hint is bool}
    saved = []
    for name, value in values.items():
        of_flag = value if isinstance(value, list) else [value]
        if _field(name) in switches and isinstance(value, bool):
            of_flag = []
        elif not all(isinstance(each, (str, int, float, type(None))) for each in of_flag) or any(
            isinstance(each, bool) or (isinstance(each, str) and not _is_value(each)) for each in of_flag
        ):
            raise UserError(f"{where} has {shown(value)} for {shown(name)}, which no flag can be.")
        if value is not False:
            saved += [f"--{name.replace('_', '-')}", *map(str, of_flag)]
    return saved


def _field(name: str) -> str:
    """The field that a name in a file is of, written as the field or as its flag: batch_size or batch-size."""
    return name.replace("-", "_")


def _is_value(value: str) -> bool:
    """Whether a shell could give it, and as a value: it has no NUL, is of whole letters or a file's bytes, no flag."""
    try:
        return "\0" not in value and not value.startswith("--") and bool(os.fsencode(value) or True)
    except UnicodeEncodeError:
        return False


def _flags_of_run(path: str, kind: type[Config], where: str) -> list[str]:
    """The flags that go on with the run in a folder."""
    folder = expanded(path)
    if not (folder / "config.json").is_file():
        raise UserError(f"--resume: there is no run in '{path}': a run's folder has a config.json.")
    folder = folder.absolute() if folder.name in ("", "..") else folder
    return [*_saved_flags(str(folder / "config.json"), kind, where), "--out", str(folder.parent), "--name", folder.name]


def _grouped(kind: type[Config], default: Config, words: Sequence[str]) -> type:
    """A dataclass with a field for each group of `kind`'s flags, such as "mixing": a box of --help.

    Unless `words` ask for that, it has those flags alone that are among them: to look up all of them would take most
    of the time of reading a command line.
    """
    every = any(word in ("-h", "--help") or word.startswith("--tyro") for word in words)
    given = {_field(word.partition("=")[0].removeprefix("--")) for word in words if word.startswith("--")}
    fields: list[Any] = []
    for group in kind.GROUPS:
        names = [field.name for field in dataclasses.fields(group) if field.name not in kind.HIDDEN]
        if names := [name for name in names if every or name in given]:
            shown = _with_only(group, names, default)
            fields.append((group.__name__.removesuffix("Flags").lower(), shown, dataclasses.field(default=shown())))
    return dataclasses.make_dataclass("Flags", fields)


def _with_only(group: type, names: Sequence[str], default: Config) -> type:
    """`group` with no other fields than `names`."""
    hints = typing.get_type_hints(group, include_extras=True)
    fields: list[Any] = [(name, hints[name], dataclasses.field(default=getattr(default, name))) for name in names]
    shown = dataclasses.make_dataclass(group.__name__, fields, frozen=True)
    # By these (by the line since Python 3.13) and by the name tyro finds the source, in which comments are the help.
    for name in ("__module__", "__doc__", "__firstlineno__"):  # in this order: a new module takes the line away
        if name in vars(group):
            setattr(shown, name, vars(group)[name])
    return shown
