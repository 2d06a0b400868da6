"""How does a run leave the training machine?

As a file that needs no training framework, or as MXNet's own, with a sidecar that says how to use it. A file that says
other things than the network it was made from is worth less than none: so each is written under another name, loaded as
a user will load it, and held against the network on real pictures. It gets its name once it has passed.
"""

from __future__ import annotations

import importlib
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from ena24ssd.agreement import Agreement, compare
from ena24ssd.ahead import run_ahead
from ena24ssd.boxes import Box
from ena24ssd.calibration import Calibration, load_calibration
from ena24ssd.cameratraps import AnnotationError, CameraTrapDataset, Image
from ena24ssd.cases import Cases, gather
from ena24ssd.cocoeval import evaluate_coco
from ena24ssd.config import RunConfig, change_config
from ena24ssd.detections import rows_to_detections
from ena24ssd.engine import ENGINES, EngineError, Network, choose_engine, load_engine, load_graph
from ena24ssd.exported import KINDS, Check, Exported, Kind, sidecar_of, write_exported
from ena24ssd.files import naming, replace_file
from ena24ssd.inspection import examine
from ena24ssd.pictures import fit_square, view_of
from ena24ssd.runs import Checkpoint, CheckpointName, Run, RunError, open_run
from ena24ssd.sampling import spread_evenly
from ena24ssd.sources import read_source
from ena24ssd.synthetic import draw_scene

POINTS = 1.0  # of mAP, of 100, that int8 may cost unless told otherwise
COMPARED = 64  # pictures that a float export is compared on
LEARNT_FROM = 100  # training pictures that the ranges of int8 are taken from
PORTION = 8  # pictures at once
DRAWN, NOISE = 6, 10  # squares to compare on where there are no pictures
FRAME = (2048, 1536)  # the size of what stands in for a picture, as many cameras' are
FILES = {"onnx": "{}.onnx", "onnx-int8": "{}-int8.onnx", "symbol": "{}-0000.params"}
TOOLS = {"onnx": ["onnx.graph"], "onnx-int8": ["onnx.graph", "onnx.quantize"], "symbol": ["gluon.symbol"]}
GRAPH = "{}-symbol.json"  # beside the .params


class ExportError(ValueError):
    """What cannot be exported, or does not do what the network does; the message says why, and the way out."""


def export_run(
    run: Path | str,
    to: Path | str,
    formats: Sequence[Kind] = ("onnx",),
    *,
    name: str | None = None,
    checkpoint: CheckpointName = "best",
    data: Path | None = None,
    device: str | None = None,
    engine: str | None = None,
    allow_loss: float = POINTS,
    quiet: bool = False,
) -> list[Exported]:
    """Write a run's network into the folder ``to``, once in each of ``formats``, and check that it does the same there.

    Parameters: ``name``, what file names begin with (left out: the name of the run's folder); ``data``, where the run's
    pictures lie now, if they moved; ``engine`` and ``device``, what runs the network itself (left out: the engine that
    trained it, where it can run here, on the CPU, where float32 is float32); ``allow_loss``, the points of mAP and of
    mAP50, of 100, that ``onnx-int8`` may be worse on the run's validation pictures (or on test, where there are none).

    A float export is compared on validation pictures, or drawn ones where the run's cannot be found: scores may differ
    by 1e-4, boxes by half a pixel of the picture. What passes replaces an earlier export whole; of what does not,
    nothing is left. Raises RunError, ExportError, EngineError, or OSError.
    """
    kinds, to = _checked_formats(formats), Path(to)
    if not (math.isfinite(allow_loss) and 0 <= allow_loss <= 100):
        raise ExportError(f"a loss of {allow_loss} points cannot be allowed; name 0 to 100")
    opened = open_run(run)
    stem = _checked_name(opened.folder.resolve().name if name is None else name)
    source = _open_source(opened, checkpoint, device, engine)
    for kind in kinds:  # before anything is computed
        _tools(kind)
        _require_no_folder(to / FILES[kind].format(stem))
    pictures = _find_pictures(opened, data)
    if pictures.missing and not quiet:
        tqdm.write(f"{pictures.missing}. So there are none of the run's pictures to compare on")
    learnt_from = _squares_to_learn_from(pictures, source.config) if "onnx-int8" in kinds else None
    done = []
    with _staging(to, stem) as stage:
        native = source.load()
        for kind in kinds:
            staged = _stage(kind, source, stage, stem, learnt_from)
            if kind == "onnx-int8":
                check = _weigh_loss(native, staged, pictures, source, allow_loss, len(learnt_from), quiet)
            else:
                check = _require_same(native, staged, _sample(pictures, source.config), source, quiet)
            done.append(_publish(staged, kind, source, check, to))
    return done


