"""What is on this memory card?

`predict` walks through folders of pictures, asks a detector about each, and notes every portion down in a journal
beside the results before it goes on. A crash, a power cut or Ctrl-C costs the portion under way; `resume` goes on after
the last one noted, and ends with the same files as if nothing had happened.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image as Pillow
from tqdm import tqdm

from ena24ssd import __version__
from ena24ssd.ahead import run_ahead
from ena24ssd.crops import Crops
from ena24ssd.detections import ImageDetections
from ena24ssd.detector import Detector
from ena24ssd.drawings import Drawings
from ena24ssd.journal import Journal, read_header, read_journal
from ena24ssd.models import open_model
from ena24ssd.outcome import Outcome, Wanted, file_of, write_json, write_outcome
from ena24ssd.outputs.cocoresults import companion_of
from ena24ssd.pictures import EXTENSIONS, read_picture
from ena24ssd.picturewalk import LeftOut, PictureWalk, common_folder, mark
from ena24ssd.repeatspage import report_repeats
from ena24ssd.runs import CheckpointName
from ena24ssd.sorting import How, Sorting, clear_unfinished, require_apart
from ena24ssd.stopping import Request, StoppedError, listening
from ena24ssd.tables import describe_repeats
from ena24ssd.thresholds import Thresholds
from ena24ssd.tiles import Tiling

KEEP = 0.05  # lowest score that is written down for others to choose from
BATCH = "pictures at once"  # in the journal's header
JSON_ONLY = Wanted()

Action = Callable[[ImageDetections, Callable[[], Pillow.Image]], None]
"""What is done with a picture once it is known what is on it; the second argument decodes it, at most once."""


@dataclass(frozen=True)
class Reading:
    """How detections are read off a network: whoever goes on with a prediction must read them in the same way.

    ``keep``: the lowest score written down; left out, `KEEP`, or what counts where that is less. ``nms``,
    ``class_agnostic``: left out, as the model was evaluated. ``tiles``: cut pictures into so many parts as well,
    ``3x2``. ``batch``: pictures at once, left out: what suits.
    """

    keep: float | None = None
    nms: float | None = None
    class_agnostic: bool | None = None
    tiles: str | None = None
    batch: int | None = None

    def kept(self, thresholds: Thresholds) -> float:
        """The lowest score written down. Raises ValueError for one that is none, or that would hide what counts."""
        if self.keep is None:
            return min(KEEP, thresholds.lowest)
        if not self.keep <= thresholds.lowest:  # nor is NaN
            raise ValueError(
                f"keep is {self.keep:g}, but detections count from {thresholds.lowest:g} on; what counts must be kept. "
                "Raise the threshold, or lower keep"
            )
        return Thresholds(self.keep).overall

    @property
    def changes(self) -> dict[str, Any]:
        """What differs from the model's own config."""
        changes = {"nms": self.nms, "class_agnostic_nms": self.class_agnostic}
        return {name: value for name, value in changes.items() if value is not None}


@dataclass(frozen=True)
class Handling:
    """What is done with every picture: boxes drawn on a copy, detections cut out, the picture sorted by species.

    Each is a folder; originals are never touched. ``sort_how``: copy, hardlink or symlink.
    """

    draw_into: Path | None = None
    crops_into: Path | None = None
    sort_into: Path | None = None
    sort_how: How = "copy"

    def __post_init__(self) -> None:  # whoever goes on may do so from another folder
        for name in ("draw_into", "crops_into", "sort_into"):
            folder = getattr(self, name)
            object.__setattr__(self, name, None if folder is None else _absolute(folder))

    @property
    def folders(self) -> list[Path]:
        return [folder for folder in (self.draw_into, self.crops_into, self.sort_into) if folder is not None]

    def actions(self, root: Path, thresholds: Thresholds, class_names: Sequence[str]) -> list[Action]:
        """What to do with each picture; makes the folders."""
        for folder in self.folders:
            mark(folder)
        actions: list[Action] = []
        if self.draw_into is not None:
            actions.append(Drawings(self.draw_into, root, thresholds))
        if self.crops_into is not None:
            actions.append(Crops(self.crops_into, root, thresholds, class_names))
        if self.sort_into is not None:
            actions.append(Sorting(self.sort_into, root, thresholds, class_names, self.sort_how))
        return actions


AS_EVALUATED, NOTHING_ELSE = Reading(), Handling()


