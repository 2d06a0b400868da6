"""Where does this picture belong?

`Sorting` puts every picture into a folder of the species seen on it: ``into/Raccoon/cam1/IMG_0001.JPG``, the species
first and then the picture's own path. A picture with two species lies in both folders, so that each folder holds all
that is known of its species; one on which nothing counts lies in ``blank``, one that gave no picture in ``unreadable``.
The pictures themselves stay where they are, and nothing that lies in the folder already is changed: what holds the same
bytes is left as it is, be it a copy or a link, and anything else is refused. So the same picture may come any number of
times. A picture that lies in another folder since an earlier sorting, at other thresholds, stays there too.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

from PIL import Image as Pillow

from ena24ssd.archives import DEVICES
from ena24ssd.detections import ImageDetections
from ena24ssd.files import naming
from ena24ssd.pictures import PictureError
from ena24ssd.thresholds import Thresholds

How = Literal["copy", "hardlink", "symlink"]

BLANK, UNREADABLE = "blank", "unreadable"  # folders beside those of the species
LONGEST_FOLDER = 100  # bytes of a species' folder name
BLOCK = 1 << 20
UNFINISHED = re.compile(r"\..*\.[0-9a-f]{8}\.part", re.DOTALL)  # what a killed `Sorting` or `files.replacing` leaves


@dataclass(frozen=True)
class Sorting:
    """Puts pictures into folders by what counts on them.

    Parameters: ``into``, the folder; ``root``, where the pictures' names start; ``thresholds``, what counts;
    ``class_names``, all species the detector knows; ``how``:

    * ``copy``: a second file with the same bytes and the same time of change. The only one that costs disk.
    * ``hardlink``: a second name of the same file, on the same disk. To change one is to change the other.
    * ``symlink``: a file that points to the picture: relative where both lie on one disk, so that they can be moved
      together; with its whole path where they do not.

    Several pictures may be sorted at once. Raises ValueError for another ``how``.
    """

    into: Path
    root: Path
    thresholds: Thresholds
    class_names: Sequence[str]
    how: How = "copy"
    folders: Mapping[str, str] = field(init=False, repr=False)  # of each species

    def __post_init__(self) -> None:
        if self.how not in get_args(How):
            raise ValueError(f"how is {self.how!r}; pictures are sorted as one of {', '.join(get_args(How))}")
        object.__setattr__(self, "folders", name_folders(self.class_names))

    def __call__(self, image: ImageDetections, picture: Callable[[], Pillow.Image]) -> None:
        """Sort one picture; ``picture`` is not looked at. What can no longer be read is left out.

        Raises ValueError for a picture outside ``root``, FileExistsError where something else has its name, and OSError
        where the disk does not play along.
        """
        name, file = name_below(image.file, self.root), Path(os.path.abspath(image.file))
        if image.failure is not None:
            folders = [UNREADABLE]
        else:
            counted = self.thresholds.select(image).detections
            folders = list(dict.fromkeys(self.folders[found.name] for found in counted)) or [BLANK]
        try:
            next(read_blocks(file), b"")
            for folder in folders:
                _place(file, Path(os.path.abspath(self.into), folder, name), self.how)
        except PictureError:
            return
        except FileNotFoundError:
            if os.path.exists(file):
                raise  # it is not the picture that is gone


def name_folders(species: Iterable[str]) -> dict[str, str]:
    """A folder name for each species that every system takes, and no two of them are one where capitals do not count.

    A name that needs no change has none. Letters that some system forbids become ``_``; names that would fall together,
    with one another or with ``blank`` and ``unreadable``, carry eight digits of their SHA-256.
    """
    folders = {name: _make_plain(name) for name in species}
    shared = Counter(map(_without_case, [*folders.values(), BLANK, UNREADABLE]))
    for name, folder in folders.items():
        if shared[_without_case(folder)] > 1 or len(folder.encode()) > LONGEST_FOLDER:
            mark = sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
            folders[name] = f"{cut(folder, LONGEST_FOLDER - 9)}-{mark}"
    return folders


def name_below(file: Path | str, root: Path) -> Path:
    """The path of a picture from ``root`` on; it has no ``..``. Raises ValueError for a picture outside."""
    path, start = Path(os.path.abspath(file)), os.path.abspath(root)
    if not path.is_relative_to(start):
        raise ValueError(f"{file}: does not lie in {root}, where the names of the pictures start; name a folder above")
    return path.relative_to(start)


def require_apart(folders: Iterable[Path], paths: Iterable[Path | str]) -> None:
    """Raise ValueError unless what is put into ``folders`` stays apart from the pictures and folders ``paths``: unless
    none of those lies in one of these. A folder may lie in one of ``paths``. NotADirectoryError where it is a file.
    """
    holders = {Path(path) if os.path.isdir(path) else Path(path).parent: path for path in paths}
    for folder in filter(os.path.lexists, folders):
        if not folder.is_dir():
            raise NotADirectoryError(f"{folder}: is a file; pictures are put into a folder. Name another")
        for holder, path in holders.items():
            real = Path(os.path.realpath(holder))
            if any(above.exists() and above.samefile(folder) for above in (real, *real.parents)):
                raise ValueError(
                    f"{folder}: holds the pictures of {path}; what is made of pictures must not lie among them. Name "
                    f"another folder, such as {folder / 'found'}"
                )


def clear_unfinished(folder: Path) -> int:
    """Delete the unfinished files that a killed run left anywhere in ``folder``; returns how many.

    To be called before anything is put there, not while another run does.
    """
    count, todo = 0, [folder] if folder.is_dir() else []
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(Path(entry.path))
                elif UNFINISHED.fullmatch(entry.name):
                    Path(entry.path).unlink(missing_ok=True)
                    count += 1
    return count


def make_folder_of(target: Path) -> None:
    """Make the folder that ``target`` will lie in, and those above it. Raises OSError, naming both."""
    missing, folder = [], target.parent
    while not os.path.isdir(folder) and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    try:
        for folder in reversed(missing):  # one by one: Path.mkdir calls itself for each, which ends at a thousand
            folder.mkdir(exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{target}: its folder cannot be made ({error.strerror}: {error.filename}); name another place"
        ) from error


def read_blocks(file: Path) -> Iterator[bytes]:
    """The bytes of an original, a MiB at a time. Raises PictureError where it cannot be read, or is no plain file."""
    try:
        if not os.path.isfile(file):  # opening a pipe would wait for ever
            raise PictureError("no such file")
        with file.open("rb") as source:
            while block := source.read(BLOCK):
                yield block
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror})") from error


def cut(name: str, most: int) -> str:
    """The start of a name, at most so many bytes."""
    while len(os.fsencode(name)) > most:
        name = name[:-1]
    return name


def _make_plain(name: str) -> str:
    letters = (
        "_" if letter in '<>:"/\\|?*' or unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") else letter
        for letter in unicodedata.normalize("NFC", name)
    )
    plain = "".join(letters).strip(" ").rstrip(". ")
    stem = unicodedata.normalize("NFKC", plain.split(".")[0]).rstrip().upper()  # COM¹ is a device as COM1 is
    return f"_{plain}" if not plain or plain[0] == "." or stem in {*DEVICES, "CONIN$", "CONOUT$"} else plain


def _without_case(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _place(file: Path, target: Path, how: How) -> None:
    """Make ``target`` show what ``file`` holds, unless it does."""
    make_folder_of(target)
    if not os.path.lexists(target):
        try:
            MAKE[how](file, target)
            return
        except FileExistsError:
            pass  # since a moment ago: another process sorts the same pictures
    if not _holds(target, file):
        raise FileExistsError(
            f"{target}: is there already and is not {file}; what lies in the folder is never replaced. Sort into "
            "another folder, or move that file away"
        )


def _holds(target: Path, file: Path) -> bool:
    """Whether ``target`` is ``file`` or has its bytes."""
    if not os.path.isfile(target):
        return False
    if os.path.samefile(target, file):
        return True
    with target.open("rb") as there:
        return all(there.read(len(block)) == block for block in read_blocks(file)) and not there.read(1)


def _copy(file: Path, target: Path) -> None:
    unfinished = target.with_name(f".sorting.{secrets.token_hex(4)}.part")  # short: the picture's name may be long
    try:
        with naming(target), unfinished.open("xb") as there:
            for block in read_blocks(file):
                there.write(block)
            there.flush()
            os.fsync(there.fileno())  # else a power cut may leave the new name on an empty file
        status = os.stat(file)
        os.utime(unfinished, ns=(status.st_atime_ns, status.st_mtime_ns))
        _appear(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _appear(unfinished: Path, target: Path) -> None:
    """Give a whole file its name, unless that is taken: FileExistsError."""
    try:
        os.link(unfinished, target)  # never replaces, where a rename does
    except FileExistsError:
        raise
    except OSError:  # memory cards know no links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        os.rename(unfinished, target)


def _hardlink(file: Path, target: Path) -> None:
    try:
        os.link(os.path.realpath(file), target)  # a link to what a symbolic link points to, on every system
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        raise OSError(
            f"{target}: cannot be a hard link to {file} ({error.strerror}); that takes one disk that knows them, and "
            "pictures that are yours. Sort with --sort-as copy or symlink"
        ) from error


def _symlink(file: Path, target: Path) -> None:
    # What '..' means is settled by where folders really are, so no folder on the way may be a link itself.
    folder, original = os.path.realpath(target.parent), os.path.join(os.path.realpath(file.parent), file.name)
    one_disk = os.stat(folder).st_dev == os.stat(original).st_dev
    try:
        os.symlink(os.path.relpath(original, folder) if one_disk else original, target)
    except (FileExistsError, FileNotFoundError):
        raise
    except OSError as error:
        raise OSError(
            f"{target}: cannot be a symbolic link ({error.strerror}); that takes a disk that knows them, and the "
            "right to make them. Sort with --sort-as copy or hardlink"
        ) from error


MAKE: dict[How, Callable[[Path, Path], None]] = {"copy": _copy, "hardlink": _hardlink, "symlink": _symlink}
