"""How good is this model on these pictures, all told?

`evaluate` asks a run's network, or reads a results file, and brings everything together: the figures with their ranges
and baselines, the page, the json, the curves on TensorBoard.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image as Pillow
from tqdm import tqdm

from ena24ssd.bootstrap import Groups, group_by, group_by_names, group_singly
from ena24ssd.calibration import Calibration, fit, load_calibration, save_calibration
from ena24ssd.cameratraps import CameraTrapDataset, Image
from ena24ssd.config import AugmentConfig, RunConfig, change_config
from ena24ssd.data import count_batches, shuffle_batches
from ena24ssd.evaluation import anchor_figures, lay_out, save_sheet
from ena24ssd.files import replace_file
from ena24ssd.judged import Judged, Subject
from ena24ssd.logbook import log_evaluation
from ena24ssd.matching import match
from ena24ssd.protocol import ProtocolRow, protocol_rows
from ena24ssd.runs import CheckpointName, RunError
from ena24ssd.sampling import spread_evenly
from ena24ssd.scores import Scores, plain, score
from ena24ssd.subjects import TrainedRun, open_subject

NO_CHANGE = AugmentConfig(flip=False, crop=0, expand=0, light=0, colour=0, infrared=0)
UNWEIGHTED = dict.fromkeys(
    ("loss.foreground_weight", "loss.background_weight", "loss.box_weight"), 1.0
)  # its test loss
SHOWN = 12  # pictures of a sheet


@dataclass(frozen=True)
class Report:
    """What one model does on one split."""

    model: str  # the run folder, or the results file
    split: str  # "all" for a results file without a split
    epoch: int | None  # of a run's checkpoint
    unreadable: int  # pictures of the split that were left out
    anchors: dict[str, float]  # ``anchor/...`` and ``f1/<species>``, the post's figures; empty for a results file
    scores: Scores
    floor: float = 0.0  # score below which nothing was noted down
    knows_training: bool = True  # whether it is known what the model learnt from
    is_best: bool = False  # whether the checkpoint was chosen on validation
    protocol: tuple[ProtocolRow, ...] = ()  # with ``evaluation.protocol: post``
    dataset: CameraTrapDataset | None = None  # whose pictures these are
    images: tuple[Image, ...] = ()  # P, in the order of the cases

    @property
    def pictures(self) -> int:
        return len(self.scores.cases)

    @property
    def metrics(self) -> dict[str, float]:
        """Every figure by its flat name."""
        return self.anchors | self.scores.figures

    def to_json(self) -> dict[str, Any]:
        """As plain values; NaN is null."""
        about = {key: getattr(self, key) for key in ("model", "split", "epoch", "unreadable")}
        protocol = {"protocol": [vars(row) for row in self.protocol]} if self.protocol else {}
        return plain(about | {"anchors": self.anchors} | protocol) | self.scores.to_json()


def evaluate(
    model: Path | str,
    split: str | None = None,
    checkpoint: CheckpointName = "best",
    *,
    data: Path | None = None,
    device: str | None = None,
    overrides: Sequence[str] = (),
    split_file: Path | None = None,
    sheet: Path | None = None,
    report: Path | None = None,
    quiet: bool = False,
) -> Report:
    """Measure a run's checkpoint, or the detections in a MegaDetector results file, on labelled pictures.

    Parameters: ``split`` is train, validation or test (left out: test, or validation where there is no test split; of
    a results file without a split, every picture); ``data`` says where the dataset lies now, if it moved, and for a
    results file where it is; ``overrides`` are ``evaluation.field=value``; ``split_file``, a saved split for a results
    file; ``sheet`` is where to draw detections beside the truth; ``report``, a folder for report.html and report.json.

    What is chosen (temperature, best thresholds) is chosen on a run's validation pictures, once, and kept in the run's
    calibration.json. Raises RunError, ConfigError, AnnotationError or EngineError.
    """
    if report is not None:
        require_folder(report)
    subject = open_subject(
        model, data=data, checkpoint=checkpoint, device=device, split=split_file, overrides=overrides
    )
    ids = subject.ids(split)
    trained = subject if isinstance(subject, TrainedRun) else None
    calibration = None if trained is None else _calibrate(trained, quiet)
    judged = subject.judge(ids, quiet=quiet)
    side, choices = split or side_of(subject), subject.config.evaluation
    groups = group_singly(len(judged.images))
    if choices.resamples or report is not None:
        groups = group_pictures(subject.dataset, judged.images, subject.config, quiet=quiet)
    learnt = _learnt(subject)
    scores = score(
        judged.cases,
        groups,
        threshold=choices.score,
        recall=choices.recall,
        resamples=choices.resamples,
        seed=subject.config.seed,
        calibration=calibration,
        learnt=learnt,
        night=judged.night,
    )
    anchors, protocol = {}, ()
    if trained is not None and judged.sums is not None:
        anchors = anchor_figures(judged.sums, scores.class_names)
        if choices.protocol == "post":
            protocol = _follow_post(trained, judged, scores.figures)
    epoch = None if trained is None else trained.epoch
    about = subject.name, side, epoch, judged.unreadable, anchors, scores, judged.floor, bool(learnt)
    is_best = trained is not None and trained.kept.score is not None and trained.checkpoint == "best"
    whole = Report(*about, is_best, protocol, subject.dataset, judged.images)
    if trained is not None:
        log_evaluation(trained.engine, trained.run, side, trained.epoch, scores.cases, whole.metrics)
    if sheet is not None:
        save_sheet(_draw_some(subject.dataset, judged, choices.score), sheet)
    if report is not None:
        write_report(report, whole)
    return whole


def group_pictures(
    dataset: CameraTrapDataset, images: Sequence[Image], config: RunConfig, *, quiet: bool = False
) -> Groups:
    """What is drawn together: bursts as the json names them, else pictures of nearly the same scene; or cameras.

    Where there is no picture to look at either, each stands for itself. Raises RunError where ``evaluation.drawn`` asks
    for cameras that nobody has named.
    """
    named = group_by_names(images, config.evaluation.drawn)
    if named is not None:
        return named
    if config.evaluation.drawn == "cameras":
        raise RunError(
            f"{dataset.name}: names no camera (location) for some of the {len(images)} pictures, so cameras cannot be "
            "drawn; leave evaluation.drawn at bursts"
        )
    if not all(dataset.path(image).is_file() for image in images[:1]):
        return group_singly(len(images))
    from ena24ssd.neighbours import find_neighbours  # imagehash; many datasets do without

    def show(jobs: Sequence) -> Iterator:
        return tqdm(jobs, "looking for bursts", leave=False, unit="picture", disable=quiet or None)

    neighbours = find_neighbours(replace(dataset, images=tuple(images)), config.data.cache, show)
    return group_by(neighbours.labels.tolist(), "near-duplicates")


def write_report(folder: Path, report: Report) -> None:
    """``folder/report.html``, which holds everything, ``folder/report.json``, and the plots."""
    # Matplotlib: whoever wants a table does without
    from ena24ssd.evaluationpage import Heading, choose_pictures, draw_pairs, write_page

    dataset, images, scores = report.dataset, report.images, report.scores
    worst, best = [], []
    if any(dataset.path(image).is_file() for image in images[:20]):  # else there is the json alone
        worst, best = (draw_pairs(scores, images, chosen, dataset.path) for chosen in choose_pictures(scores))
    about = Heading(
        report.model, dataset.name, report.split, report.epoch, report.unreadable, report.knows_training, report.is_best
    )
    anchors = report.anchors or None
    write_page(folder, scores, about, worst=worst, best=best, anchors=anchors, protocol=report.protocol)
    replace_file(folder / "report.json", json.dumps(report.to_json(), indent=1, allow_nan=False))


def require_folder(path: Path) -> None:
    """Raise OSError, before anything is measured, where no report can be written."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path}: is a file; name a folder for the report")
    replace_file(path / ".report", "")
    (path / ".report").unlink()


