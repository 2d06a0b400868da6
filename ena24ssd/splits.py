"""Which pictures may the network learn from?

A split puts every picture on exactly one side: train, validation or test. Camera traps take bursts of nearly the same
picture, and every picture of one camera has the same background; where those are on both sides, the test measures
memory. Three ways to split, in rising honesty: by listing (the blog post's), at random, and by location.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ena24ssd.cameratraps import Image

SIDES = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The ids of the pictures on each side, in the order the way of splitting put them in."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]

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


def split_images(images: Sequence[Image], kind: str, shares: Sequence[float] = (0.8, 0.0, 0.2), seed: int = 0) -> Split:
    """Split in the way a config names: ``listing``, ``random`` or ``grouped`` (whole locations).

    Parameters: ``shares`` of train, validation and test, each in [0, 1], summing to 1. ``seed`` is not used by listing.
    Raises ValueError for an unknown kind, unusable shares, or too few pictures (or locations) for the shares.
    """
    if kind == "listing":
        return split_by_listing(images, shares)
    if kind == "random":
        return split_at_random(images, shares, seed)
    if kind == "grouped":
        return split_by_location(images, shares, seed)
    raise ValueError(f"split: there is no kind {kind!r}; choose listing, random or grouped")


def split_by_listing(images: Sequence[Image], shares: Sequence[float] = (0.8, 0.0, 0.2)) -> Split:
    """The post's way: the first pictures of the folder listing train, the last ones test. Nothing is shuffled.

    **Leaky and skewed; kept to reproduce the post.** Pictures of one burst stand side by side in a listing, so a burst
    at the border lands on both sides, cameras land on both sides anyway, and species taken late are tested untrained.

    The post takes ``os.listdir``, whose order differs between disks. Here file names stand in natural order, numbers by
    their value (2.jpg before 10.jpg), so every machine gets the same split. Shares are rounded down as in the post:
    of 8,789 pictures 0.8 trains 7,031, and 1,758 remain.
    """
    ids = [image.id for image in sorted(images, key=lambda image: (_natural(image.file_name), image.file_name))]
    return _cut(ids, _checked(shares))


def split_at_random(images: Sequence[Image], shares: Sequence[float] = (0.8, 0.0, 0.2), seed: int = 0) -> Split:
    """Shuffle, then cut. The same ids and seed give the same split, whatever order the pictures come in.

    Honest only where pictures are independent of each other; those of one burst or one camera are not.
    """
    ids = sorted(image.id for image in images)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(ids))
    return _cut([ids[position] for position in order], _checked(shares))


def split_by_location(images: Sequence[Image], shares: Sequence[float] = (0.8, 0.0, 0.2), seed: int = 0) -> Split:
    """Put whole cameras on one side, so that the test shows places the network has never seen.

    A picture without a location goes by its sequence, and with the location of that sequence if another picture knows
    it. Locations come in random order (by ``seed``, not by the order of the pictures), and each joins the side that is
    then least full for its share, counted in pictures; shares are therefore met about as closely as cameras allow.

    Raises ValueError when a picture has neither location nor sequence, or there are fewer locations than sides.
    """
    shares = _checked(shares)
    groups = _groups(images)
    sides = [side for side, share in enumerate(shares) if share > 0]
    if len(groups) < len(sides):
        raise ValueError(
            f"split: {len(groups)} locations cannot fill {len(sides)} sides; each side with a share needs a location: "
            "set a share to 0, or split at random"
        )
    names = sorted(groups)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
    members: tuple[list[str], ...] = ([], [], [])
    for remaining, position in zip(range(len(names), 0, -1), order, strict=True):
        group = groups[names[position]]
        waiting = [side for side in sides if not members[side]]
        open_sides = waiting if len(waiting) == remaining else sides  # the last locations go where there is none yet
        side = min(open_sides, key=lambda side: (len(members[side]) + len(group)) / shares[side])
        members[side].extend(group)
    return Split(*map(tuple, members))


def _groups(images: Sequence[Image]) -> dict[tuple[str, str], list[str]]:
    """The ids of each camera's pictures, by what tells the camera: its location or else the sequence."""
    lost = sorted(image.id for image in images if image.location is None and image.sequence is None)
    if lost:
        raise ValueError(
            f"split: {len(lost)} of {len(images)} pictures (first: image {lost[0]!r}) have neither a location nor a "
            "sequence, so whole cameras cannot be kept together; add 'location' or 'seq_id' to the pictures of the "
            "json, or split at random"
        )
    images = sorted(images, key=lambda image: image.id)
    located = {image.sequence: image.location for image in reversed(images) if image.location is not None}
    groups: dict[tuple[str, str], list[str]] = {}
    for image in images:
        location = image.location if image.location is not None else located.get(image.sequence)
        key = ("sequence", image.sequence) if location is None else ("location", location)
        groups.setdefault(key, []).append(image.id)
    return groups


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


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A sort key that reads runs of digits as numbers, whatever their length."""
    parts = re.split(r"([0-9]+)", name)  # text, digits, text, ...
    return [
        (1, len(part.lstrip("0")), part.lstrip("0")) if position % 2 else (0, 0, part)
        for position, part in enumerate(parts)
    ]
