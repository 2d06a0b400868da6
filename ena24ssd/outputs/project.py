"""What must be known of a camera-trap project besides its pictures?

A Camera Trap Data Package says where and when each camera stood, whose project it was, and which species a class name
means. No picture knows that, so whoever ran the cameras writes it down, in a YAML file (or JSON, which is YAML)::

    deployments: cameras.csv        # one row for each camera and the time it stood in one place
    species: species.csv            # optional: what class names mean
    contributors:
      - {title: Ada Byron, role: contact, email: ada@example.org}
    project:
      title: Foxes of the old quarry
      samplingDesign: opportunistic   # or simpleRandom, systematicRandom, clusteredRandom, experimental, targeted
      captureMethod: [activityDetection]  # or timeLapse, or both
      individualAnimals: false        # whether animals are marked, or known one by one

Any other property of a package (title, licenses, bibliographicCitation, ...) may stand there as well. The tables are
csv files beside it, as a spreadsheet saves them:

* ``cameras.csv`` has the columns of the standard's own table of deployments, of which ``deploymentID``, ``latitude``,
  ``longitude``, ``deploymentStart`` and ``deploymentEnd`` are needed, and two of ours. ``folder`` says where a camera's
  pictures lie, from the folder that holds all of them (left out: in a folder called like the deployment). ``utcOffset``
  is how far the camera's clock is from UTC (``+02:00``; left out: that of ``deploymentStart``).
* ``species.csv`` has the columns ``class`` (a class name of the detector) and ``scientificName``, and may have
  ``observationType`` (animal, human, vehicle, unknown), ``taxonRank`` and ``taxonID``.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time, timedelta, timezone
from functools import cached_property, lru_cache
from pathlib import Path, PurePath, PurePosixPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator

from ena24ssd.picturefiles import normal
from ena24ssd.picturenames import relative_name

KINDS = {  # class names of what is no animal, and what the standard calls it
    "human": "human",
    "person": "human",
    "people": "human",
    "vehicle": "vehicle",
}
DELIMITERS = ",;\t"  # a spreadsheet that writes 52,7 for a number puts ; between cells
MOST_SHOWN = 5  # of each kind of complaint


class CamtrapError(ValueError):
    """What a Camera Trap Data Package needs and does not have: all of it at once, a line each."""

    def __init__(self, what: str, complaints: Sequence[str]) -> None:
        super().__init__("\n".join([f"{what}:", *(f"  {line}" for line in complaints)]))
        self.complaints = tuple(complaints)


@dataclass(frozen=True)
class Deployment:
    """One camera, in one place, for one time."""

    id: str
    folder: tuple[str, ...]  # where its pictures lie: the last parts of their folder's path
    clock: timezone  # the camera's
    start: datetime
    end: datetime
    row: Mapping[str, str]  # by the standard's columns, as it is written


@dataclass(frozen=True)
class Meaning:
    """What a class name means: the standard's ``observationType``, and the taxon where it is known."""

    kind: str
    scientific_name: str = ""
    taxon: Mapping[str, str] = field(default_factory=dict)  # further properties of the taxon


