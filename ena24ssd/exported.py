"""What does an exported model say of itself?

A model file alone does not say which species it tells apart, how pictures are made ready for it, or whether all of it
is there. So each has a sidecar, its name with ``.json`` behind it, that says so, and that carries the digests of the
model's files and of itself. Sidecars come from strangers: one that does not add up is refused before any of it is used,
and a model's bytes are compared with their digest in the very memory they are then used from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ena24ssd import __version__
from ena24ssd.calibration import Calibration
from ena24ssd.config import DataConfig, EvaluationConfig, ModelConfig, RunConfig, change_config
from ena24ssd.files import replace_file
from ena24ssd.jsonfiles import JsonError, read_json
from ena24ssd.paramsfile import ParamsError, read_params
from ena24ssd.pictures import PREPROCESSING
from ena24ssd.pretrained import ORIGINS
from ena24ssd.runs import CheckpointName

Kind = Literal["onnx", "onnx-int8", "symbol"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FORMAT, VERSION = "ena24ssd exported model", 1
SUFFIXES = (".onnx", ".params")  # of the model files that are looked for in a folder
PICTURED = frozenset({"image_side", "fit", "mean", "std"})  # of the data section; the rest is no reader's business
LARGEST_SIDECAR = 2**20  # bytes; one of 1,000 species takes 100,000
LARGEST_MODEL = 2**31 - 1  # bytes; ONNX files end there, and the widest network takes a third of it
BLOCK = 2**22  # bytes hashed at once
AGAIN = "copy all files of the export together, or run 'ena24ssd export' again"


class ExportedError(ValueError):
    """A file that is no usable exported model; the message says which, why, and the way out."""


def _plain_name(name: str) -> str:
    if name in (".", "..") or any(letter in "/\\:" or ord(letter) < 32 for letter in name):
        raise ValueError("must be the name of a file in the same folder")
    return name


Name = Annotated[str, Field(min_length=1, max_length=200)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Pixels = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class ModelFile:
    """One file of a model, beside its sidecar."""

    name: Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_plain_name)]
    size: Annotated[int, Field(ge=1, le=LARGEST_MODEL)]  # bytes
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class Check:
    """How the export was held against the network it was made from, with float32 weights.

    Differences are the largest of all detections, and None for int8, which is judged by what it costs: the mAP of both
    on the same pictures.
    """

    native: Name  # what ran the network: device and engine
    exported: Name  # what ran the export
    pictures: Count
    source: Name  # whose pictures: a side of the split, or drawn ones
    detections: Count  # of the network
    score_difference: Share | None = None
    box_difference: Pixels | None = None  # pixels of the picture
    near_ties: Count = 0  # detections that fell to the other side of a threshold they lie on
    native_map: Share | None = None
    exported_map: Share | None = None
    native_map50: Share | None = None
    exported_map50: Share | None = None
    calibrated_on: Count | None = None  # training pictures that int8's ranges were taken from

    @property
    def loss(self) -> float | None:
        """How many points of mAP or mAP50, of 100, the export is worse, whichever lost more; None where not asked."""
        if self.native_map is None or self.exported_map is None:
            return None
        return 100 * max(self.native_map - self.exported_map, (self.native_map50 or 0) - (self.exported_map50 or 0))


@dataclass(frozen=True)
class Pretrained:
    """Whose weights the training began with, as in `ena24ssd.pretrained.ORIGINS`."""

    package: Name
    version: Name
    licence: Name
    learnt: Name


@dataclass(frozen=True)
class Exported:
    """A model file and what its sidecar says."""

    path: Path  # the model file
    kind: Kind
    files: tuple[ModelFile, ...]  # the model file first, under the name that it was written with
    class_names: tuple[str, ...]
    config: RunConfig  # that of the run, as far as prediction needs it
    calibration: Calibration | None
    run: str  # the name of its folder
    checkpoint: CheckpointName
    epoch: int
    check: Check
    names: Mapping[str, str] = field(default_factory=dict)  # symbol: structural names by MXNet's
    pretrained: Pretrained | None = None
    preprocessing: int = PREPROCESSING
    package: str = __version__  # that wrote it
    made: str = ""  # when, ISO 8601

    @property
    def digest(self) -> str:
        """SHA-256 of the model file, in hexadecimal."""
        return self.files[0].sha256

    def read(self) -> bytes:
        """The model file's bytes. Raises ExportedError if they are not those that the sidecar means."""
        expected = self.files[0]
        content = b"".join(_blocks(self.path, expected, expected.size))
        if hashlib.sha256(content).hexdigest() != expected.sha256:
            raise _is_another(self.path)
        return content

    def weights(self) -> dict[str, np.ndarray]:
        """The weights of a ``symbol`` export by structural name, for any engine: MXNet's graph is not run.

        Raises ExportedError, for an export of another kind too.
        """
        if self.kind != "symbol":
            raise ExportedError(f"{self.path}: holds a graph ({self.kind}), which is run as a whole; it has no weights")
        try:
            arrays = read_params(self.read())
        except ParamsError as fault:
            raise ExportedError(f"{self.path}: {fault}") from fault
        weights: dict[str, np.ndarray] = {}
        for full_name, array in arrays.items():
            kind, _, name = full_name.partition(":")
            if kind not in ("arg", "aux") or name not in self.names or self.names[name] in weights:
                raise ExportedError(f"{self.path}: the sidecar knows no array {full_name[:80]!r}; {AGAIN}")
            weights[self.names[name]] = array
        absent = sorted(set(self.names.values()) - weights.keys())
        if absent:
            raise ExportedError(f"{self.path}: has no array for {absent[0]!r}, which the sidecar names; {AGAIN}")
        self._require_species(weights)
        return weights

    def _require_species(self, weights: Mapping[str, np.ndarray]) -> None:
        anchors = self.config.model.anchors[0].per_cell  # as on every level
        answers = weights.get("class_predict.0.bias", np.empty(0)).size
        if answers != anchors * (len(self.class_names) + 1):
            raise ExportedError(
                f"{self.path}: gives {answers} answers a cell; {anchors} anchors and {len(self.class_names)} species "
                f"make {anchors * (len(self.class_names) + 1)}. The sidecar is of another network; {AGAIN}"
            )