def _calibrate(subject: TrainedRun, quiet: bool) -> Calibration | None:
    """What the run's validation pictures say of these weights; found now, unless training has left it.

    It is kept with the run where it is of the weights that will be used, read off as the run's config says.
    """
    choices, folder = subject.config.evaluation, subject.run.folder
    try:
        known = load_calibration(folder)
    except ValueError as fault:
        known = None
        tqdm.write(str(fault))
    wanted = subject.epoch, choices.recall, choices.reading
    if known is not None and (known.epoch, known.recall, known.reading) == wanted:
        return known
    ids = _still_there(subject, "validation")
    if not ids:
        return None
    try:
        cases = subject.judge(ids, quiet=quiet).cases
    except RunError as fault:
        tqdm.write(f"{fault}. So no threshold can be chosen on validation")
        return None
    found = fit(cases, match(cases), choices.recall, "validation", subject.epoch, choices.reading)
    own = subject.run.config.evaluation
    if subject.checkpoint == "best" and (own.recall, own.reading) == (choices.recall, choices.reading):
        try:
            save_calibration(folder, found)
        except OSError as fault:
            tqdm.write(f"{fault}. The evaluation goes on; what was chosen on validation is not kept")
    return found


def _still_there(subject: TrainedRun, side: str) -> list[str]:
    """The pictures of a side that the dataset still has."""
    there = {image.id for image in subject.dataset.images}
    return [key for key in getattr(subject.split, side) if key in there]