@dataclass(frozen=True)
class Project:
    """All that is known of a project besides its pictures."""

    name: str  # of the file that said so
    deployments: tuple[Deployment, ...]
    meanings: Mapping[str, Meaning]  # of every class name
    package: Mapping[str, Any]  # properties of the package, as they are written
    ignored: tuple[str, ...]  # columns that the standard does not have

    @property
    def unnamed(self) -> tuple[str, ...]:
        """Class names that mean an animal and have no scientific name."""
        return tuple(
            name for name, means in self.meanings.items() if means.kind == "animal" and not means.scientific_name
        )

    def deployment_in(self, folder: str, root: Path) -> Deployment | None:
        """The deployment whose camera took the pictures in a folder; None where no folder on the way is a deployment's.

        Of the folders counted from ``root``, the longest decides; where none fits, the deepest folder on the whole path
        whose last parts are a deployment's, so that it does not matter from which folder on pictures were given.
        """
        parts = tuple(map(normal, PurePosixPath(relative_name(folder, root)).parts))
        for end in range(len(parts), -1, -1):
            if parts[:end] in self._by_folder:
                return self._by_folder[parts[:end]]
        parts = tuple(map(normal, PurePath(folder).parts))
        for end in range(len(parts), 0, -1):
            for start in range(end):
                if parts[start:end] in self._by_folder:
                    return self._by_folder[parts[start:end]]
        return None

    def require_deployments(self, files: Iterable[str | os.PathLike[str]], root: Path) -> None:
        """Raises CamtrapError where pictures have no deployment: worth knowing before they are looked at for days."""
        find = lru_cache(1000)(self.deployment_in)
        missing, first = 0, None
        for file in map(os.fspath, files):
            if find(os.path.dirname(file), root) is None:
                missing += 1
                first = relative_name(file, root) if first is None else first
        if missing:
            complaint = f"{missing:,} pictures have no deployment (first: {first!a}); add rows for their folders"
            raise CamtrapError(f"{self.name}: not enough is known for a Camera Trap Data Package", [complaint])

    @cached_property
    def _by_folder(self) -> dict[tuple[str, ...], Deployment]:
        return {deployment.folder: deployment for deployment in self.deployments}


