"""The files under a folder: which are images, and what is left out."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import PIL.features
import PIL.Image

# An ending is an image's if it is here: Pillow has plugins for much else, such as .pdf, .mpg and .h5.
_READ = (
    "png apng jpg jpeg jpe jfif jp2 j2k jpx jpf jpc j2c bmp dib gif tif tiff webp avif ppm pgm pbm pnm pfm tga sgi rgb "
    "rgba bw pcx ico icns qoi mpo psd dds xbm xpm ras fits fit"
)
# These are images as well, which Pillow reads with a plugin at most.
_OTHERS = (
    "heic heif hif jxl svg exr hdr dcm dicom nii nrrd mha "
    "dng cr2 cr3 crw nef nrw arw srf sr2 orf rw2 raf pef srw x3f 3fr iiq kdc erf raw"
)
_IMAGES = {f".{ending}" for ending in f"{_READ} {_OTHERS}".split()}
_CODECS = {"AVIF": "avif", "WEBP": "webp", "JPEG2000": "jpg_2000"}  # which Pillow may be built without
_OF_THE_SYSTEM = {"__macosx", "__pycache__", "thumbs.db", "desktop.ini", "@eadir", "lost+found", "$recycle.bin"}
_MOST = 10  # names in a sentence


@functools.cache
def readable() -> dict[str, str]:
    """The endings of images that Pillow can read here, and its name of each format."""
    supported = PIL.Image.registered_extensions()
    return {
        ending: supported[ending]
        for ending in _IMAGES & supported.keys()
        if supported[ending] in PIL.Image.OPEN
        and (supported[ending] not in _CODECS or PIL.features.check(_CODECS[supported[ending]]))
    }


class Listing:
    """What is found under folders, gathered over several calls of `images`.

    Attributes:
      left_out: what was found and is not used, in sentences without the end: why, and which.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._unreadable: list[Path] = []
        self._loops: list[Path] = []
        self._others: Counter[str] = Counter()

    def folders(self, folder: Path) -> list[Path]:
        """The folders in a folder, in order of name; hidden ones and the system's are not.

        Links to folders are followed, but for those that lead to a folder around them.
        """
        found = [Path(each.path) for each in _entries(folder) if _is_folder(each)]
        around = {_identity(each) for each in (folder, *folder.absolute().parents, *folder.resolve().parents)}
        loops = [each for each in found if _identity(each) in around]
        self._loops.extend(loops)
        return [each for each in found if each not in loops]

    def images(self, folder: Path, *, deep: bool = True) -> list[Path]:
        """The images that Pillow reads in a folder, and `deep` in those below, in order."""
        found = [image for each in self.folders(folder) for image in self.images(each)] if deep else []
        for entry in _entries(folder):
            if _is_folder(entry):
                continue
            path = Path(entry.path)
            ending = path.suffix.lower()
            if ending not in _IMAGES or _is_special(path):
                self._others[ending or "no ending"] += 1
            else:
                (found if ending in readable() else self._unreadable).append(path)
        return sorted(found)

    @property
    def left_out(self) -> list[str]:
        said = []
        if self._unreadable:
            count = several(len(self._unreadable), "image")
            said.append(f"{count} of a kind that Pillow does not read: {self.named(self._unreadable)}")
        if self._loops:
            said.append(f"links that lead back to a folder around them: {self.named(self._loops)}")
        if self._others:
            kinds = ", ".join(f"{ending} {count}" for ending, count in self._others.most_common(_MOST))
            said.append(f"{several(self._others.total(), 'file')} of other kinds: {kinds}")
        return said

    def named(self, paths: Iterable[Path]) -> str:
        """The paths below the root, the first ones and a count where they are many."""
        return some([f"'{path.relative_to(self._root).as_posix()}'" for path in paths])


def some(names: list[str]) -> str:
    """The names with commas between them, the first ten and a count where they are many.

    >>> some([str(i) for i in range(12)])
    '0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more'
    """
    more = len(names) - _MOST
    return ", ".join(names[:_MOST]) + (f" and {more} more" if more > 0 else "")


def several(count: int, word: str) -> str:
    """
    >>> several(1, "image"), several(2, "image")
    ('1 image', '2 images')
    """
    return f"{count} {word}{'s' * (count != 1)}"


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, in order of name, less what is hidden and what systems put there."""
    with os.scandir(folder) as entries:
        shown = [each for each in entries if not each.name.startswith(".") and each.name.lower() not in _OF_THE_SYSTEM]
    return sorted(shown, key=lambda each: each.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_special(path: Path) -> bool:
    """Whether it is a pipe, say, for which a reader would wait; a link to nothing is a file that cannot be read."""
    return os.path.exists(path) and not os.path.isfile(path)


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino
