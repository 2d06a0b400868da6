"""Which pictures may the network learn from?

A split puts every picture on exactly one side: train, validation or test. Camera traps take bursts of nearly the same
picture, and every picture of one camera has the same background; where those are on both sides, the test measures
memory. Three ways to split, in rising honesty: by listing (the blog post's), at random, and in groups: whole cameras
where the json names them, else whatever `ena24ssd.neighbours` found to show nearly the same scene.

Nothing here opens a picture: groups of neighbours are handed in.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ena24ssd.cameratraps import Image

SIDES = ("train", "validation", "test")
KINDS = ("listing", "random", "grouped")
ATTEMPTS = 16  # to place all groups evenly
PLACEMENTS = 20_000  # of single groups, after which no further attempt is made


@dataclass(frozen=True)
class Split:
    """The ids of the pictures on each side, in the order the way of splitting put them in."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def judging(self) -> str:
        """The side to judge on: test, else validation, else train."""
        return next((side for side in reversed(SIDES) if getattr(self, side)), "train")

    def to_json(self) -> dict[str, list[str]]:
        """A json object: a list of ids for each side."""
        return {side: list(getattr(self, side)) for side in SIDES}

    @classmethod
    def from_json(cls, document: Any) -> Split:
        """The split that `to_json` wrote. Raises ValueError for anything else, or an id on two sides."""
        if not isinstance(document, dict) or set(document) != set(SIDES):
            raise ValueError(
                f"split: must be an object with the keys {', '.join(SIDES)}, not {document!r:.80}; "
                "write it with Split.to_json"
            )
        for side in SIDES:
            if not isinstance(document[side], list) or not all(isinstance(key, str) for key in document[side]):
                raise ValueError(f"split: {side!r} must be a list of image ids (text), not {document[side]!r:.80}")
        split = cls(**{side: tuple(document[side]) for side in SIDES})
        ids = split.train + split.validation + split.test
        if len(set(ids)) < len(ids):
            twice = Counter(ids).most_common(1)[0][0]
            raise ValueError(f"split: image {twice!r} is listed twice; a picture is on one side only: split anew")
        return split


def split_images(
    images: Sequence[Image],
    kind: str,
    shares: Sequence[float] = (0.8, 0.0, 0.2),
    seed: int = 0,
    groups: Mapping[str, int] | None = None,
) -> Split:
    """Split in the way a config names: ``listing``, ``random`` or ``grouped``.

    Parameters: ``shares`` of train, validation and test, each in [0, 1], summing to 1. ``seed`` is not used by listing.
    ``groups``, see `split_by_group`, is used by grouped alone; `count_groups` says whether it has to be there.
    Raises ValueError for an unknown kind, unusable shares, or too few pictures (or groups) for the shares.
    """
    if kind == "listing":
        return split_by_listing(images, shares)
    if kind == "random":
        return split_at_random(images, shares, seed)
    if kind == "grouped":
        return split_by_group(images, shares, seed, groups)
    raise ValueError(f"split: there is no kind {kind!r}; choose listing, random or grouped")


def count_groups(images: Sequence[Image]) -> int | None:
    """How many cameras (or sequences, where the json names no camera) the pictures are from.

    None where the json leaves it open for some picture, so that one has to look at the pictures.
    """
    names = set(name_holders(images))
    return None if None in names else len(names)


def split_by_listing(images: Sequence[Image], shares: Sequence[float] = (0.8, 0.0, 0.2)) -> Split:
    """The post's way: the first pictures of the folder listing train, the last ones test. Nothing is shuffled.

    **Leaky and skewed; kept to reproduce the post.** Pictures of one burst stand side by side in a listing, so a burst
    at the border lands on both sides, cameras land on both sides anyway, and species taken late are tested untrained.

    The post takes ``os.listdir``, whose order differs between disks. Here file names stand in natural order, numbers by
    their value (2.jpg before 10.jpg), so every machine gets the same split. Shares are rounded down as in the post:
    of 8,789 pictures 0.8 trains 7,031, and 1,758 remain.
    """
    ids = [image.id for image in sorted(images, key=lambda image: (natural_key(image.file_name), image.file_name))]
    return _cut(ids, _checked(shares))


def split_at_random(images: Sequence[Image], shares: Sequence[float] = (0.8, 0.0, 0.2), seed: int = 0) -> Split:
    """Shuffle, then cut. The same ids and seed give the same split, whatever order the pictures come in.

    Honest only where pictures are independent of each other; those of one burst or one camera are not.
    """
    ids = sorted(image.id for image in images)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(ids))
    return _cut([ids[position] for position in order], _checked(shares))


def split_by_group(
    images: Sequence[Image],
    shares: Sequence[float] = (0.8, 0.0, 0.2),
    seed: int = 0,
    groups: Mapping[str, int] | None = None,
) -> Split:
    """Put whole cameras on one side, so that the test shows places the network has never seen.

    A picture without a location goes by its sequence, and with the location of that sequence if another picture knows
    it. A picture with neither goes by ``groups`` (image id -> group of pictures that show nearly the same scene, see
    `ena24ssd.neighbours.find_neighbours`): with the camera that most of its group are known to be from, else with its
    group, and alone where ``groups`` does not name it.

    The pictures of every species, and the blank ones, are spread over the sides as the shares ask, as closely as whole
    groups allow. Large groups are placed first, each where its species are needed most; of several such attempts, in
    orders drawn by ``seed``, the most even one is taken. The order of ``images`` does not matter.

    Raises ValueError when a picture has neither location nor sequence and ``groups`` is None, or there are fewer groups
    than sides.
    """
    shares = _checked(shares)
    members = _groups(images, groups)
    sides = [side for side, share in enumerate(shares) if share > 0]
    if len(members) < len(sides):
        raise ValueError(
            f"split: {len(members)} groups (cameras, sequences or scenes) cannot fill {len(sides)} sides; each side "
            "with a share needs one. Set split.validation or split.test to 0, or bring more pictures; a random split "
            "(split.kind=random) would test on near-copies of the training pictures"
        )
    names = sorted(members)
    side_of = _place(_shown([members[name] for name in names]), shares, sides, seed)
    ids: tuple[list[str], ...] = ([], [], [])
    for name, side in zip(names, side_of, strict=True):
        ids[side].extend(image.id for image in members[name])
    return Split(*map(tuple, ids))


def _groups(images: Sequence[Image], groups: Mapping[str, int] | None) -> dict[tuple[str, str], list[Image]]:
    """The pictures that must stay together, by what holds them: a location, a sequence or a scene."""
    if groups is None and count_groups(images) is None:
        lost = sorted(image.id for image, name in zip(images, name_holders(images)) if name is None)
        raise ValueError(
            f"split: {len(lost)} of {len(images)} pictures (first: image {lost[0]!r}) have neither a location nor a "
            "sequence, so whole cameras cannot be kept together; group them by what they show "
            "(ena24ssd.neighbours.find_neighbours), add 'location' or 'seq_id' to the pictures of the json, or split "
            "at random"
        )
    images = sorted(images, key=lambda image: image.id)
    members: dict[tuple[str, str], list[Image]] = defaultdict(list)
    scenes: dict[int | str, list[Image]] = defaultdict(list)
    known: dict[int, Counter[tuple[str, str]]] = defaultdict(Counter)
    for image, key in zip(images, name_holders(images)):
        scene = None if groups is None else groups.get(image.id)
        if key is None:
            scenes[image.id if scene is None else scene].append(image)
            continue
        members[key].append(image)
        if scene is not None:
            known[scene][key] += 1
    for scene, lost in scenes.items():
        key = min(known[scene].items(), key=lambda item: (-item[1], item[0]))[0] if scene in known else None
        members[key or ("scene", lost[0].id)] += lost
    return dict(members)


def name_holders(images: Sequence[Image]) -> list[tuple[str, str] | None]:
    """What the json says holds each picture: its camera, else its sequence; None where it leaves that open.

    Without a location, a picture is of the camera that the others of its sequence are from. If these are from several
    cameras, which each number their own sequences, nobody knows.
    """
    cameras = _cameras(images)
    of_sequence: dict[str, set[str]] = defaultdict(set)
    for image in images:
        if image.sequence is not None and image.location is not None:
            of_sequence[image.sequence].add(cameras[image.location])

    def name(image: Image) -> tuple[str, str] | None:
        if image.location is not None:
            return "location", cameras[image.location]
        if image.sequence is None or len(of_sequence[image.sequence]) > 1:
            return None
        return (
            ("location", *of_sequence[image.sequence]) if of_sequence[image.sequence] else ("sequence", image.sequence)
        )

    return [name(image) for image in images]


def _cameras(images: Sequence[Image]) -> dict[str, str]:
    """The location that stands for each location: its own, or that of another that one sequence ties it to.

    A sequence is of one camera, so two locations in it are two names of one. But where a good part of the sequences
    have several locations, each camera numbers its own, and they tie nothing.
    """
    seen: dict[str, set[str]] = defaultdict(set)
    for image in images:
        if image.location is not None and image.sequence is not None:
            seen[image.sequence].add(image.location)
    stands_for = {image.location: image.location for image in images if image.location is not None}
    ties = [sorted(locations) for _, locations in sorted(seen.items()) if len(locations) > 1]
    if 10 * len(ties) > len(seen):
        return stands_for

    def camera(location: str) -> str:
        while stands_for[location] != location:
            stands_for[location] = location = stands_for[stands_for[location]]
        return location

    for first, *others in ties:
        for other in others:
            stands_for[camera(other)] = camera(first)
    return {location: camera(location) for location in stands_for}


def _shown(groups: Sequence[Sequence[Image]]) -> np.ndarray:
    """What each group brings: (groups, 1 + K) pictures, then pictures of each of K species, blank counted as one."""
    labels = sorted({label for group in groups for image in group for label, _ in image.boxes})
    column = {label: position for position, label in enumerate(labels, start=2)}
    shown = np.zeros((len(groups), 2 + len(labels)))
    for row, group in zip(shown, groups, strict=True):
        row[0] = len(group)
        for image in group:
            for label in {label for label, _ in image.boxes}:
                row[column[label]] += 1
            row[1] += not image.boxes
    return shown[:, shown.any(axis=0)]


def _place(shown: np.ndarray, shares: Sequence[float], sides: Sequence[int], seed: int) -> list[int]:
    """The side of each group.

    How uneven a split is: over sides and species, the sum of share * (pictures / pictures due - 1)^2, where the number
    of all pictures counts as much as all species together. Each group goes where it makes that least.
    """
    portion = shown / shown.sum(axis=0)  # (groups, 1 + K) of all that there is
    weight = np.ones(portion.shape[1])
    weight[0] = max(1, len(weight) - 1)
    share = np.array([shares[side] for side in sides])[:, None]  # (sides, 1)
    random = np.random.Generator(np.random.PCG64(seed))
    best: tuple[float, list[int]] = (np.inf, [])
    for _ in range(min(max(PLACEMENTS // len(shown), 1), ATTEMPTS)):
        order = np.argsort(-shown[:, 0] * random.uniform(0.5, 1, len(shown)), kind="stable")
        filled = np.zeros((len(sides), portion.shape[1]))  # what each side has of what is due to it
        chosen = [0] * len(shown)
        waiting = set(range(len(sides)))
        for remaining, group in zip(range(len(order), 0, -1), order.tolist()):
            more = portion[group] / share
            cost = np.round((2 * (filled - 1) + more) @ (weight * portion[group]), 12)
            # the last groups go where there is none yet
            among = sorted(waiting) if len(waiting) == remaining else range(len(sides))
            side = min(among, key=cost.__getitem__)
            filled[side] += more[side]
            waiting.discard(side)
            chosen[group] = side
        uneven = round(float((share * (filled - 1) ** 2 @ weight[:, None]).sum()), 9)
        best = min(best, (uneven, chosen), key=lambda attempt: attempt[0])
    return [sides[side] for side in best[1]]


def _cut(ids: Sequence[str], shares: tuple[float, float, float]) -> Split:
    """Cut a list at the shares, each cut rounded down; every side with a share must get a picture."""
    cuts = [
        math.floor(len(ids) * share + 1e-6) for share in (shares[0], shares[0] + shares[1])
    ]  # 0.29 * 100 is 28.99...
    split = Split(tuple(ids[: cuts[0]]), tuple(ids[cuts[0] : cuts[1]]), tuple(ids[cuts[1] :]))
    for side, share in zip(SIDES, shares, strict=True):
        if share > 0 and not getattr(split, side):
            raise ValueError(
                f"split: a share of {share:g} of {len(ids)} pictures gives {side} none; every side with a share needs "
                "a picture: raise the share, set it to 0, or add pictures"
            )
    return split


def _checked(shares: Sequence[float]) -> tuple[float, float, float]:
    """Three shares that make sense together."""
    shares = tuple(shares)
    # 'not >=' also catches NaN
    if len(shares) != 3 or not all(share >= 0 for share in shares) or not abs(sum(shares) - 1) <= 1e-9:
        raise ValueError(
            f"split: shares are {shares}; train, validation and test must each be 0 or more and sum to 1, "
            "such as (0.8, 0.1, 0.1)"
        )
    if shares[0] == 0:
        raise ValueError(f"split: shares are {shares}; nothing would be learnt from a train share of 0: raise it")
    return shares


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A sort key that reads runs of digits as numbers, whatever their length."""
    parts = re.split(r"([0-9]+)", name)  # text, digits, text, ...
    return [
        (1, len(part.lstrip("0")), part.lstrip("0")) if position % 2 else (0, 0, part)
        for position, part in enumerate(parts)
    ]