def _learnt(subject: Subject) -> tuple[Image, ...]:
    """The pictures a model learnt from; none where nobody says."""
    chosen = set() if subject.split is None else set(subject.split.train)
    return tuple(image for image in subject.dataset.images if image.id in chosen)


def side_of(subject: Subject) -> str:
    """The side of its split that a model is judged on, unless another is named."""
    return "all" if subject.split is None else subject.split.judging


def _follow_post(subject: TrainedRun, judged: Judged, honest: dict[str, float]) -> tuple[ProtocolRow, ...]:
    """The same weights as the post would have measured them: see `ena24ssd.protocol`."""
    config, batch, held_out = subject.config, subject.config.train.batch, judged.images
    try:
        learnt = subject.examples(_still_there(subject, "train"))
    except RunError as fault:
        tqdm.write(f"{fault}. So the post's protocol, which judges by training pictures, cannot be followed")
        return ()
    steps = max(1, count_batches(len(learnt), batch, drop_last=True))
    options = {"seed": config.seed, "epoch": max(0, subject.epoch), "drop_last": False, "start": steps - 1}
    last = next(shuffle_batches(learnt, batch, NO_CHANGE, **options))
    whole = max(1, len(held_out) // batch)  # batches; the post drops the rest
    last_held_out = [image.id for image in held_out[(whole - 1) * batch : whole * batch]]
    of_batch, of_training = (subject.judge(ids, quiet=True).sums.metrics() for ids in (last_held_out, last.ids))
    unweighted = replace(subject, config=change_config(config, UNWEIGHTED)).judge(last.ids, quiet=True).sums
    rows = [row for row in subject.run.rows() if row["split"] == "train" and not row.get("closing")]
    of_epoch = next((row.get("anchor/log_loss") for row in rows if row["epoch"] == subject.epoch), None)
    return protocol_rows(
        {"map50": honest["detection/map50"], "presence_f1": honest["presence/f1"]},
        judged.sums.metrics(),
        of_batch,
        of_training,
        steps * (math.nan if of_epoch is None else of_epoch),
        whole * unweighted.metrics()["log_loss"],
    )


def _draw_some(dataset: CameraTrapDataset, judged: Judged, threshold: float) -> Pillow.Image:
    """Some of the pictures, evenly spread."""
    chosen = spread_evenly(len(judged.images), SHOWN).tolist()
    found = [judged.cases.detections(place, threshold) for place in chosen]
    return lay_out(dataset, [judged.images[place] for place in chosen], found)