@dataclass(frozen=True)
class _Source:
    """What is exported."""

    run: Run
    checkpoint: CheckpointName
    kept: Checkpoint
    config: RunConfig  # the run's, for float32 on the chosen engine
    calibration: Calibration | None

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.run.class_names

    def load(self, **evaluation: float) -> Network:
        """The network itself, perhaps read off in another way."""
        network = load_engine(_reading(self.config, evaluation), self.class_names)
        network.load_weights(self.kept.weights)
        return network


def _reading(config: RunConfig, evaluation: Mapping[str, float]) -> RunConfig:
    return change_config(config, {f"evaluation.{name}": value for name, value in evaluation.items()})


class _Pictures(NamedTuple):
    """The run's data, as far as it is still there; without a dataset, why it is not."""

    dataset: CameraTrapDataset | None
    sides: dict[str, list[Image]]
    missing: str = ""

    def squares(self, images: Sequence[Image], config: RunConfig) -> Iterator[tuple[Image, np.ndarray]]:
        """The pictures that can be used, as (S, S, 3) uint8, read a little ahead."""

        def read(image: Image):
            return examine(image, self.dataset.path(image), config.data.image_side, config.data.fit)[0]

        for image, square in zip(images, run_ahead(read, images, name="decode")):
            if square is not None:
                yield image, square.pixels


class _Staged(NamedTuple):
    """An export under another name."""

    path: Path
    others: tuple[Path, ...]
    names: Mapping[str, str]  # structural names by MXNet's
    open: Callable[[RunConfig], Network]

    def refuse(self, why: str, way_out: str) -> ExportError:
        return ExportError(f"{self.path.name}: {why}. It was not written; {way_out}")


def _checked_formats(formats: Sequence[Kind]) -> list[Kind]:
    if isinstance(formats, str) or not formats or not set(formats) <= set(KINDS):
        raise ExportError(f"formats are {formats!r}; give a list of some of {', '.join(KINDS)}")
    return list(dict.fromkeys(formats))


def _checked_name(name: str) -> str:
    is_plain = name.strip() and name.isprintable() and not name.startswith(".")
    if not is_plain or any(letter in '/\\:*?"<>|' for letter in name) or len(name.encode()) > 200:
        raise ExportError(f"{name[:80]!r} cannot begin the names of files; give a short and plain one with --name")
    return name


def _require_no_folder(path: Path) -> None:
    for file in (path, sidecar_of(path)):
        if file.is_dir():
            raise IsADirectoryError(f"{file}: is a folder; move it away, or choose another --name")


def _open_source(run: Run, checkpoint: CheckpointName, device: str | None, engine: str | None) -> _Source:
    kept = run.load_checkpoint(checkpoint)
    trained_by = run.config.engine if run.config.engine in ENGINES else "gluon"
    # In float32, whatever it was trained in: that is what is exported. The rest is of training, and not every engine's.
    changes = {"precision": "float32", "compile": "eager", "model.shared_statistics": False}
    config = change_config(run.config, changes | {"engine": engine or "auto", "device": device or "cpu"})
    config = change_config(config, {"engine": choose_engine(config, trained_by).engine})
    for key, array in kept.weights.items():
        if not np.isfinite(array).all():
            raise ExportError(
                f"{run.checkpoint_file(checkpoint)}: {key} holds what is no number: the network has diverged; export "
                "another checkpoint, or train with a lower optim.lr"
            )
    calibration = load_calibration(run.folder)
    wanted = kept.epoch, config.evaluation.reading
    if calibration is not None and (calibration.epoch, calibration.reading) != wanted:
        calibration = None  # it is of other weights
    return _Source(run, checkpoint, kept, config, calibration)


def _tools(kind: Kind) -> list[ModuleType]:
    """The modules that write a format. Raises EngineError where one cannot run here."""
    try:
        return [importlib.import_module(f"ena24ssd.{name}") for name in TOOLS[kind]]
    except EngineError as fault:
        raise EngineError(f"format '{kind}' cannot be written here: {fault}") from fault


# -- pictures ----------------------------------------------------------------------------------------------------------


def _find_pictures(run: Run, data: Path | None) -> _Pictures:
    """The pictures of every side of the run's split that are still there. Raises where ``data`` is not the run's."""
    config = run.config.data if data is None else run.config.data.model_copy(update={"path": data, "pictures": None})
    try:
        dataset = read_source(config).dataset
        if dataset.class_names != run.class_names:
            raise RunError(f"{dataset.name}: its species are not those of the run; name the run's data with --data")
        there = {image.id: image for image in dataset.images}
        sides = {
            side: [there[key] for key in getattr(run.split, side) if key in there]
            for side in ("train", "validation", "test")
        }
        if not any(sides.values()):
            raise RunError(f"{dataset.name}: has none of the run's pictures; name the run's data with --data")
    except (AnnotationError, RunError, OSError) as fault:
        if data is not None:
            raise
        return _Pictures(None, {}, str(fault))
    return _Pictures(dataset, sides)