class _Section(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


Text = Annotated[str, Field(min_length=1)]
CaptureMethod = Literal["activityDetection", "timeLapse"]


class _Contributor(_Section):
    title: Text
    role: Literal["contact", "principalInvestigator", "rightsHolder", "publisher", "contributor"] = "contributor"


class _License(_Section):
    scope: Literal["data", "media"]
    name: Text | None = None
    path: Text | None = None

    @model_validator(mode="after")
    def _is_named(self) -> _License:
        if self.name is None and self.path is None:
            raise ValueError("has neither a name nor a path (its address)")
        return self


class _ProjectFacts(_Section):
    title: Text
    samplingDesign: Literal[
        "simpleRandom", "systematicRandom", "clusteredRandom", "experimental", "targeted", "opportunistic"
    ]
    captureMethod: Annotated[list[CaptureMethod], Field(min_length=1)]
    individualAnimals: StrictBool

    @model_validator(mode="after")
    def _methods_once(self) -> _ProjectFacts:
        if len(set(self.captureMethod)) < len(self.captureMethod):
            raise ValueError("captureMethod names a method twice")
        return self


class _ProjectFile(BaseModel):
    """What may stand in the YAML file. What the pictures and tables say themselves must not."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    deployments: Text
    species: Text | None = None
    contributors: Annotated[list[_Contributor], Field(min_length=1)]
    project: _ProjectFacts
    name: Annotated[str, Field(pattern=r"^[a-z0-9._-]+$")] | None = None
    id: Text | None = None
    title: Text | None = None
    description: Text | None = None
    version: Text | None = None
    keywords: list[Text] | None = None
    image: Text | None = None
    homepage: Text | None = None
    sources: list[dict[str, Any]] | None = None
    licenses: list[_License] | None = None
    bibliographicCitation: Text | None = None
    coordinatePrecision: float | None = None
    spatial: dict[str, Any] | None = None
    relatedIdentifiers: list[dict[str, Any]] | None = None
    references: list[Text] | None = None

    @model_validator(mode="after")
    def _licenses_for_both(self) -> _ProjectFile:
        if self.licenses is not None and {one.scope for one in self.licenses} != {"data", "media"}:
            raise ValueError("licenses must be at least two, one of scope 'data' and one of scope 'media'")
        return self


def read_project(path: Path, class_names: Sequence[str]) -> Project:
    """Read the YAML file of a project and the tables it names.

    Raises CamtrapError, which says everything that is missing or wrong, in all three files.
    """
    complaints: list[str] = []
    said = _read_yaml(path, complaints)
    file = None
    try:
        file = _ProjectFile.model_validate(said)
    except ValidationError as error:
        complaints += [f"{path.name}: {_where(fault['loc'])}{_say(fault)}" for fault in error.errors()]
    table, species = (said.get(key) for key in ("deployments", "species"))
    deployments: list[Deployment] = []
    ignored: list[str] = []
    meanings = {name: Meaning(KINDS.get(name.strip().lower(), "animal")) for name in class_names}
    if isinstance(table, str) and table:
        deployments, ignored = _read_deployments(path.parent / table, complaints)
    if isinstance(species, str) and species:
        meanings |= _read_species(path.parent / species, meanings, complaints)
    if complaints or file is None:
        raise CamtrapError(f"{path}: not enough is known for a Camera Trap Data Package", complaints)
    package = file.model_dump(exclude={"deployments", "species"}, exclude_none=True, mode="json")
    return Project(path.name, tuple(deployments), meanings, package, tuple(ignored))


def _read_yaml(path: Path, complaints: list[str]) -> dict[str, Any]:
    if path.suffix.lower() == ".csv":  # the one table that everybody has; say what is missing besides
        return {"deployments": path.name}
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as fault:
        complaints.append(f"{path.name}: cannot be read as YAML: {fault}")
        return {}
    if isinstance(said, dict):
        return said
    complaints.append(f"{path.name}: holds {type(said).__name__}; it must be a mapping with 'deployments' and the rest")
    return {}


def _where(place: tuple[int | str, ...]) -> str:
    return "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in place).lstrip(".") + (
        ": " if place else ""
    )


def _say(fault: Mapping[str, Any]) -> str:
    """A fault that pydantic found, in words for somebody who writes YAML."""
    if fault["type"] == "missing":
        return "is missing"
    if fault["type"] == "extra_forbidden":
        return "is no property that may be given here; mind capitals, and leave out what is computed"
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    return f"is {fault['input']!r:.60}; {fault['msg'][0].lower()}{fault['msg'][1:]}"


# -- tables ---------------------------------------------------------------------------------------------------------


def _read_table(path: Path, needed: Iterable[str], complaints: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a csv with these columns, each with the words that say where it stands; cells without spaces around.

    Nothing is given of a table that has not all of the columns.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as fault:
        complaints.append(f"{path.name}: cannot be read ({fault.strerror}); it must lie beside the file that names it")
        return
    except UnicodeDecodeError:
        complaints.append(f"{path.name}: is not UTF-8; save it as 'CSV UTF-8'")
        return
    head = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=head.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as fault:
        complaints.append(f"{path.name}: cannot be read as csv ({fault})")
        return
    columns = [column.strip() for column in rows[0]] if rows else []
    twice = sorted({column for column in columns if column and columns.count(column) > 1})
    missing = [column for column in needed if column not in columns]
    complaints += [f"{path.name}: has the column {column!r} twice" for column in twice]
    complaints += [f"{path.name}: has no column {column!r}" for column in missing]
    if twice or missing:
        return
    for number, cells in enumerate(rows[1:], start=2):
        row = dict(zip(columns, map(str.strip, cells)))
        if any(row.values()):
            yield f"{path.name}, row {number}", {column: row.get(column, "") for column in columns if column}


def _text(text: str) -> str:
    return text


def _number(least: float, most: float, kind: type = float) -> Callable[[str], str]:
    def check(text: str) -> str:
        pattern = r"[+-]?\d+" if kind is int else r"[+-]?(\d+(\.\d*)?|\.\d+)"
        if not (text.isascii() and re.fullmatch(pattern, text) and least <= float(text) <= most):
            bounds = f"of at least {least:g}" if most == float("inf") else f"from {least:g} to {most:g}"
            raise ValueError(f"must be a {'whole number' if kind is int else 'number with a decimal point'} {bounds}")
        return text

    return check


def _truth(text: str) -> str:
    if text.lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return text.lower()


def _one_of(*choices: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return text

    return check


ENDLESS = float("inf")
DEPLOYMENT_COLUMNS: dict[str, Callable[[str], str]] = {  # the standard's, in its order, with what they may hold
    "deploymentID": _text,
    "locationID": _text,
    "locationName": _text,
    "latitude": _number(-90, 90),
    "longitude": _number(-180, 180),
    "coordinateUncertainty": _number(1, ENDLESS, int),
    "deploymentStart": _text,  # times need the clock of the row: see `_read_deployment`
    "deploymentEnd": _text,
    "setupBy": _text,
    "cameraID": _text,
    "cameraModel": _text,
    "cameraDelay": _number(0, ENDLESS, int),
    "cameraHeight": _number(0, ENDLESS),
    "cameraDepth": _number(0, ENDLESS),
    "cameraTilt": _number(-90, 90, int),
    "cameraHeading": _number(0, 360, int),
    "detectionDistance": _number(0, ENDLESS),
    "timestampIssues": _truth,
    "baitUse": _truth,
    "featureType": _one_of(
        "roadPaved",
        "roadDirt",
        "trailHiking",
        "trailGame",
        "roadUnderpass",
        "roadOverpass",
        "roadBridge",
        "culvert",
        "burrow",
        "nestSite",
        "carcass",
        "waterSource",
        "fruitingTree",
    ),
    "habitat": _text,
    "deploymentGroups": _text,
    "deploymentTags": _text,
    "deploymentComments": _text,
}
NEEDED = ("deploymentID", "latitude", "longitude", "deploymentStart", "deploymentEnd")
OURS = ("folder", "utcOffset")


def _read_deployments(path: Path, complaints: list[str]) -> tuple[list[Deployment], list[str]]:
    """The deployments, and the columns that were passed over."""
    found: dict[str, Deployment] = {}
    folders: dict[tuple[str, ...], str] = {}
    faults: list[str] = []
    before = len(complaints)
    columns: dict[str, str] = {}
    for where, row in _read_table(path, NEEDED, complaints):
        columns = row
        deployment = _read_deployment(where, row, faults)
        if deployment is None:
            continue
        if deployment.id in found:
            faults.append(f"{where}: a second deployment {deployment.id!r}; give each row its own deploymentID")
        elif deployment.folder in folders:
            faults.append(
                f"{where}: folder {'/'.join(deployment.folder)!r} is that of {folders[deployment.folder]!r} already; "
                "a folder holds the pictures of one deployment"
            )
        found.setdefault(deployment.id, deployment)
        folders.setdefault(deployment.folder, deployment.id)
    if not columns and len(complaints) == before:
        faults.append(f"{path.name}: has no row; write one for each camera")
    complaints += _some(faults)
    ignored = [column for column in columns if column not in DEPLOYMENT_COLUMNS and column not in OURS]
    return list(found.values()), ignored


def _read_deployment(where: str, row: dict[str, str], faults: list[str]) -> Deployment | None:
    """One row; None where anything is wrong with it."""
    before = len(faults)
    where = f"{where} ({row['deploymentID']})" if row["deploymentID"] else where
    written = {}
    for column, check in DEPLOYMENT_COLUMNS.items():
        text = row.get(column, "")
        if not text and column in NEEDED:
            faults.append(f"{where}: {column} is empty")
        elif text:
            try:
                written[column] = check(text)
            except ValueError as error:
                faults.append(f"{where}: {column} is {text!r:.60}; it {error}")
    if "cameraHeight" in written and "cameraDepth" in written:
        faults.append(f"{where}: has a cameraHeight and a cameraDepth; leave one empty")
    clock, moments = None, {}
    try:
        clock = _read_offset(row.get("utcOffset", ""))
    except ValueError as error:
        faults.append(f"{where}: utcOffset {error}")
    for column, at in (("deploymentStart", time.min), ("deploymentEnd", time(23, 59, 59))):
        try:
            if column in written:
                moments[column] = _read_moment(written[column], at)
        except ValueError as error:
            faults.append(f"{where}: {column} is {written[column]!r:.60}; it {error}")
    start, end = moments.get("deploymentStart"), moments.get("deploymentEnd")
    if clock is None and start is not None and start.tzinfo is not None:
        clock = timezone(start.utcoffset())
    if len(faults) == before and clock is None:
        faults.append(f"{where}: no UTC offset; end deploymentStart with it (+02:00), or add a column utcOffset")
    if len(faults) > before or clock is None or start is None or end is None:
        return None
    start, end = (moment if moment.tzinfo is not None else moment.replace(tzinfo=clock) for moment in (start, end))
    if end < start:
        faults.append(f"{where}: deploymentEnd lies before deploymentStart")
        return None
    written |= {"deploymentStart": to_iso(start), "deploymentEnd": to_iso(end)}
    folder = PurePosixPath((row.get("folder") or row["deploymentID"]).replace("\\", "/")).parts
    return Deployment(row["deploymentID"], tuple(map(normal, folder)), clock, start, end, written)


def to_iso(moment: datetime) -> str:
    """``2024-05-01T06:12:33+02:00``, as the standard asks for it."""
    return moment.isoformat(timespec="seconds")


def _read_moment(text: str, at: time) -> datetime:
    """A moment, with an offset if it has one; a day alone means the time ``at`` of it."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?))?\s*(Z|[+-]\d\d:?\d\d)?", text, re.ASCII)
    try:
        if match is None:
            raise ValueError
        day, clock_time, offset = match.groups()
        moment = datetime.combine(datetime.fromisoformat(day), time.fromisoformat(clock_time) if clock_time else at)
        return moment.replace(tzinfo=_read_offset(offset or ""))
    except ValueError:
        raise ValueError("must be a date and time such as 2024-05-01T06:12:33+02:00") from None


