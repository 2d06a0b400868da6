"""How does what was found become a Camera Trap Data Package?

Camtrap DP (https://camtrap-dp.tdwg.org) is what GBIF, Agouti, TRAPPER and the R packages camtrapdp and camtraptor
exchange: a folder with ``datapackage.json`` and three tables, of where cameras stood, of their pictures, and of what
was observed. What no picture knows comes from `ena24ssd.outputs.project`. How a detector's output is said in it:

* Every detection is an observation of level ``media``, of one animal, with its box and score; ``scientificName`` is
  what the project's species say, and the detector's own name for it always stands in ``observationTags``
  (``class:Red Fox``). A picture without any is one observation ``blank``.
* A picture that could not be read is listed with the reason in ``mediaComments`` and one observation ``unclassified``,
  where its time is known; the standard lists no picture without a time, so that others are counted and left out.
* Times are the camera's own with the offset of its deployment. An observation's event is the moment of its picture:
  which pictures are one visit is for those who analyse them to say.
* ``filePath`` counts from the folder that holds all pictures: put the four files there to make the package whole.
  ``filePublic`` is false, as pictures on a disk are.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from ena24ssd.boxes import Box
from ena24ssd.detections import COORDINATE_DIGITS, SCORE_DIGITS, ImageDetections
from ena24ssd.files import naming
from ena24ssd.outputs.project import DEPLOYMENT_COLUMNS, CamtrapError, Project, to_iso
from ena24ssd.picturenames import relative_name

VERSION = "1.0.2"
STANDARD = f"https://raw.githubusercontent.com/tdwg/camtrap-dp/{VERSION}"
MEDIA_COLUMNS = (
    "mediaID",
    "deploymentID",
    "captureMethod",
    "timestamp",
    "filePath",
    "filePublic",
    "fileName",
    "fileMediatype",
    "exifData",
    "favorite",
    "mediaComments",
)
OBSERVATION_COLUMNS = (
    "observationID",
    "deploymentID",
    "mediaID",
    "eventID",
    "eventStart",
    "eventEnd",
    "observationLevel",
    "observationType",
    "cameraSetupType",
    "scientificName",
    "count",
    "lifeStage",
    "sex",
    "behavior",
    "individualID",
    "individualPositionRadius",
    "individualPositionAngle",
    "individualSpeed",
    "bboxX",
    "bboxY",
    "bboxWidth",
    "bboxHeight",
    "classificationMethod",
    "classifiedBy",
    "classificationTimestamp",
    "classificationProbability",
    "observationTags",
    "observationComments",
)
COLUMNS = {"deployments": tuple(DEPLOYMENT_COLUMNS), "media": MEDIA_COLUMNS, "observations": OBSERVATION_COLUMNS}
FILES = ("datapackage.json", *(f"{table}.csv" for table in COLUMNS))
MAKER = "ena24ssd"  # among the sources of a package: by this it is known that a folder may be replaced
MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".bmp": "image/bmp",
    ".webp": "image/webp",
}
SMALLEST = 10.0**-COORDINATE_DIGITS  # of a side: the standard has no box without area
PATH = re.compile(r"(?![./~])(?!.*\.\.)[^\n\r\u2028\u2029]+")  # what the standard takes for a relative path
NO_DEPLOYMENT = "no deployment"
NO_TIME = "no time in their EXIF data"
BAD_NAME = "a name that the standard does not allow"
UNREADABLE = "nothing that can be read, not even a time"
LACKS = {  # what a picture must have, and how it comes to that; nothing helps one that is damaged
    NO_DEPLOYMENT: "add rows for their folders to the table of deployments",
    NO_TIME: "write it there, as with exiftool",
    BAD_NAME: "rename them to have no '..', no line break, nothing but Unicode, and none of . / ~ at the start",
}
MOST_SHOWN = 3  # pictures named where many lack something


@dataclass(frozen=True)
class Package:
    """What was written: rows of each table, and what one should know of them."""

    deployments: int
    media: int
    observations: int
    left_out: Mapping[str, int] = field(
        default_factory=dict
    )  # pictures, by what they have: "no deployment" and the like
    outside: int = 0  # pictures from before or after their deployment: is the camera's clock right?


def write_camtrapdp(
    path: str | os.PathLike[str],
    images: Iterable[ImageDetections],
    class_names: Sequence[str],
    *,
    root: Path,
    project: Project,
    detector: str,
    when: datetime | None = None,
    partial: bool = False,
) -> Package:
    """Write ``images`` to the folder ``path`` as Camtrap DP.

    Parameters: ``project``, as `read_project` gives it for ``class_names``; ``detector``, the name that observations
    are signed with; ``when`` it did so, with an offset (left out: now); ``partial``, leave out pictures that have no
    deployment, no time or a name that the standard does not allow. ``images`` may be a generator.

    The folder appears when it is whole. One that is there already is replaced if it is such a package of ours and holds
    nothing else. Raises CamtrapError, which says all that is missing; FileExistsError where another folder is in the
    way; ValueError for a detection that is not of ``class_names``.
    """
    path = Path(path)
    when = to_iso(datetime.now(timezone.utc) if when is None else when.astimezone(timezone.utc))
    with _replacing_folder(path) as folder, ExitStack() as files:
        tables = {table: _Table(folder / f"{table}.csv", columns, files) for table, columns in COLUMNS.items()}
        for deployment in project.deployments:
            tables["deployments"].add(deployment.row)
        writer = _Writer(tables, class_names, root, project, detector, when)
        for image in images:
            writer.add(image)
        complaints = writer.complaints()
        if complaints and not partial:
            raise CamtrapError(f"{path}: cannot be written as Camtrap DP", complaints)
        if not tables["media"].rows:
            raise CamtrapError(f"{path}: cannot be written as Camtrap DP", [*complaints, "no picture can be listed"])
        content = json.dumps(_describe(project, writer.taxa, when), indent=1, allow_nan=False)
        with (folder / "datapackage.json").open("wb") as file:
            file.write(content.encode())
            _to_disk(file)
    return Package(*(table.rows for table in tables.values()), dict(writer.lacking), writer.outside)


class _Table:
    """A csv file of the package, which is on the disk when ``files`` is left."""

    def __init__(self, path: Path, columns: Sequence[str], files: ExitStack) -> None:
        self.rows = 0
        raw = files.enter_context(path.open("wb"))
        files.callback(lambda: _to_disk(raw))
        text = io.TextIOWrapper(raw, encoding="utf-8", newline="")
        files.callback(text.detach)  # which flushes, and leaves the closing to `files`
        self._writer = csv.DictWriter(text, columns)
        self._writer.writeheader()

    def add(self, row: Mapping[str, Any]) -> None:
        self._writer.writerow(row)
        self.rows += 1


class _Writer:
    """Turns pictures into rows, and counts those that cannot be."""

    def __init__(
        self,
        tables: Mapping[str, _Table],
        class_names: Sequence[str],
        root: Path,
        project: Project,
        detector: str,
        when: str,
    ) -> None:
        self.lacking: Counter[str] = Counter()
        self.outside = 0
        self.taxa: dict[str, dict[str, str]] = {}  # by scientific name: those that were observed
        self._examples: dict[str, list[str]] = defaultdict(list)
        self._tables = tables
        self._root = root
        self._project = project
        self._deployment_in = lru_cache(1000)(project.deployment_in)  # pictures come folder by folder
        self._tags = {name: "class:" + name.replace("|", "/") for name in class_names}  # | stands between tags
        self._signature = {
            "classificationMethod": "machine",
            "classifiedBy": detector,
            "classificationTimestamp": when,
        }
        methods = project.package["project"]["captureMethod"]
        self._method = methods[0] if len(methods) == 1 else ""

    def add(self, image: ImageDetections) -> None:
        """Add the rows of one picture, or count what it lacks."""
        name = relative_name(image.file, self._root)
        deployment = self._deployment_in(os.path.dirname(image.file), self._root)
        lacks = []
        if deployment is None:
            lacks.append(NO_DEPLOYMENT)
        if image.taken_at is None:
            lacks.append(NO_TIME if image.failure is None else UNREADABLE)
        if not (PATH.fullmatch(name) and _is_unicode(name)):
            lacks.append(BAD_NAME)
        for lack in lacks:
            self.lacking[lack] += 1
            if len(self._examples[lack]) < MOST_SHOWN:
                self._examples[lack].append(name)
        if deployment is None or image.taken_at is None or lacks:
            return
        taken_at = image.taken_at.replace(tzinfo=deployment.clock)
        self.outside += not deployment.start <= taken_at <= deployment.end
        # Of the deployment too, so that packages of two years, whose cameras count their pictures alike, can be merged.
        digest = hashlib.blake2b(f"{deployment.id}\0{name}".encode(), digest_size=12)
        media_id = f"m{digest.hexdigest()}"  # the letter keeps a spreadsheet from taking 1e5... for a number
        shared = {"deploymentID": deployment.id, "mediaID": media_id}
        file = PurePosixPath(name)
        self._tables["media"].add(
            shared
            | {
                "captureMethod": self._method,
                "timestamp": to_iso(taken_at),
                "filePath": name,
                "filePublic": "false",
                "fileName": file.name,
                "fileMediatype": MEDIA_TYPES.get(file.suffix.lower(), "image/unknown"),
                "mediaComments": (image.failure or "").replace("\0", ""),
            }
        )
        shared |= {"eventStart": to_iso(taken_at), "eventEnd": to_iso(taken_at)}
        for number, row in enumerate(self._observations(image), start=1):
            identity = {"observationID": f"{media_id}-{number}", "observationLevel": "media"}
            self._tables["observations"].add(identity | shared | row)

    def complaints(self) -> list[str]:
        """What must be there and is not, a line for each kind."""
        return [
            f"{count:,} pictures have {lack} (first: {', '.join(map(ascii, self._examples[lack]))}); {LACKS[lack]}"
            for lack, count in self.lacking.items()
            if lack in LACKS
        ]

    def _observations(self, image: ImageDetections) -> Iterator[dict[str, Any]]:
        if image.failure is not None:
            yield {"observationType": "unclassified"}  # by nobody
        elif not image.detections:
            yield {"observationType": "blank", **self._signature}
        for found in image.detections:
            if found.name not in self._tags or not image.width or not image.height:
                raise ValueError(
                    f"image {image.file!r} ({image.width} x {image.height} pixels) has a detection called "
                    f"{found.name!r}; names must be among {list(self._tags)}, and the size be known"
                )
            meaning = self._project.meanings[found.name]
            if meaning.scientific_name:
                self.taxa[meaning.scientific_name] = {"scientificName": meaning.scientific_name, **meaning.taxon}
            yield {
                "observationType": meaning.kind,
                "scientificName": meaning.scientific_name,
                "count": 1,
                **_relative_box(found.box, image.width, image.height),
                "classificationProbability": round(float(found.score), SCORE_DIGITS),
                "observationTags": self._tags[found.name],
                **self._signature,
            }


def _relative_box(box: Box, width: int, height: int) -> dict[str, float]:
    """The box in parts of the picture, inside it and with an area."""
    sides = {}
    for low, high, side, place, extent in (
        (box.left, box.right, width, "bboxX", "bboxWidth"),
        (box.top, box.bottom, height, "bboxY", "bboxHeight"),
    ):
        start, end = (round(min(max(float(edge) / side, 0.0), 1.0), COORDINATE_DIGITS) for edge in (low, high))
        start = min(start, 1.0 - SMALLEST)
        sides[place] = round(start, COORDINATE_DIGITS)
        sides[extent] = round(max(end - start, SMALLEST), COORDINATE_DIGITS)
    return sides


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _describe(project: Project, taxa: Mapping[str, dict[str, str]], when: str) -> dict[str, Any]:
    """The content of datapackage.json."""
    said = dict(project.package)
    south, north, west, east = (
        pick(float(deployment.row[column]) for deployment in project.deployments)
        for column in ("latitude", "longitude")
        for pick in (min, max)
    )
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    resources = [
        {
            "name": table,
            "path": f"{table}.csv",
            "profile": "tabular-data-resource",
            "format": "csv",
            "mediatype": "text/csv",
            "encoding": "utf-8",
            "schema": f"{STANDARD}/{table}-table-schema.json",
        }
        for table in COLUMNS
    ]
    return (
        {
            "resources": resources,
            "profile": f"{STANDARD}/camtrap-dp-profile.json",
            "created": when,
            "spatial": {"type": "Polygon", "bbox": [west, south, east, north], "coordinates": [ring]},
        }
        | said
        | {
            "sources": [*said.get("sources", []), {"title": MAKER}],
            "project": said["project"] | {"observationLevel": ["media"]},
            "temporal": {
                "start": min(deployment.start.date() for deployment in project.deployments).isoformat(),
                "end": max(deployment.end.date() for deployment in project.deployments).isoformat(),
            },
            "taxonomic": [taxa[name] for name in sorted(taxa)],
        }
    )


# -- the folder -----------------------------------------------------------------------------------------------------


@contextmanager
def _replacing_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the place of ``path`` once it is whole; until then, and after a failure, ``path`` is
    as it was. Nothing is ever deleted but files that are known by name to be ours.
    """
    _require_free(path)
    token = secrets.token_hex(4)
    unfinished, old = (path.with_name(f".{path.name}.{token}.{ending}") for ending in ("part", "old"))
    try:
        unfinished.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"{path}: cannot be written ({error.strerror}); name another place") from error
    try:
        with naming(path):
            yield unfinished
        _require_free(path)  # hours may have passed
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(unfinished, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
    finally:
        for folder in (unfinished, old):
            _remove(folder)


def _require_free(path: Path) -> None:
    """Raises FileExistsError where something is in the way that is no package of ours."""
    if not os.path.lexists(path):
        return
    reason = "is a link" if path.is_symlink() else "is a file" if not path.is_dir() else None
    if reason is None:
        names = {entry.name for entry in path.iterdir()}
        strange = sorted(names.difference(FILES))
        if strange:
            reason = f"holds {strange[0]!r}, which is no part of such a package"
        elif names and not _is_ours(path / "datapackage.json"):
            reason = "holds a package that another program wrote"
    if reason is not None:
        raise FileExistsError(f"{path}: {reason}, and is not replaced; name another place, or move it away")


def _is_ours(path: Path) -> bool:
    try:
        document = json.loads(path.read_bytes())
        return any(source.get("title") == MAKER for source in document["sources"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _remove(folder: Path) -> None:
    """Delete a folder with the files of a package; it stays where anybody put another file into it."""
    if folder.is_dir():
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())  # else a power cut may leave the new name on empty files