def _squares_to_learn_from(pictures: _Pictures, config: RunConfig) -> np.ndarray:
    """Training pictures, (n, S, S, 3) uint8, evenly spread."""
    images = pictures.sides.get("train", [])
    chosen = [images[place] for place in spread_evenly(len(images), LEARNT_FROM)]
    squares = [pixels for _, pixels in pictures.squares(chosen, config)] if chosen else []
    if not squares:
        raise ExportError(
            "format 'onnx-int8' needs training pictures of the run, to learn from which values occur"
            f"{f' ({pictures.missing})' if pictures.missing else ''}; say where they are with --data"
        )
    return np.stack(squares)


class _Sample(NamedTuple):
    """Squares to compare on."""

    source: str
    names: tuple[str, ...]
    pixels: np.ndarray  # (n, S, S, 3) uint8
    views: tuple[Box, ...]  # n, what each shows, in pixels of its picture


def _sample(pictures: _Pictures, config: RunConfig) -> _Sample:
    side, fit = config.data.image_side, config.data.fit
    for name in ("validation", "test", "train"):
        images = pictures.sides.get(name, [])
        chosen = [images[place] for place in spread_evenly(len(images), COMPARED)]
        found = list(pictures.squares(chosen, config)) if chosen else []
        if found:
            views = tuple(view_of(image.width, image.height, side, fit) for image, _ in found)
            squares = np.stack([pixels for _, pixels in found])
            return _Sample(name, tuple(image.file_name for image, _ in found), squares, views)
    scenes = [fit_square(draw_scene(seed, size=(320, 240))[0], side, fit) for seed in range(DRAWN)]
    noise = np.random.default_rng(0).integers(0, 256, (NOISE, side, side, 3), dtype=np.uint8)
    names = (*(f"drawn scene {n}" for n in range(DRAWN)), *(f"noise {n}" for n in range(NOISE)))
    views = (view_of(*FRAME, side, fit),) * len(names)
    return _Sample("drawn", names, np.concatenate([np.stack(scenes), noise]), views)


# -- writing -----------------------------------------------------------------------------------------------------------


@contextmanager
def _staging(to: Path, stem: str) -> Iterator[Path]:
    """A folder inside ``to`` that is gone afterwards."""
    try:
        to.mkdir(parents=True, exist_ok=True)
        stage = tempfile.TemporaryDirectory(prefix=f".{stem[:40]}.", suffix=".part", dir=to)
    except OSError as error:
        raise OSError(
            f"{to}: nothing can be written there ({error.strerror}); name another folder with --to"
        ) from error
    with stage as folder:
        yield Path(folder)


def _stage(kind: Kind, source: _Source, stage: Path, stem: str, learnt_from: np.ndarray | None) -> _Staged:
    tools, path, names = _tools(kind), stage / FILES[kind].format(stem), source.class_names
    if kind == "symbol":
        (symbol,), graph = tools, stage / GRAPH.format(stem)
        structural = symbol.export_symbol(source.kept.weights, source.config, names, stage, stem)
        return _Staged(path, (graph,), structural, lambda config: symbol.SymbolNetwork(graph, path, config, names))
    model = tools[0].build_graph(source.kept.weights, source.config, names)
    if kind == "onnx-int8":
        model = tools[1].quantize(model, learnt_from)
    replace_file(path, model.SerializeToString())
    return _Staged(path, (), {}, lambda config: load_graph(path.read_bytes(), config, names))


def _publish(staged: _Staged, kind: Kind, source: _Source, check: Check, to: Path) -> Exported:
    """Give an export that has passed its name."""
    made = write_exported(
        staged.path,
        kind,
        source.run.config,
        source.class_names,
        run=_printable(source.run.folder.resolve().name),
        checkpoint=source.checkpoint,
        epoch=source.kept.epoch,
        check=check,
        calibration=source.calibration,
        others=staged.others,
        names=staged.names,
    )
    files = [*staged.others, staged.path, sidecar_of(staged.path)]  # the sidecar last: it says that all is there
    for file in files:
        with file.open("rb") as written:  # else a power cut may leave the new name on an empty file
            os.fsync(written.fileno())
    for file in files:
        with naming(to / file.name):
            os.replace(file, to / file.name)
    return replace(made, path=to / staged.path.name)


def _printable(name: str) -> str:
    """A folder's name as text, whatever bytes it is made of."""
    return name.encode("utf-8", "replace").decode()


