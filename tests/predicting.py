"""What do the tests of prediction share?  A network that is none, pictures that are none, and what became of them.

Run as a script, it kills predictions: see `main`.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import traceback
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
from PIL import Image

from ena24ssd import cli
from ena24ssd.config import read_config
from ena24ssd.models import Model

SPECIES = ("Ox", "Emu", "Tree Kangaroo")
SIDE = 32
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.link", "os.truncate", "os.utime")


class Stub:
    """Finds something on every picture, without a framework. As with the real ones, what else is in the batch plays a
    part: here in every digit, not only in the last.
    """

    device, batch = "stub", 4

    def detect(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8 and images.shape[1:] == (SIDE, SIDE, 3)
        shared = zlib.crc32(images.tobytes()) / 2**32
        rows = np.full((len(images), 6, 6), -1.0, np.float32)
        for picture, own in zip(images, rows):
            chance = np.random.default_rng(zlib.crc32(picture.tobytes()))
            for row in own[: chance.integers(0, 6)]:
                low = chance.uniform(0, 0.6, 2)
                row[:] = chance.integers(3), (chance.random() + shared) / 2, *low, *(low + chance.uniform(0.1, 0.4, 2))
            own[:] = own[np.argsort(-own[:, 1], kind="stable")]
        return rows


def stub_model(*overrides: str) -> Model:
    config = read_config(None, [f"data.image_side={SIDE}", "evaluation.score=0.5", *overrides])
    return Model(Path("stub"), SPECIES, config, 7, "0" * 64, None, None)


@contextmanager
def stubbed(network: object | None = None, model: Model | None = None) -> Iterator[None]:
    """While this holds, every model is the stub."""
    known = model or stub_model()
    with (
        mock.patch("ena24ssd.prediction.open_model", lambda path, checkpoint="best": known),
        mock.patch("ena24ssd.detector.load_network", lambda model, **_: network or Stub()),
    ):
        yield


def predict_with_stub(words: Sequence[object], network: object | None = None, model: Model | None = None) -> int:
    """``ena24ssd predict stub WORDS``; its exit code."""
    with stubbed(network, model):
        return cli.main(["predict", "stub", *map(str, words)])


def write_pictures(folder: Path, count: int, size: tuple[int, int] = (48, 36), seed: int = 0) -> None:
    chance = np.random.default_rng(seed)
    for number in range(count):
        file = folder / f"cam{number % 3}" / f"IMG_{number:04}.{('JPG', 'png', 'jpeg')[number % 2]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        small = chance.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(small).resize(size, Image.Resampling.NEAREST).save(file)


def write_huge_png(file: Path, width: int, height: int, depth: int = 8) -> None:
    """A black picture, without ever being held as one. ``depth``: bits, 1 to 16, of its one channel."""
    squeeze, row = zlib.compressobj(1), bytes(1 + (width * depth + 7) // 8)
    rows = 1 + (1 << 24) // len(row)
    with file.open("wb") as out:
        out.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)))
        for start in range(0, height, rows):
            out.write(chunk(b"IDAT", squeeze.compress(row * min(rows, height - start))))
        out.write(chunk(b"IDAT", squeeze.flush()) + chunk(b"IEND", b""))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def tree(folder: Path) -> dict[str, bytes | str]:
    """All that lies in a folder: the bytes of files, where links point, and ``/`` for folders."""
    found: dict[str, bytes | str] = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place, name)
            key = str(path.relative_to(folder))
            found[key] = os.readlink(path) if path.is_symlink() else "/" if path.is_dir() else path.read_bytes()
    return found


def all_words(pictures: Path, to: Path) -> list[object]:
    """A prediction that writes all there is to write."""
    return [
        *(pictures, "--out", to / "found.json", "--format", "megadetector,csv,coco", "--quiet"),
        *("--draw", to / "drawn", "--crops", to / "crops", "--sort-into", to / "sorted", "--threshold", "0.5"),
        *("--checkpoint-every", "5"),
    ]


def main(pictures: Path, to: Path, seed: int, trials: int) -> int:
    """Kill predictions of ``pictures`` at file operations drawn at random, each time go on, and compare the outcome
    with ``to / "whole"``, which nobody killed. Prints how many were killed where.

    Each prediction is a process of its own, forked off this one, which has not begun any threads.
    """
    chance = random.Random(seed)
    every = run(all_words(pictures, to / "whole"))
    own = run(all_words(pictures, to / "counted"), "found.")
    assert every > 100 and own > 20
    expected = tree(to / "whole")
    kills = 0
    for trial in range(trials):
        folder = to / f"killed{trial}"
        words = all_words(pictures, folder)
        for _ in range(chance.randint(1, 4)):
            # Most operations are on what is made of pictures; half of the kills are at one on results or journal.
            on, most = chance.choice([("", every), ("found.", own)])
            kills += run(words, on, chance.randint(1, most)) is None
            words = [*all_words(pictures, folder), "--resume"]
            if not (folder / "found.json.journal").exists() and (folder / "found.json").exists():
                break  # it came to its end
        else:
            assert run(words) is not None
        found = tree(folder)
        found.pop(".found.json.journal.lock", None)  # empty, and in nobody's way
        for name in sorted(expected.keys() | found.keys()):
            assert found.get(name) == expected.get(name), f"trial {trial}: {name!r} differs"
    print(f"{kills} kills, at one of {every} operations or of the {own} on results and journal")
    return 0


def run(words: list[object], on: str = "", kill_at: int = 0) -> int | None:
    """Predict in another process, and return how many operations on files that have ``on`` in their paths it took; None
    where it was killed before the one called ``kill_at``.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            done = 0

            def count(event: str, arguments: tuple) -> None:
                nonlocal done
                if event in OPERATIONS and on in str(arguments[0]):
                    done += 1
                    if done == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            with open(os.devnull, "w") as nowhere, mock.patch.object(sys, "stdout", nowhere):
                code = predict_with_stub(words)
            os.write(writer, b"%d" % done)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    with open(reader, "rb") as answer:
        said = answer.read()
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        return None
    assert os.WEXITSTATUS(status) == 0, f"exit code {os.WEXITSTATUS(status)}"
    return int(said)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
