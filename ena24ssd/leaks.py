"""How much of the test has the network already seen?

A test picture leaks when a picture of nearly the same scene is in the train side: what is then measured is memory.
`measure_leaks` counts that for one split, `compare_splits` for every way to split a dataset, with drawn examples.

A leak is counted by three witnesses. The *scene hash* is what the grouped split itself goes by, so that there it finds
nothing unless groups were cut: a consistency check, not a proof. The *check hash* is of another kind and knows nothing
of those groups. And where the json names sequences and cameras, these are the truth, however a split was made.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.draw import contact_sheet
from ena24ssd.files import replace_file, replacing
from ena24ssd.neighbours import BITS, CHECK, Links, Neighbours, find_links, natural_order
from ena24ssd.pictures import PictureError, read_picture
from ena24ssd.splits import KINDS, SIDES, Split, count_groups, split_images

JUDGED = ("validation", "test")  # the sides that the train side may leak into
ENOUGH = 10  # pictures due to a side, below which no species can be spread evenly and none is judged
CELL = (400, 300)  # pixels of a drawn example


class Leak(NamedTuple):
    """The share of a side's pictures with a twin in train; None where it cannot be known.

    ``scene`` and ``check`` count twins by hash, ``sequence`` and ``camera`` pictures of the same sequence and location,
    among those pictures whose sequence and location the json tells.
    """

    scene: float
    check: float
    sequence: float | None
    camera: float | None


class Twins(NamedTuple):
    """A picture of a judged side and its closest twin in train."""

    image_id: str
    side: str  # that the picture is on
    train_id: str
    bits: int  # of 256, that differ between their scene hashes


class Imbalance(NamedTuple):
    """The species that a split spreads least evenly (None: the blank pictures)."""

    species: str | None
    side: str
    pictures: int
    due: float  # pictures, were the species spread like all pictures are

    @property
    def deviation(self) -> float:
        """How far off, relative to what is due: 0.5 is half too many or too few."""
        return abs(self.pictures / self.due - 1)


@dataclass(frozen=True)
class Leaks:
    """What one split gives away."""

    kind: str  # a kind of `KINDS`, "grouped by scene" or "brought along"
    sizes: Mapping[str, int]  # pictures on each side
    leaks: Mapping[str, Leak]  # of each judged side that has pictures
    imbalance: Imbalance | None  # None where no species has enough pictures to judge by
    twins: tuple[Twins, ...]  # every leaking picture of a judged side by scene hash, the closest first
    sheet: Path | None = None  # the drawn examples

    def to_json(self) -> dict[str, Any]:
        """A json object; of the twins, how many there are."""
        return {
            "kind": self.kind,
            "sizes": dict(self.sizes),
            "leaks": {side: leak._asdict() for side, leak in self.leaks.items()},
            "imbalance": self.imbalance and {**self.imbalance._asdict(), "deviation": self.imbalance.deviation},
            "twins": len(self.twins),
            "sheet": self.sheet and self.sheet.name,
        }


@dataclass(frozen=True)
class Comparison:
    """What every way to split a dataset gives away."""

    dataset: str
    pictures: int
    unreadable: int  # pictures without a hash, which never count as leaking by it
    plain: int  # pictures that show too little to be recognised, and are linked to their neighbours only
    groups: int  # of two or more pictures that show nearly the same scene
    grouped: int  # pictures in such groups
    largest: int  # pictures in the largest group
    cut: int  # links ignored because a group would have been too large
    splits: tuple[Leaks, ...]
    refused: Mapping[str, str]  # kind -> why this dataset cannot be split that way

    def to_json(self) -> dict[str, Any]:
        """A json object, as written to leaks.json."""
        return {**self.__dict__, "splits": [split.to_json() for split in self.splits], "refused": dict(self.refused)}


def compare_splits(
    dataset: CameraTrapDataset,
    neighbours: Neighbours,
    folder: Path,
    *,
    shares: Sequence[float],
    seed: int = 0,
    brought: Split | None = None,
    examples: int = 6,
) -> Comparison:
    """Split a dataset in every way, and write what leaks into ``folder``: leaks.json, and a sheet for each leaky split.

    Parameters: ``neighbours`` from `find_neighbours` for the same dataset; ``shares`` and ``seed`` as `split_images`
    takes them; ``brought`` the split that came with the data; ``examples`` the most pairs to draw for one split.

    Where the json names cameras or sequences, "grouped" goes by these, and "grouped by scene" tells what it would be
    without: how well hashes stand in for the truth. A kind that the shares forbid is noted in ``refused``.
    """
    splits: dict[str, Split] = {} if brought is None else {"brought along": brought}
    refused: dict[str, str] = {}
    unnamed = [image._replace(location=None, sequence=None) for image in dataset.images]
    ways = [(kind, kind, dataset.images) for kind in KINDS]
    if any(image.location or image.sequence for image in dataset.images):
        ways.append(("grouped by scene", "grouped", unnamed))
    for name, kind, images in ways:
        groups = neighbours.groups if count_groups(images) is None else None
        try:
            splits[name] = split_images(images, kind, shares, seed, groups)
        except ValueError as reason:
            refused[name] = str(reason)
    hashes, order = neighbours.hashes, natural_order(dataset.images)
    check = find_links(hashes.check, hashes.readable, hashes.telling, order, CHECK)
    found = []
    for name, split in splits.items():
        leaks = measure_leaks(dataset, split, neighbours, name, check)
        sheet = _draw_twins(dataset, leaks, neighbours, folder / f"leaks-{name.replace(' ', '-')}.png", examples)
        found.append(replace(leaks, sheet=sheet))
    counts = np.bincount(neighbours.labels)
    comparison = Comparison(
        dataset=dataset.name,
        pictures=len(dataset.images),
        unreadable=len(hashes.failures),
        plain=int((hashes.readable & ~hashes.telling).sum()),
        groups=int((counts > 1).sum()),
        grouped=int(counts[counts > 1].sum()),
        largest=int(counts.max(initial=0)),
        cut=neighbours.cut,
        splits=tuple(found),
        refused=refused,
    )
    replace_file(folder / "leaks.json", json.dumps(comparison.to_json(), indent=1))
    return comparison


def measure_leaks(dataset: CameraTrapDataset, split: Split, neighbours: Neighbours, kind: str, check: Links) -> Leaks:
    """What a split of ``dataset`` gives away. ``check``: the links that `find_links` makes of the check hashes."""
    side_of = {image_id: side for side in SIDES for image_id in getattr(split, side)}
    sides = np.array([SIDES.index(side_of[i.id]) if i.id in side_of else -1 for i in dataset.images], dtype=np.int64)
    by_scene, by_check = (_closest_in_train(links, sides) for links in (neighbours.links, check))
    learnt = [image for image, side in zip(dataset.images, sides) if side == 0]
    sequences, cameras = {image.sequence for image in learnt}, {image.location for image in learnt}
    leaks = {}
    for name in JUDGED:
        rows = np.flatnonzero(sides == SIDES.index(name)).tolist()
        if rows:
            judged = [dataset.images[row] for row in rows]
            leaks[name] = Leak(
                scene=sum(row in by_scene for row in rows) / len(rows),
                check=sum(row in by_check for row in rows) / len(rows),
                sequence=_share_in(sequences, [image.sequence for image in judged]),
                camera=_share_in(cameras, [image.location for image in judged]),
            )
    ids = [image.id for image in dataset.images]
    twins = [Twins(ids[row], SIDES[sides[row]], ids[twin], bits) for row, (bits, twin) in by_scene.items()]
    return Leaks(
        kind=kind,
        sizes={side: len(getattr(split, side)) for side in SIDES},
        leaks=leaks,
        imbalance=find_imbalance(dataset.images, split, dataset.class_names),
        twins=tuple(sorted(twins, key=lambda pair: (pair.bits, pair.image_id))),
    )


def find_imbalance(images: Sequence[Image], split: Split, class_names: Sequence[str]) -> Imbalance | None:
    """The species whose pictures a split spreads least like all pictures; the blank ones count as a species.

    Only sides to which at least 10 pictures of a species are due are looked at. None where there is no such side.
    """
    side_of = {image_id: side for side in SIDES for image_id in getattr(split, side)}
    sizes, totals, counts = Counter(side_of.values()), Counter(), Counter()
    for image in images:
        if image.id in side_of:
            for species in {label for label, _ in image.boxes} or {None}:
                totals[species] += 1
                counts[species, side_of[image.id]] += 1
    cases = [
        Imbalance(
            None if species is None else class_names[species],
            side,
            counts[species, side],
            total * sizes[side] / len(side_of),
        )
        for species, total in totals.items()
        for side in SIDES
    ]
    return max((case for case in cases if case.due >= ENOUGH), key=lambda case: case.deviation, default=None)


def _closest_in_train(links: Links, sides: np.ndarray) -> dict[int, tuple[int, int]]:
    """For each picture of a judged side that has a twin in train: the bits that differ, and the closest twin."""
    closest: dict[int, tuple[int, int]] = {}
    for one, other in ((links.first, links.second), (links.second, links.first)):
        crossing = np.flatnonzero((sides[one] > 0) & (sides[other] == 0))
        for row, twin, bits in zip(one[crossing].tolist(), other[crossing].tolist(), links.distance[crossing].tolist()):
            closest[row] = min(closest.get(row, (BITS, -1)), (bits, twin))
    return closest


def _share_in(known: set[str | None], found: Sequence[str | None]) -> float | None:
    told = [name for name in found if name is not None]
    return sum(name in known for name in told) / len(told) if told else None


def _draw_twins(dataset: CameraTrapDataset, leaks: Leaks, neighbours: Neighbours, file: Path, most: int) -> Path | None:
    """Leaked pairs side by side, the judged picture left, its twin right.

    Of one group the closest pair only; pairs with animals come first, and the test before the validation side.
    """
    images = {image.id: image for image in dataset.images}
    by_worth = sorted(leaks.twins, key=lambda twins: (twins.side, not images[twins.image_id].boxes))  # t before v
    cells, captions, shown = [], [], set()
    for twins in by_worth:
        group = neighbours.groups[twins.image_id]
        if len(cells) >= 2 * most or group in shown:
            continue
        pair = images[twins.image_id], images[twins.train_id]
        try:
            pictures = [
                read_picture(dataset.path(image), stored_size=(image.width, image.height), least=max(CELL))
                for image in pair
            ]
        except PictureError:  # gone since it was hashed; another pair shows as much
            continue
        shown.add(group)
        cells += pictures
        captions += [f"{twins.side}: {pair[0].file_name}", f"train: {pair[1].file_name}"]
    if not cells:
        file.unlink(missing_ok=True)  # of an earlier report
        return None
    with replacing(file) as target:
        contact_sheet(cells, captions, columns=2, cell=CELL).save(target, "PNG")
    return file