# -- comparing ---------------------------------------------------------------------------------------------------------


def _require_same(native: Network, staged: _Staged, sample: _Sample, source: _Source, quiet: bool) -> Check:
    """Hold a float export against the network. Raises ExportError where they differ."""
    on_cpu = change_config(source.config, {"device": "cpu"})
    exported = staged.open(on_cpu)

    def compare_both(native: Network, exported: Network, config: RunConfig) -> Agreement:
        with tqdm(total=len(sample.names), desc="comparing", unit="picture", leave=False, disable=quiet or None) as bar:
            rows = []
            for start in range(0, len(sample.names), PORTION):
                squares = sample.pixels[start : start + PORTION]
                rows.append((native.detect(squares), exported.detect(squares)))
                bar.update(len(squares))
        mine, other = (np.concatenate(part) for part in zip(*rows))
        if not np.isfinite(mine).all():
            raise staged.refuse("the network gives what is no number: it has diverged", "export an earlier checkpoint")
        return compare(mine, other, sample.views, config.evaluation, source.class_names)

    found = compare_both(native, exported, source.config)
    if not found.faults and found.detections < len(sample.names):  # so sure of nothing: ask what it doubts, too
        doubting = _reading(on_cpu, {"floor": 0.0})
        found = found.add(compare_both(source.load(floor=0.0), staged.open(doubting), doubting))
    if found.faults:
        picture, fault = next(iter(found.faults.items()))
        where = "" if picture < 0 else f", first on {sample.names[picture]}"
        raise staged.refuse(
            f"differs from the network on {len(found.faults)} of {len(sample.names)} pictures{where}: {fault}",
            f"it ran on {exported.device}: another format may do, or a newer release of what runs it",
        )
    return Check(
        native=f"{source.config.engine}, {native.device}",
        exported=exported.device,
        pictures=len(sample.names),
        source=sample.source,
        detections=found.detections,
        score_difference=found.score_difference,
        box_difference=found.box_difference,
        near_ties=found.near_ties,
    )


# -- judging -----------------------------------------------------------------------------------------------------------


def _weigh_loss(
    native: Network,
    staged: _Staged,
    pictures: _Pictures,
    source: _Source,
    allow_loss: float,
    calibrated_on: int,
    quiet: bool,
) -> Check:
    """What int8 costs on labelled pictures. Raises ExportError where that is too much, or cannot be said."""
    exported = staged.open(change_config(source.config, {"device": "cpu"}))
    for side in ("validation", "test"):
        images, before, after = _judge(native, exported, pictures, side, source, quiet)
        if any(image.boxes for image in images):
            break
    else:
        raise staged.refuse(
            "neither validation nor test has a picture of an animal that is still there, so nobody can say what int8 "
            "costs",
            "name the run's data with --data, or export 'onnx'",
        )
    check = Check(
        native=f"{source.config.engine}, {native.device}",
        exported=exported.device,
        pictures=len(images),
        source=side,
        detections=len(before.found.label),
        calibrated_on=calibrated_on,
        **{
            f"{who}_{name}": getattr(figures, name)
            for who, figures in (("native", evaluate_coco(before)), ("exported", evaluate_coco(after)))
            for name in ("map", "map50")
        },
    )
    if check.loss > allow_loss:
        raise staged.refuse(
            f"loses {check.loss:.2f} points on {check.pictures} pictures of {side}, and {allow_loss:g} are allowed: "
            f"mAP {check.native_map:.4f} -> {check.exported_map:.4f}, "
            f"mAP50 {check.native_map50:.4f} -> {check.exported_map50:.4f}",
            "allow more with --allow-loss, or export 'onnx', which loses nothing",
        )
    return check


def _judge(
    native: Network, exported: Network, pictures: _Pictures, side: str, source: _Source, quiet: bool
) -> tuple[list[Image], Cases, Cases]:
    """The labelled pictures of a side of the split, and what each of the two found on them."""
    wanted, names, config = pictures.sides.get(side, []), source.class_names, source.config
    images: list[Image] = []
    found: tuple[list, list] = [], []
    squares = pictures.squares(wanted, config)
    with tqdm(total=len(wanted), desc="judging int8", unit="picture", leave=False, disable=quiet or None) as bar:
        while portion := list(islice(squares, PORTION)):
            pixels = np.stack([square for _, square in portion])
            images += [image for image, _ in portion]
            for network, some in zip((native, exported), found):
                for (image, _), rows in zip(portion, network.detect(pixels)):
                    view = view_of(image.width, image.height, config.data.image_side, config.data.fit)
                    some.append(rows_to_detections(rows, names, image.width, image.height, 0.0, view))
            bar.update(len(portion))
    return images, *(gather(images, some, names) for some in found)
