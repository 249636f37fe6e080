"""How a folder of images is meant: which of its folders are classes, and which are for training and for the test."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from jax_mix.training.data.hints import as_flag, hint, table_in
from jax_mix.training.data.listing import Listing, several, some
from jax_mix.training.errors import UserError, require

Files = dict[str, list[Path]]  # the images of each class, in order
SplitBy = Literal["image", "folder"]

_SPLITS = {
    "train": "train|training|trn|trainval",
    "test": "test|testing|tests|tst",
    "val": "val|valid|validation|validate|eval|evaluation",
}
_FILLERS = "sets?|data|datasets?|images?|imgs?|pictures?|photos?|samples?|examples?|folder|split"
# Subfolders that all classes have may be numbered things that images are of, patient1, patient2; others may be classes.
_GROUPS = (
    "patient pat pt subject subj sub person participant user case id animal plant tree slide scan study visit session "
    "video vid clip sequence seq scene shot recording camera cam site hospital batch burst series specimen"
)
_KINDS = (
    "images image imgs img jpegimages originals original masks mask labels annotations groundtruth gt segmentations "
    "segmentation"
)
_GROUP_STEMS, _KINDS_OF_FILES = set(_GROUPS.split()), set(_KINDS.split())


class Layout(NamedTuple):
    """The images by class: for training, and for the test, or None where that is to be split off."""

    train: Files
    test: Files | None
    used: set[Path]  # the folders that hold them, or the folders of their classes
    told: list[str]  # how the folder was understood
    left_out: list[str]  # what in it is not used


class _Folder(NamedTuple):
    path: Path
    images: list[Path]  # directly in it
    classes: Files  # in its subfolders, empty ones included

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def all_images(self) -> list[Path]:
        return sorted([*self.images, *(image for images in self.classes.values() for image in images)])

    @property
    def labelled(self) -> bool:
        """Whether its subfolders hold images."""
        return any(self.classes.values())


class _Split(NamedTuple):
    role: str  # "train", "test" or "val"
    rest: tuple[str, ...]  # what else its name says: ("seg",) of seg_train


def split_of(name: str) -> _Split | None:
    """The split that a folder's name is a spelling of, None if it names none.

    >>> split_of("Training Set").role, split_of("seg_test").rest, split_of("trains")
    ('train', ('seg',), None)
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word for word in re.findall(r"[^\W\d_]+", spaced.lower()) if not re.fullmatch(_FILLERS, word)]
    roles = {
        word: role for word in words for role, names in _SPLITS.items() if re.fullmatch(f"({names})({_FILLERS})?", word)
    }
    if len(roles) != 1:
        return None
    ((found, role),) = roles.items()
    return _Split(role, tuple(word for word in words if word != found))


def lay_out(path: str, root: Path, listing: Listing, split_by: SplitBy | None) -> Layout:
    """How the images under `root` are meant; what could be meant in two ways is refused.

    Args:
      path: as it was given.
      root: the folder.
      listing: looks into folders, and gathers what is left out.
      split_by: None: subfolders that all classes have could be classes themselves.

    Raises:
      UserError: it is not clear, or there are less than two classes, or one has no images.
    """
    loose = listing.images(root, deep=False)
    folders = [_look(each, listing) for each in listing.folders(root)]
    splits = {each.path: split for each in folders if (split := split_of(each.name))}
    trains, tests = (
        [each for each in folders if each.path in splits and splits[each.path].role in roles]
        for roles in (("train",), ("test", "val"))
    )
    train = [each for each in trains if each.labelled and (not each.images or (tests and len(each.classes) > 1))]
    if train and (tests or split_by is None):
        layout = _given(path, listing, train, tests, splits)
    else:
        _refuse_splits(path, root, folders, splits)
        layout = _by_class(path, root, folders, loose, listing, split_by)
    unused = [f"'{each.name}'" for each in folders if each.path not in layout.used]
    if unused:
        layout.left_out.append(f"the folder{'s' * (len(unused) > 1)} {some(unused)}")
    stray = loose + [image for each in folders if layout.test and each.path in layout.used for image in each.images]
    if stray:
        layout.left_out.append(f"{several(len(stray), 'image')} in no folder of a class: {listing.named(stray)}")
    return layout