def sidecar_of(path: Path) -> Path:
    """Where the sidecar of a model file lies."""
    return path.with_name(path.name + ".json")


def write_exported(
    path: Path,
    kind: Kind,
    config: RunConfig,
    class_names: Sequence[str],
    *,
    run: str,
    checkpoint: CheckpointName,
    epoch: int,
    check: Check,
    calibration: Calibration | None = None,
    others: Sequence[Path] = (),
    names: Mapping[str, str] | None = None,
) -> Exported:
    """Write the sidecar of the model file at ``path``, and open it.

    Parameters: ``others``, further files of the export, in the same folder; ``names``, of a ``symbol`` export. Of
    ``config`` only what a prediction needs is kept: no path of this machine. Raises OSError.
    """
    files = [ModelFile(file.name, file.stat().st_size, _digest(file)) for file in (path, *others)]
    config = change_config(config, {"model.shared_statistics": False})  # a matter of training, which one engine lacks
    document = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "files": [asdict(file) for file in files],
        "class_names": list(class_names),
        "config": config.model_dump(mode="json", include={"data": PICTURED, "model": True, "evaluation": True}),
        "calibration": calibration and calibration.to_json(),
        "preprocessing": PREPROCESSING,
        "run": run[:200],
        "checkpoint": checkpoint,
        "epoch": epoch,
        "check": asdict(check),
        "names": dict(names or {}),
        "package": __version__,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if config.model.pretrained:
        origin = ORIGINS[config.model.backbone]._asdict()
        document["pretrained"] = {part.name: origin[part.name] for part in fields(Pretrained)}
    document["seal"] = _seal(document)
    replace_file(sidecar_of(path), json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return open_exported(path)


def open_exported(path: Path | str) -> Exported:
    """The exported model at ``path``: its model file, or a folder with exactly one.

    Everything is looked at: what the sidecar says, and every byte of the model's files, a block at a time. A model may
    be renamed together with its sidecar; further files (``symbol``) keep their names. Raises ExportedError.
    """
    path = Path(path)
    if os.path.isdir(path):
        path = _only_model(path)
    if not os.path.isfile(path):
        raise ExportedError(f"{path}: there is no such run folder or exported model; name one that is there")
    sidecar = sidecar_of(path)
    if not os.path.isfile(sidecar):
        if path.suffix == ".json" and os.path.isfile(model := path.with_suffix("")):
            raise ExportedError(f"{path}: is the sidecar of a model; name the model itself, {model.name}")
        raise ExportedError(
            f"{path}: is no run folder, and no exported model, which has a sidecar {sidecar.name} beside it; {AGAIN}"
        )
    said = _read_sidecar(sidecar)
    kept = {name: getattr(said, name) for name in _Sidecar.model_fields if name in Exported.__dataclass_fields__}
    found = Exported(**kept | {"path": path, "config": said.config.as_config()})
    for file, place in zip(found.files, (path, *(path.with_name(file.name) for file in found.files[1:]))):
        digest = hashlib.sha256()
        for block in _blocks(place, file, BLOCK):
            digest.update(block)
        if digest.hexdigest() != file.sha256:
            raise _is_another(place)
    return found


class _Choices(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    data: DataConfig
    model: ModelConfig
    evaluation: EvaluationConfig

    @model_validator(mode="after")
    def _no_more_than_pictures(self) -> _Choices:
        if self.data.model_fields_set != PICTURED:
            odd = sorted(self.data.model_fields_set ^ PICTURED)
            raise ValueError(f"data must have {', '.join(sorted(PICTURED))} and nothing else; see {', '.join(odd)}")
        return self

    @model_validator(mode="after")
    def _go_together(self) -> _Choices:
        try:
            self.as_config()
        except ValidationError as fault:
            raise ValueError(_first(fault)) from fault
        return self

    def as_config(self) -> RunConfig:
        return RunConfig(data=self.data, model=self.model, evaluation=self.evaluation)


class _Sidecar(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: str
    version: int
    kind: Kind
    files: Annotated[tuple[ModelFile, ...], Field(min_length=1, max_length=8)]
    class_names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=10_000)]
    config: _Choices
    calibration: Calibration | None
    preprocessing: int
    run: Annotated[str, Field(max_length=200)]
    checkpoint: CheckpointName
    epoch: Annotated[int, Field(ge=-1)]
    check: Check
    names: Annotated[dict[Name, Name], Field(max_length=10_000)]
    pretrained: Pretrained | None = None  # written since there are such networks
    package: Name
    made: Name
    seal: str

    @model_validator(mode="after")
    def _is_of_one_piece(self) -> _Sidecar:
        species = set(self.class_names)
        if len(species) < len(self.class_names) or not all(name.strip() for name in species):
            raise ValueError("class_names must differ from one another, and not be blank")
        if self.calibration is not None and not species.issuperset(self.calibration.species_thresholds):
            raise ValueError("calibration.species_thresholds names a species that is not in class_names")
        if bool(self.names) != (self.kind == "symbol") or len(set(self.names.values())) < len(self.names):
            raise ValueError("names must be there for kind symbol, each once, and for no other")
        if len({file.name for file in self.files}) < len(self.files):
            raise ValueError("files must differ in name")
        return self


def _only_model(folder: Path) -> Path:
    """The one model file with a sidecar in a folder."""
    try:
        files = sorted(
            file for file in folder.iterdir() if file.suffix in SUFFIXES and os.path.isfile(sidecar_of(file))
        )
    except OSError as error:
        raise ExportedError(f"{folder}: cannot be read ({error.strerror}); name another place") from error
    if len(files) == 1:
        return files[0]
    if not files:
        raise ExportedError(
            f"{folder}: holds no run (config.yaml) and no exported model (a file with its sidecar, such as m.onnx and "
            "m.onnx.json); name the folder of a run or export"
        )
    shown = ", ".join(file.name for file in files[:5]) + (" ..." if len(files) > 5 else "")
    raise ExportedError(f"{folder}: holds {len(files)} exported models: {shown}; name the one to use")


def _read_sidecar(path: Path) -> _Sidecar:
    try:
        size = path.stat().st_size
        if size > LARGEST_SIDECAR:
            raise ExportedError(f"{path}: has {size:,} bytes; a sidecar has {LARGEST_SIDECAR:,} at most. {AGAIN}")
        document = read_json(path)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise ExportedError(f"{path}: is not the sidecar of an exported model; {AGAIN}")
        version, preprocessing = document.get("version"), document.get("preprocessing")
        if type(version) is not int or version != VERSION:
            raise ExportedError(
                f"{path}: is written in version {str(version)[:20]} of its format, and this ena24ssd knows version "
                f"{VERSION}; use the ena24ssd that wrote it (a newer one?), or export again with this one"
            )
        if document.pop("seal", None) != (seal := _seal(document)):
            raise ExportedError(f"{path}: its content does not match its seal: it was changed or damaged; {AGAIN}")
        if preprocessing != PREPROCESSING:
            raise ExportedError(
                f"{path}: the model wants pictures made ready in way {str(preprocessing)[:20]}, and this ena24ssd does "
                f"it in way {PREPROCESSING}; use the ena24ssd that wrote it, or export again with this one"
            )
        # As text: strict about "0.5" and true, where a number is due, yet content with a list for a tuple.
        return _Sidecar.model_validate_json(json.dumps(document | {"seal": seal}), strict=True)
    except ValidationError as fault:
        raise ExportedError(f"{path}: {_first(fault)}; {AGAIN}") from fault
    except JsonError as fault:
        raise ExportedError(f"{path}: {fault}") from fault
    except (OSError, RecursionError, OverflowError) as fault:
        raise ExportedError(f"{path}: cannot be read ({fault}); {AGAIN}") from fault


def _seal(document: Mapping[str, Any]) -> str:
    """A digest of everything that a sidecar says, however it is laid out. NaN is no json, and has none."""
    try:
        plain = json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return ""
    return hashlib.sha256(plain.encode()).hexdigest()


def _first(fault: ValidationError) -> str:
    """The first mistake, by its dotted path."""
    error = fault.errors(include_url=False)[0]
    where = ".".join(map(str, error["loc"])) or "the whole of it"
    said = "" if error["type"] in ("missing", "value_error", "json_invalid") else f" (it is {error['input']!r:.80})"
    return f"{where}{said}: {error['msg'].removeprefix('Value error, ')}"


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path, expected: ModelFile, block: int) -> Iterator[bytes]:
    """The bytes of a file that has as many as it should. Raises ExportedError before it reads any more."""
    try:
        if not os.path.isfile(path):
            raise ExportedError(f"{path}: is missing, which belongs to the export; {AGAIN}")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != expected.size:
                how = "is cut short" if size < expected.size else "is another file"
                raise ExportedError(f"{path}: {how}: it has {size:,} bytes instead of {expected.size:,}; {AGAIN}")
            left = size
            while left and (read := file.read(min(block, left))):
                left -= len(read)
                yield read
    except OSError as fault:
        raise ExportedError(f"{path}: cannot be read ({fault.strerror}); {AGAIN}") from fault


def _is_another(path: Path) -> ExportedError:
    return ExportedError(f"{path}: is not the file that its sidecar describes: another one, or damaged; {AGAIN}")
