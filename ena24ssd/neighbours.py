"""Which pictures show nearly the same scene?

Camera traps take bursts: the same place, the same light, the same animal a step further. Where the json names no
camera and no sequence, as ENA24's does not, such pictures must be found by looking. Every picture is reduced to a
perceptual hash, and two pictures are linked when their hashes are close: very close anywhere in the dataset, fairly
close when their file names are neighbours, as those of a burst are. Whatever hangs together by links is a group.

The hash is the average hash (imagehash) of a picture whose lighting has been evened out: each of its 256 bits says
whether a spot is brighter than its surroundings. Without the evening out, all infrared pictures look alike, bright in
the middle and dark at the edge. The strips that cameras burn in, with date and name, are cut off before.

Three things keep one foggy night from tying everything together. A picture without relief (fog, lens cap) is linked to
its neighbours only, since its hash says little. Links allow far fewer differing bits than unrelated pictures have. And
a group that is still larger than a fifth of the dataset is cut, where the picture changes most from one file name to
the next; where names tell no order, it grows together again from its closest links on, up to that limit. Links that
were cut are counted, and what leaks through them shows in `ena24ssd.leaks`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import imagehash
import numpy as np
import platformdirs
from PIL import Image as Pillow
from PIL import ImageFilter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ena24ssd.ahead import Progress, run_ahead
from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.files import replacing
from ena24ssd.pictures import STRIP_BOTTOM, STRIP_TOP, PictureError, read_picture
from ena24ssd.splits import Split, natural_key

HASH_VERSION = 1  # raise it when `scene_hashes` gives other bits for the same picture
BITS = 256
WORDS = BITS // 64
SIDE = 128  # pixels a hash is computed from, whatever the network is given
SURROUNDINGS = 8  # pixels of these; standard deviation of the blur that tells a spot's surroundings
PLAIN = 1.5  # grey levels of 255; a picture whose relief stays below shows nothing that could be recognised

ORDERS = 32  # in how many random orders of their bits hashes are sorted
WINDOW = 8  # how many successors in such an order a hash is compared with
BLOCK = 65_536  # pairs whose distance is measured at a time
EXHAUSTIVE = 20_000  # comparisons an order that few pictures may have anyway

LARGEST_SHARE = 0.2  # of the dataset, in one group; more than a usual test side could only ever be learnt from
LARGEST_AT_LEAST = 12  # pictures; a long burst stays whole in a small dataset too
IN_ORDER = 0.75  # names are believed to tell the order where followers differ by this much of what others do, or less


class Closeness(NamedTuple):
    """How many of 256 bits may differ: ``anywhere`` in the dataset, or between pictures ``adjacent`` by file name, at
    most ``reach`` names apart.
    """

    anywhere: int
    adjacent: int
    reach: int = 3


# Measured: of 150,000 pairs of unrelated photographs none differ in fewer than 78 bits, of 930,000 pairs of drawn
# scenes from two cameras none in fewer than 69. Of 1,500 drawn bursts half hang together at 22 bits, nine in ten at 50
# and all at 83.
SCENE = Closeness(anywhere=46, adjacent=87)
CHECK = Closeness(anywhere=64, adjacent=90)  # for the second hash, which moves more between frames of a burst


@dataclass(frozen=True)
class Hashes:
    """What was seen of each picture, in the order of ``dataset.images``; n pictures."""

    scene: np.ndarray  # (n, 4) uint64: the hash that makes links
    check: np.ndarray  # (n, 4) uint64: a hash of another kind (DCT), to judge the first by
    relief: np.ndarray  # (n,) float32, grey levels; NaN where there is no hash
    failures: dict[str, str]  # image id -> why it has no hash

    @property
    def readable(self) -> np.ndarray:
        """(n,) bool: there is a hash."""
        return ~np.isnan(self.relief)

    @property
    def telling(self) -> np.ndarray:
        """(n,) bool: there is a hash of a picture that shows something."""
        return np.nan_to_num(self.relief) >= PLAIN


@dataclass(frozen=True)
class Links:
    """Pairs of pictures that show nearly the same; positions in ``dataset.images``, each pair once."""

    first: np.ndarray  # (k,) int64
    second: np.ndarray  # (k,) int64
    distance: np.ndarray  # (k,) uint16, bits that differ

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Neighbours:
    """The groups of pictures that show nearly the same scene."""

    ids: tuple[str, ...]  # n image ids
    hashes: Hashes
    links: Links
    labels: np.ndarray  # (n,) int64: pictures of one group have the same; a picture without links is its own group
    cut: int  # links that were ignored because they would have made a group too large

    def count_twins(self, split: Split) -> int:
        """How many pictures for validation or test have a link to one in train, because a group was cut."""
        learnt = set(split.train)
        is_learnt = np.array([image_id in learnt for image_id in self.ids], dtype=bool)
        judged = set(split.validation) | set(split.test)
        is_judged = np.array([image_id in judged for image_id in self.ids], dtype=bool)
        one, other = self.links.first, self.links.second
        twins = np.concatenate([one[is_judged[one] & is_learnt[other]], other[is_judged[other] & is_learnt[one]]])
        return len(np.unique(twins))

    @cached_property
    def groups(self) -> dict[str, int]:
        """The group of each image id, for `ena24ssd.splits.split_images`."""
        return dict(zip(self.ids, self.labels.tolist()))


def find_neighbours(
    dataset: CameraTrapDataset, folder: Path | None = None, progress: Progress | None = None
) -> Neighbours:
    """Group a dataset's pictures by what they show; the same files give the same groups.

    Parameters: ``folder`` keeps the hashes for the next time (left out: the user's cache folder), ``progress`` wraps
    the pictures still to be read. Pictures that cannot be read are groups of their own; ``hashes.failures`` names them.
    """
    hashes = hash_pictures(dataset, folder, progress)
    order = natural_order(dataset.images)
    links = find_links(hashes.scene, hashes.readable, hashes.telling, order)
    limit = max(LARGEST_AT_LEAST, int(LARGEST_SHARE * len(dataset.images)))
    labels, cut = group_linked(hashes.scene, order, links, limit)
    return Neighbours(tuple(image.id for image in dataset.images), hashes, links, labels, cut)


# -- hashes ------------------------------------------------------------------------------------------------------------


def scene_hashes(picture: Pillow.Image) -> tuple[np.ndarray, np.ndarray, float]:
    """What a picture shows, in 2 x 256 bits, and how much there is to see.

    Returns the scene hash and the check hash, (4,) uint64 each, and the relief: the standard deviation, in grey levels,
    of the differences between the spots of the picture and their surroundings.
    """
    width, height = picture.size
    inside = picture.crop((0, round(STRIP_TOP * height), width, round((1 - STRIP_BOTTOM) * height)))
    grey = inside.convert("L").resize((SIDE, SIDE), Pillow.Resampling.BOX)
    surroundings = grey.filter(ImageFilter.GaussianBlur(SURROUNDINGS))
    differences = np.asarray(grey, dtype=np.float32) - np.asarray(surroundings, dtype=np.float32)
    relief = float(differences.std())
    even = Pillow.fromarray(np.clip(128 + 48 * differences / max(relief, 1.0), 0, 255).astype(np.uint8))
    return _words(imagehash.average_hash(even, 16)), _words(imagehash.phash(grey, 16)), relief


def hash_pictures(dataset: CameraTrapDataset, folder: Path | None = None, progress: Progress | None = None) -> Hashes:
    """The hashes of every picture, from the file kept in ``folder`` as far as it knows them.

    What is kept goes by each file's name, size and time of change; only what is new or changed is decoded. Pictures
    that failed are tried again each time.
    """
    folder = folder or platformdirs.user_cache_path("ena24ssd")
    place = hashlib.sha256(f"{HASH_VERSION} {dataset.root.resolve()}".encode(errors="surrogatepass")).hexdigest()[:16]
    file = folder / f"{dataset.name[:80]}-scenes-{place}.npz"
    keys = np.array([_key(dataset, image) for image in dataset.images], dtype="S32")
    known_keys, known_bits, known_relief = _read_hashes(file)
    with suppress(OSError):
        os.utime(file)  # asked for today: `ena24ssd.cache` deletes what nobody asked for in a month

    bits = np.zeros((len(keys), 2, WORDS), dtype=np.uint64)
    relief = np.full(len(keys), np.nan, dtype=np.float32)
    if len(known_keys):  # sorted, see _write_hashes
        rows = np.searchsorted(known_keys, keys).clip(max=len(known_keys) - 1)
        kept = known_keys[rows] == keys
        bits[kept], relief[kept] = known_bits[rows[kept]], known_relief[rows[kept]]
    missing = np.flatnonzero(np.isnan(relief)).tolist()

    def look(row: int) -> tuple[str, str] | None:
        image = dataset.images[row]
        try:
            picture = read_picture(dataset.path(image), stored_size=(image.width, image.height), least=SIDE)
        except PictureError as failure:
            return image.id, str(failure)
        bits[row, 0], bits[row, 1], relief[row] = scene_hashes(picture)
        return None

    try:
        outcomes = run_ahead(look, (progress or iter)(missing), name="hash")  # Pillow decodes without the GIL
        failures = dict(failure for failure in outcomes if failure is not None)
    finally:  # what an interrupted run has seen need not be looked at again
        if not np.isnan(relief[missing]).all():
            others = ~np.isin(known_keys, keys)  # pictures that a run on all of the dataset will want again
            _write_hashes(
                file,
                np.concatenate([keys, known_keys[others]]),
                np.concatenate([bits, known_bits[others]]),
                np.concatenate([relief, known_relief[others]]),
            )
    return Hashes(bits[:, 0], bits[:, 1], relief, failures)


def _words(found: imagehash.ImageHash) -> np.ndarray:
    return np.packbits(found.hash.ravel()).view(np.uint64)


def _key(dataset: CameraTrapDataset, image: Image) -> bytes:
    """What a kept hash depends on, as 32 hexadecimal digits."""
    try:
        status = os.stat(dataset.path(image))
        state = f"{status.st_size} {status.st_mtime_ns}"
    except OSError:
        state = "absent"
    what = f"{image.file_name}\t{image.width}x{image.height}\t{state}"
    return hashlib.blake2b(what.encode(errors="surrogatepass"), digest_size=16).hexdigest().encode()


def _read_hashes(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is kept in a file; nothing where it is missing or damaged, as everything in it can be computed again."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            return kept["keys"], kept["bits"], kept["relief"]
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile):
        return np.zeros(0, "S32"), np.zeros((0, 2, WORDS), np.uint64), np.zeros(0, np.float32)


def _write_hashes(file: Path, keys: np.ndarray, bits: np.ndarray, relief: np.ndarray) -> None:
    seen = np.flatnonzero(~np.isnan(relief))
    seen = seen[np.argsort(keys[seen])]
    try:
        with replacing(file) as target:
            np.savez(target, keys=keys[seen], bits=bits[seen], relief=relief[seen])
    except OSError as error:  # they are at hand all the same; only the next time will cost as much again
        logging.getLogger(__name__).warning("hashes of the pictures cannot be kept in %s (%s)", file.parent, error)


# -- links -------------------------------------------------------------------------------------------------------------


def natural_order(images: Sequence[Image]) -> np.ndarray:
    """(n,) int64: the positions of the pictures in the natural order of their file names (2.jpg before 10.jpg)."""
    names = [image.file_name for image in images]
    return np.array(sorted(range(len(names)), key=lambda row: (natural_key(names[row]), names[row])), dtype=np.int64)


def find_links(
    hashes: np.ndarray, readable: np.ndarray, telling: np.ndarray, order: np.ndarray, closeness: Closeness = SCENE
) -> Links:
    """Link the pictures whose hashes are close.

    Parameters: ``hashes`` (n, 4) uint64; ``readable`` and ``telling`` (n,) bool as in `Hashes`; ``order`` (n,) int64,
    the positions in natural order of the file names.

    Time grows like n log n, memory like n. Links between neighbours by name are all found. Close pairs anywhere are
    found by sorting the hashes 32 times, each time with their bits in another (fixed) random order, and comparing each
    hash with its next successors: the closer two hashes, the longer the beginning that they share in some order.
    `benchmarks/near_duplicates.py` measures what this misses.
    """
    # By rank in the natural order, so that the order of the images changes nothing.
    ranked, count = hashes[order], max(len(order), 1)
    told = np.flatnonzero(telling[order])

    def keys() -> Iterator[np.ndarray]:  # a pair as one number: a static camera has a thousand links a picture
        yield _key_of(_adjacent_pairs(ranked, readable[order], closeness), count)
        for pair in _close_pairs(ranked[told], closeness.anywhere):
            yield _key_of(told[pair], count)

    first, second = np.divmod(np.unique(np.concatenate(list(keys()))), count)
    distance = np.empty(len(first), dtype=np.uint16)
    for begin in range(0, len(first), BLOCK):
        part = slice(begin, begin + BLOCK)
        distance[part] = _distance(ranked[first[part]], ranked[second[part]])
    return Links(order[first], order[second], distance)


def _key_of(pairs: np.ndarray, count: int) -> np.ndarray:
    """(k,) int64: each of (2, k) pairs as one number, whichever of the two stands first."""
    return np.minimum(*pairs) * count + np.maximum(*pairs)


def _adjacent_pairs(hashes: np.ndarray, readable: np.ndarray, closeness: Closeness) -> np.ndarray:
    """(2, k): the pairs at most ``reach`` apart that are close enough for that."""
    found = [np.zeros((2, 0), dtype=np.int64)]
    for step in range(1, min(closeness.reach, len(hashes) - 1) + 1):
        near = readable[:-step] & readable[step:]
        near &= _distance(hashes[:-step], hashes[step:]) <= closeness.adjacent
        first = np.flatnonzero(near)
        found.append(np.stack([first, first + step]))
    return np.concatenate(found, axis=1)


def _close_pairs(hashes: np.ndarray, limit: int) -> Iterator[np.ndarray]:
    """(2, k) arrays of pairs at most ``limit`` bits apart; one pair may come more than once."""
    count = len(hashes)
    if count < 2:
        return
    window = min(count - 1, max(WINDOW, EXHAUSTIVE // count))
    random = np.random.Generator(np.random.PCG64(0))
    for _ in range(ORDERS):
        chosen = random.permutation(BITS)[:64]  # where 64 bits agree, hashes are neighbours whatever the rest
        by_bits = np.argsort(_select_bits(hashes, chosen), kind="stable")
        sorted_hashes = hashes[by_bits]
        for step in range(1, window + 1):
            near = np.flatnonzero(_distance(sorted_hashes[:-step], sorted_hashes[step:]) <= limit)
            yield np.stack([by_bits[near], by_bits[near + step]])


def _select_bits(hashes: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(n,) uint64: 64 chosen bits of each hash, the first chosen as the highest."""
    selected = np.zeros(len(hashes), dtype=np.uint64)
    for bit in chosen:
        word, place = divmod(int(bit), 64)
        selected = (selected << np.uint64(1)) | ((hashes[:, word] >> np.uint64(place)) & np.uint64(1))
    return selected


def _distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) uint16: how many bits of (n, 4) uint64 differ, row by row."""
    # Bits are summed in pairs, fours, eights, then all (Hacker's Delight 5-1); NumPy counts bits from 2.0 on only.
    x = first ^ second
    x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((x * np.uint64(0x0101010101010101)) >> np.uint64(56)).sum(axis=1).astype(np.uint16)


# -- groups ------------------------------------------------------------------------------------------------------------


def group_linked(hashes: np.ndarray, order: np.ndarray, links: Links, largest: int) -> tuple[np.ndarray, int]:
    """Give the same label to pictures that hang together by links, in groups of at most ``largest``.

    Parameters: ``hashes`` and ``order`` as `find_links` takes them. Returns labels (n,) int64, and how many links join
    pictures of two groups, because one would be too large.
    """
    count = len(order)
    graph = coo_array((np.ones(len(links), dtype=np.int8), (links.first, links.second)), shape=(count, count))
    labels = connected_components(graph, directed=False)[1].astype(np.int64)
    sizes = np.bincount(labels, minlength=1)
    following = len(sizes)
    for label in np.flatnonzero(sizes > largest).tolist():
        members = order[labels[order] == label]  # by name
        inside = np.flatnonzero(labels[links.first] == label)
        closest_first = inside[np.argsort(links.distance[inside], kind="stable")]
        parts = _runs(hashes[members], largest)
        if parts is None:
            parts = _clumps(members, links.first[closest_first], links.second[closest_first], largest)
        labels[members] = following + parts
        following = int(labels.max()) + 1
    labels = np.unique(labels, return_inverse=True)[1].reshape(-1)
    return labels, int((labels[links.first] != labels[links.second]).sum())


def _runs(hashes: np.ndarray, largest: int) -> np.ndarray | None:
    """Cut a group of (m, 4) hashes, by name, where the picture changes most, between half ``largest`` and ``largest``.

    Within a burst the picture changes less than from one to the next. Returns the part (m,) of each member; None where
    names do not tell what was taken together: followers differ about as much as pictures from afar.
    """
    changes = _distance(hashes[:-1], hashes[1:])
    if np.median(changes) > IN_ORDER * np.median(_distance(hashes, np.roll(hashes, len(hashes) // 2, axis=0))):
        return None
    parts, start = np.zeros(len(hashes), dtype=np.int64), 0
    while len(hashes) - start > largest:
        low = start + (largest - 1) // 2
        start = low + int(np.argmax(changes[low : start + largest])) + 1
        parts[start:] += 1
    return parts


def _clumps(members: np.ndarray, first: np.ndarray, second: np.ndarray, largest: int) -> np.ndarray:
    """Let a group grow together again from its closest links on, none beyond ``largest``: the part of each member."""
    parent = {member: member for member in members.tolist()}
    size = dict.fromkeys(parent, 1)

    def head(member: int) -> int:
        while parent[member] != member:
            parent[member] = member = parent[parent[member]]
        return member

    for one, other in zip(first.tolist(), second.tolist()):
        one, other = head(one), head(other)
        if one != other and size[one] + size[other] <= largest:
            parent[other] = one
            size[one] += size[other]
    return np.unique([head(member) for member in parent], return_inverse=True)[1].reshape(-1)