def _look(folder: Path, listing: Listing) -> _Folder:
    """What is in a folder; seg_train/seg_train, as zips unpack, where nothing else is in it, is as one."""
    images, inside = listing.images(folder, deep=False), listing.folders(folder)
    split = split_of(folder.name)
    if split and not images and len(inside) == 1 and split_of(inside[0].name) == split:
        return _look(inside[0], listing)
    return _Folder(folder, images, {each.name: listing.images(each) for each in inside})


def _given(
    path: str, listing: Listing, trains: list[_Folder], tests: list[_Folder], splits: dict[Path, _Split]
) -> Layout:
    """That of a folder with one for training; the test is in "test", else "val"; one of the same classes goes first."""
    require(len(trains) == 1, f"--dataset {path} has {_and(trains)}: which is for training? Keep one.")
    (train,) = trains
    alone = f"give --dataset {as_flag(train.path)} to have a part of {train.name} for the test"
    require(
        bool(tests),
        f"--dataset {path} has a folder {train.name} with folders of its own, but none for the test: call that test, "
        f"val, valid or validation; or {alone}; or, if {train.name} is a class, --split-by image.",
    )
    labelled = [each for each in tests if each.labelled]
    require(
        bool(labelled),
        f"--dataset {path}: {_and(tests)} has no folders of classes as {train.name} has, so that nothing tells what "
        f"is on its images; {alone}.",
    )
    alike = [each for each in labelled if splits[each.path].rest == splits[train.path].rest] or labelled
    alike = [each for each in alike if each.classes.keys() == train.classes.keys()] or alike
    alike = [each for each in alike if splits[each.path].role == "test"] or alike
    require(len(alike) == 1, f"--dataset {path} has {_and(alike)}: which is the test? Keep one.")
    (test,) = alike
    only = sorted(train.classes.keys() ^ test.classes.keys())
    require(not only, f"--dataset {path}: class {some(only)} is in only one of {train.name} and {test.name}.")
    if all(_kind_of_file(name) for name in train.classes):
        raise UserError(
            f"--dataset {path}: the folders in {train.name}, {some(sorted(train.classes))}, are no classes: put the "
            "images of each class in a folder of its own, and masks elsewhere."
        )
    if len(train.classes) < 2:
        (only_class,) = train.classes
        raise UserError(
            f"--dataset {path}: {train.name} and {test.name} hold one class, {only_class}, and two or more are needed: "
            f"if the classes are in {only_class}, move them up, {train.name}/CLASS."
        )
    for each in (train, test):
        _require_images(path, listing, {each.path / name: images for name, images in each.classes.items()})
    told = f"training images are those in '{train.name}', test images those in '{test.name}'"
    return Layout(train.classes, test.classes, {train.path, test.path}, [told], [])


def _refuse_splits(path: str, root: Path, folders: list[_Folder], splits: dict[Path, _Split]) -> None:
    """Refuse folders that look like splits, but hold no classes: as classes they would be learned.

    One folder `train` with images, beside others that are no splits, is a class; so is `test_tube`.
    """
    named = [each for each in folders if each.path in splits]
    trains = [each for each in named if splits[each.path].role == "train"]
    rests = {splits[each.path].rest for each in trains}
    pairs = [each for each in named if each not in trains and splits[each.path].rest in {*rests, ()}]
    wrong = pairs or (trains if len(trains) > len(rests) else [])
    if not wrong:
        return
    if trains:
        flat = [*trains, *(each for each in pairs if each not in trains)]
        how = hint(path, root, {trains[0].path: trains[0].images}) or (
            f"put the images of each class in a folder of its own, {trains[0].name}/CLASS/1.jpg, in each of them"
        )
        raise UserError(f"--dataset {path}: {_and(flat)} look like splits, but hold no folders of classes: {how}.")
    raise UserError(
        f"--dataset {path}: {_and(wrong)} looks like a split, not like a class, but there is no folder for training: "
        "put the folders of the classes in one called train beside it; or, if it is a class, give it another name."
    )