def _read_offset(text: str) -> timezone | None:
    """``+02:00``, and what spreadsheets make of it: ``2``, ``2:00``, ``02:00:00``; ``Z`` is UTC, nothing is None."""
    if not text:
        return None
    if text.upper() in ("Z", "UTC"):
        return timezone.utc
    match = re.fullmatch(r"([+\-\u2212]?)(\d{1,2})(?::?(\d\d)(?::00)?)?", text, re.ASCII)
    if match is not None:
        sign, hours, minutes = match.groups()
        offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
        if offset <= timedelta(hours=14) and int(minutes or 0) < 60:
            return timezone(-offset if sign in ("-", "\u2212") else offset)
    raise ValueError(f"is {text!r:.40}; it must be hours and minutes from UTC, such as +02:00 or -03:30")


def _read_species(path: Path, known: Mapping[str, Meaning], complaints: list[str]) -> dict[str, Meaning]:
    """What those class names mean that the table has; rows of other detectors' classes are passed over."""
    found: dict[str, Meaning] = {}
    seen: set[str] = set()
    faults: list[str] = []
    kinds = ("animal", "human", "vehicle", "unknown")
    ranks = ("kingdom", "phylum", "class", "order", "family", "genus", "species", "subspecies")
    for where, row in _read_table(path, ("class", "scientificName"), complaints):
        name = row["class"]
        if name in seen:
            faults.append(f"{where}: a second row for class {name!r}; leave one")
        seen.add(name)
        for column, choices in (("observationType", kinds), ("taxonRank", ranks)):
            if row.get(column) and row[column] not in choices:
                faults.append(f"{where}: {column} is {row[column]!r:.60}; it must be one of {', '.join(choices)}")
        taxon = {column: row[column] for column in ("taxonID", "taxonRank") if row.get(column)}
        if name in known:
            found[name] = Meaning(row.get("observationType") or known[name].kind, row["scientificName"], taxon)
    complaints += _some(faults)
    return found


def _some(faults: list[str]) -> list[str]:
    """The first few, and how many more there are."""
    more = len(faults) - MOST_SHOWN
    return faults if more <= 1 else [*faults[:MOST_SHOWN], f"... and {more} more rows like these"]