def predict(
    model: Path | str,
    paths: Sequence[Path | str],
    out: Path,
    *,
    wanted: Wanted = JSON_ONLY,
    threshold: float | str | None = None,
    reading: Reading = AS_EVALUATED,
    handling: Handling = NOTHING_ELSE,
    repeats_into: Path | None = None,
    resume: bool = False,
    sync_every: int = 100,
    threads: int | None = None,
    checkpoint: CheckpointName = "best",
    device: str | None = None,
    engine: str | None = None,
    precision: str | None = None,
    quiet: bool = False,
) -> Outcome:
    """Detect in pictures and folders, and write what was found to ``out`` and beside it.

    Parameters: ``model``, a run folder or an exported model; ``threshold``, from which score on a detection counts, or
    the name of one that was calibrated (see `Model.thresholds`); ``resume``, go on with the journal that lies beside
    ``out``, if there is one; ``sync_every``, pictures after which the journal is brought to the disk for good.

    File names in the results start from the deepest folder that holds all of ``paths``. A picture that gives none is a
    recorded failure. Raises RunError, ExportedError, EngineError, JournalError; FileNotFoundError for a path that is
    not there, ValueError for no pictures or a choice that cannot be, StoppedError where a signal asked for an end.
    """
    out = _absolute(out)
    ours = [*handling.folders, *([Path(repeats_into)] if repeats_into else [])]
    require_apart(ours, paths)
    walk = PictureWalk(paths, leave_out=ours)
    root = common_folder(paths)
    known = open_model(model, checkpoint)
    thresholds = known.thresholds(threshold)
    keep = reading.kept(thresholds)
    project = wanted.prepare(known.class_names)
    files = wanted.files(out)
    journal_file = out.with_name(f"{out.name}.journal")
    going_on = resume and journal_file.exists()
    if resume and not going_on and (done := [file for file in files if file.exists()]):
        raise ValueError(f"{done[0]}: is finished, nothing is left to go on with; leave out --resume to do it anew")
    total = walk.count()
    if project is not None and not wanted.partial:
        project.require_deployments(walk, root)
    if not total:
        raise ValueError(nothing_in(paths, walk.left_out))

    tiling = Tiling.parse(reading.tiles or "1x1")
    choice = {"device": device, "engine": engine, "threads": threads, "precision": precision}
    detector = Detector.load(known, reading=reading.changes, tiling=tiling, **choice)
    batch = reading.batch or (read_header(journal_file).get(BATCH) if going_on else None) or detector.batch
    header = {
        "model": known.digest,
        "paths": [os.path.abspath(path) for path in paths],
        "computed by": detector.device,
        "threshold": thresholds.overall,
        "species thresholds": dict(thresholds.species),
        "reading": {name: value for name, value in asdict(reading).items() if name != "batch"} | {"keep": keep},
        BATCH: batch,
        "handling": {name: value and str(value) for name, value in asdict(handling).items()},
        "version": __version__,
    }
    # Other pictures at once may be asked for, as when memory did not last; the last bits of scores are then others.
    journal = Journal.resume(journal_file, header, (BATCH,)) if going_on else Journal.start(journal_file, header)
    with listening() as asked, journal:
        _clear([*files, companion_of(file_of("coco", out)), journal_file])
        if going_on:
            for folder in ours:
                clear_unfinished(folder)
        portions = detector.detect_portions((file for file in walk if str(file) not in journal.done), batch, keep)
        actions = handling.actions(root, thresholds, known.class_names)
        handled = act_on(portions, actions, batch)
        note_down(handled, journal, total, asked, sync_every=sync_every, quiet=quiet)

        def pictures() -> Iterator[ImageDetections]:
            for image in read_journal(journal_file):
                if asked:
                    raise _stopped(asked, "stopped while the results were written; all pictures are noted", journal)
                yield image

        outcome = write_outcome(pictures, out, root, known, thresholds, keep, wanted, project)
        if repeats_into is not None:
            report = report_repeats(
                pictures,
                repeats_into,
                root=root,
                thresholds=thresholds,
                write=lambda path, images: write_json(path, images, root, known, thresholds, keep),
                quiet=quiet,
            )
            outcome.notes.append(describe_repeats(report))
            outcome.files += report.files
        journal.remove()
    outcome.files += [folder for folder in handling.folders if folder.exists()]
    outcome.left_out = walk.left_out
    return outcome


def note_down(
    portions: Iterable[Sequence[ImageDetections]],
    journal: Journal,
    total: int,
    asked: Request,
    *,
    sync_every: int,
    quiet: bool = False,
) -> None:
    """Work through the portions, one by one into the journal. Raises StoppedError once an end is ``asked`` for."""
    noted = unsafe = 0  # pictures; a power cut would cost the unsafe ones
    begun = len(journal.done)
    with tqdm(desc="detecting", total=total, initial=begun, leave=False, unit="picture", disable=quiet or None) as bar:
        for portion in portions:
            journal.add(portion)
            noted += len(portion)
            unsafe += len(portion)
            if unsafe >= sync_every or asked:
                journal.sync()
                unsafe = 0
            bar.update(len(portion))
            if asked:
                done = begun + noted
                raise _stopped(asked, f"stopped after {done:,} of {total:,} pictures, which are noted", journal)
        journal.sync()


def act_on(
    portions: Iterable[Sequence[ImageDetections]], actions: Sequence[Action], lead: int
) -> Iterator[Sequence[ImageDetections]]:
    """The portions, each once all is done with its pictures; ``lead`` pictures are behind the network meanwhile."""
    if not actions:
        yield from portions
        return
    sizes: deque[int] = deque()

    def pictures() -> Iterator[ImageDetections]:
        for portion in portions:
            sizes.append(len(portion))
            yield from portion

    def act(image: ImageDetections) -> ImageDetections:
        picture = cache(lambda: read_picture(image.file))
        for action in actions:
            action(image, picture)
        return image

    done = run_ahead(act, pictures(), name="handle", lead=lead)
    for first in done:
        yield [first, *islice(done, sizes.popleft() - 1)]


def _stopped(asked: Request, words: str, journal: Journal) -> StoppedError:
    return StoppedError(f"{words} in {journal.path}; the same command with --resume goes on", asked.signal_number)


def _clear(files: Sequence[Path]) -> None:
    """Delete what a killed process left of these files, unfinished."""
    for file in files:
        for part in file.parent.glob(f".{escape(file.name)}.{'[0-9a-f]' * 8}.part"):
            if part.is_file():
                part.unlink(missing_ok=True)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def nothing_in(paths: Sequence[Path | str], left_out: LeftOut) -> str:
    """That there are no pictures, in words."""
    words = f"no pictures in {', '.join(map(str, paths))}; known are {', '.join(sorted(EXTENSIONS))}"
    if left_out.videos:
        words += f". There are {left_out.videos:,} videos: take frames of them out first, as with ffmpeg"
    return words