def _by_class(
    path: str, root: Path, folders: list[_Folder], loose: list[Path], listing: Listing, split_by: SplitBy | None
) -> Layout:
    classes = {each.name: each.all_images for each in folders}
    names = ", ".join(classes) or f"none{_left_out(listing)}"
    if classes and all(_kind_of_file(name) for name in classes):
        flat = {each.path: each.images for each in folders} | {root: loose}
        how = hint(path, root, flat) or "put the images of each class in a folder of its own"
        raise UserError(f"--dataset {path} needs a folder for each of two classes or more; there is: {names}; {how}.")
    _require_images(path, listing, {each.path: each.all_images for each in folders})
    if len(classes) < 2:
        flat = {root: loose, **{each.path: each.images for each in folders}}
        inner = [each for each in folders if len(each.classes) > 1]
        how = hint(path, root, flat) or (
            f"if the classes are in {inner[0].name}, give --dataset {as_flag(inner[0].path)} instead" if inner else ""
        )
        only = f"--dataset {path} needs a folder for each of two classes or more; there is: {names}"
        raise UserError(f"{only}{f'; {how}' if how else ''}.")
    if _numbered(list(classes)) is not None and (table := table_in(root, list(classes.values()))):
        raise UserError(
            f"--dataset {path}: by '{table.file.name}' its folders {names} are parts of one: {table.command(root)}."
        )
    _refuse_other_levels(path, folders)
    if split_by is None:
        _refuse_same_subfolders(path, folders)
    return Layout(classes, None, {each.path for each in folders}, [], [])


def _require_images(path: str, listing: Listing, classes: Mapping[Path, list[Path]]) -> None:
    for folder, images in classes.items():
        require(bool(images), f"--dataset {path}: there is no image in '{folder}'{_left_out(listing)}.")


def _left_out(listing: Listing) -> str:
    return f" (left out: {'; '.join(listing.left_out)})" if listing.left_out else ""


def _kind_of_file(name: str) -> bool:
    return re.sub(r"[\W_]", "", name.lower()) in _KINDS_OF_FILES


def _refuse_other_levels(path: str, folders: list[_Folder]) -> None:
    """Refuse classes that hold splits, or masks beside their images, or the other classes once more."""
    names = {each.name for each in folders}
    for each in folders:
        inside = [name for name, images in each.classes.items() if images]
        if len(names & set(inside)) > 1:
            raise UserError(
                f"--dataset {path}: {each.name} holds folders of the same names as those beside it, "
                f"{some(sorted(names & set(inside)))}: give --dataset {as_flag(each.path)} "
                f"alone, or move {each.name} elsewhere."
            )
        splits = [name for name in inside if split_of(name)]
        if len(splits) > 1 and len(splits) == len(inside):
            raise UserError(
                f"--dataset {path}: {each.name} holds splits, {some(splits)}: put the classes in the splits, "
                f"{splits[0]}/{each.name}, not the splits in the classes."
            )
        kinds = [name for name in inside if _kind_of_file(name)]
        if len(kinds) > 1:
            raise UserError(
                f"--dataset {path}: {each.name} holds {some(kinds)}, of which only images can be classified: move the "
                "others out of the folder."
            )


def _refuse_same_subfolders(path: str, folders: list[_Folder]) -> None:
    """Refuse A/{cat,dog} beside B/{cat,dog}: A and B may be two splits, of a name that is not known here."""
    holders: dict[str, list[_Folder]] = {}
    for each in folders:
        below = {image.parent.relative_to(each.path).as_posix() for image in each.all_images}
        for name in below if not each.images else ():
            holders.setdefault(name, []).append(each)
    shared = sorted(name for name, those in holders.items() if len(those) > 1)
    if len(shared) < 2 or _numbered(shared) in _GROUP_STEMS:
        return
    first = holders[shared[0]]
    raise UserError(
        f"--dataset {path}: {_and(first[:2])} hold the same folders, {some(shared)}: which are the classes? If those "
        f"are, call the two train and test, or give --dataset {as_flag(first[0].path)} alone; if not, say how "
        "images are split, each by itself, --split-by image, or all in such a folder together, --split-by folder."
    )


def _numbered(names: list[str]) -> str | None:
    """What names have in common that differ in their numbers alone, patient of patient1 and patient2; else None."""
    stems = {re.sub(r"\d+", "", name).strip(" _-.").lower() for name in names}
    return stems.pop() if len(stems) == 1 else None


def _and(folders: list[_Folder]) -> str:
    return " and ".join(each.name for each in folders)
