"""What can be done with trained networks from the command line: use them, and let them leave this machine?

Each verb is a function that adds its options, and one that calls the package and prints what came of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from ena24ssd.engine import ENGINES, RUNTIMES


def add_verbs(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add every verb of this module by ``add(name, function, help)``, which returns the verb's parser."""
    door = add("predict", _predict, "Find animals in folders of pictures, and write down, draw or sort what was found.")
    door.add_argument("model", type=Path, metavar="MODEL", help="run folder, or exported model")
    door.add_argument("paths", nargs="+", metavar="PICTURE | FOLDER", help="folders are searched with all in them")
    _add_outcome_options(door)
    _add_reading_options(door)
    _add_handling_options(door)
    _add_work_options(door)
    _add_ray_options(door)

    door = add("merge", _merge, "Write what 'predict --ray' has found so far, while it is at work or after it ended.")
    door.add_argument("out", type=Path, metavar="RESULTS.json", help="as it was named to predict --out")

    door = add("export", _export, "Write a run's network into files that leave this machine.")
    door.add_argument("run", type=Path, metavar="RUN")
    door.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for the files")
    door.add_argument(
        "--format",
        type=_words,
        default=("onnx",),
        metavar="WORD[,WORD...]",
        help="onnx: pictures in, boxes out, for any machine (default). onnx-int8: the same, smaller and faster, a "
        "little less exact. symbol: MXNet's own, as in the post",
    )
    door.add_argument("--name", help="what the files are called (default: as the run folder)")
    door.add_argument("--data", type=Path, help="where the run's pictures lie now, if they moved")
    door.add_argument(
        "--allow-loss", type=float, default=1.0, metavar="POINTS", help="mAP that int8 may cost, of 100 (%(default)s)"
    )
    door.add_argument("--checkpoint", choices=("best", "last"), default="best")
    door.add_argument("--device", help="cpu, gpu, gpu:N or auto, of the network that the export is held against")
    door.add_argument("--engine", choices=ENGINES, help="... and what runs it (default: the one that trained it)")
    door.add_argument("--quiet", action="store_true", help="no progress, only the result")

    door = add("repeats", _repeats, "Find boxes that stay the same on many pictures of a camera: stumps, not animals.")
    door.add_argument("results", type=Path, metavar="RESULTS.json", help="MegaDetector json, of predict or any tool")
    door.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the report")
    door.add_argument("--pictures", type=Path, metavar="DIR", help="where file names start (default: beside the json)")
    door.add_argument("--threshold", type=float, metavar="SCORE", help="what counts (default: as the json advises)")
    door.add_argument("--overlap", type=float, default=0.85, metavar="IOU", help="... with the same box (%(default)s)")
    door.add_argument("--least", type=_count, default=10, metavar="N", help="on so many pictures (%(default)s)")
    door.add_argument(
        "--visits",
        type=_count,
        default=3,
        metavar="N",
        help="over so many visits; 1: animals at rest too (%(default)s)",
    )
    door.add_argument(
        "--rest-hours", type=float, default=12.0, metavar="H", help="the longest that an animal stays (%(default)s)"
    )
    door.add_argument(
        "--largest", type=float, default=0.2, metavar="SHARE", help="of the picture; larger boxes pass (%(default)s)"
    )
    door.add_argument(
        "--camera-folders",
        type=int,
        metavar="N",
        help="leading folders of a file name that name its camera (default: all it lies in)",
    )
    door.add_argument(
        "--spare", type=_count, nargs="+", default=[], metavar="NUMBER", help="boxes of the report that are animals"
    )
    door.add_argument("--quiet", action="store_true", help="no progress, only the result")


def _add_outcome_options(door: argparse.ArgumentParser) -> None:
    group = door.add_argument_group("what is written")
    group.add_argument("--out", type=Path, default=Path("results.json"), help="MegaDetector JSON (%(default)s)")
    group.add_argument(
        "--format",
        type=_words,
        default=("megadetector",),
        metavar="WORD[,WORD...]",
        help="of megadetector, csv, coco and camtrap-dp; the last three are written beside --out (megadetector)",
    )
    group.add_argument("--annotations", type=Path, metavar="JSON", help="coco: a COCO json whose ids shall be used")
    group.add_argument("--deployment", type=Path, metavar="YAML", help="camtrap-dp: cameras, people, species (README)")
    group.add_argument("--partial", action="store_true", help="camtrap-dp: leave out pictures that lack something")
    group.add_argument("--resume", action="store_true", help="go on with an interrupted prediction into the same --out")


def _add_reading_options(door: argparse.ArgumentParser) -> None:
    group = door.add_argument_group("what counts as an animal")
    group.add_argument(
        "--threshold",
        type=_score_or_name,
        metavar="SCORE | best | species | review",
        help="lowest score that is drawn, sorted and counted; or one chosen on validation pictures: best (F1), species "
        "(F1 of each), review (few animals are lost). Default: best, or the run's evaluation.score",
    )
    group.add_argument("--keep", type=float, metavar="SCORE", help="lowest score in JSON and COCO results (.05)")
    group.add_argument(
        "--nms", type=float, metavar="IOU", help="boxes that overlap by this are one (default: the run's)"
    )
    group.add_argument("--class-agnostic", action="store_true", default=None, help="... of whichever species they are")
    group.add_argument("--tiles", metavar="3x2", help="cut pictures into so many parts as well, for small animals")


def _add_handling_options(door: argparse.ArgumentParser) -> None:
    group = door.add_argument_group("what is done with the pictures (originals are never touched)")
    group.add_argument("--draw", type=Path, metavar="DIR", help="draw what was found on copies")
    group.add_argument("--crops", type=Path, metavar="DIR", help="cut out every animal, into a folder of its species")
    group.add_argument("--sort-into", type=Path, metavar="DIR", help="a folder for each species, and one for blank")
    group.add_argument("--sort-as", choices=("copy", "hardlink", "symlink"), default="copy", help="(%(default)s)")
    group.add_argument("--repeats", type=Path, metavar="DIR", help="report boxes that stay the same: stumps, stones")


def _add_work_options(door: argparse.ArgumentParser) -> None:
    group = door.add_argument_group("how it is computed")
    group.add_argument("--checkpoint", choices=("best", "last"), default="best", help="of a run folder (%(default)s)")
    group.add_argument("--device", help="cpu, gpu, gpu:N or auto (default: as in training)")
    group.add_argument(
        "--engine",
        choices=(*ENGINES, *RUNTIMES),
        help="of a run folder: gluon or pytorch (default: the one that trained it); of an ONNX file: onnxruntime or "
        "openvino (default: the faster one here)",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        help="bfloat16: faster where the processor multiplies it, with last digits of its own; of an ONNX file by "
        "OpenVINO (default: as in training; of an ONNX file float32)",
    )
    group.add_argument("--batch", type=_count, metavar="N", help="pictures at once (default: what suits the engine)")
    group.add_argument("--threads", type=_count, metavar="N", help="cores to use (default: all)")
    group.add_argument(
        "--checkpoint-every", type=_count, default=100, metavar="N", help="pictures a power cut may cost (%(default)s)"
    )
    group.add_argument("--quiet", action="store_true", help="no progress, only the result")


def _add_ray_options(door: argparse.ArgumentParser) -> None:
    group = door.add_argument_group("over many machines")
    group.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="HOST:PORT",
        help="work with all machines of a Ray cluster: its head's address, or auto on one of its machines (default: "
        "RAY_ADDRESS, else one on this machine). Folders may then be s3://..., gs://...",
    )
    group.add_argument("--ray-workers", type=_count, metavar="N", help="workers at most (default: as many as fit)")
    group.add_argument(
        "--ray-shard",
        type=_count,
        default=1024,
        metavar="N",
        help="pictures of a shard: what is done at a time, and lost with a worker (%(default)s)",
    )


def _score_or_name(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.replace(" ", "").split(",") if word)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of 1 or more")
    return int(text)


def _predict(choice: argparse.Namespace) -> int:
    from ena24ssd.outcome import Wanted
    from ena24ssd.prediction import Handling, Reading, predict
    from ena24ssd.tables import describe_outcome

    what = choice.model, choice.paths, choice.out
    how = {
        "wanted": Wanted(choice.format, choice.annotations, choice.deployment, choice.partial),
        "threshold": choice.threshold,
        "reading": Reading(choice.keep, choice.nms, choice.class_agnostic, choice.tiles, choice.batch),
        "handling": Handling(choice.draw, choice.crops, choice.sort_into, choice.sort_as),
    }
    names = ("resume", "threads", "checkpoint", "device", "engine", "precision", "quiet")
    how |= {name: getattr(choice, name) for name in names}
    if choice.ray is None:
        done = predict(*what, repeats_into=choice.repeats, sync_every=choice.checkpoint_every, **how)
    else:
        from ena24ssd.fleet import predict_together

        if choice.repeats is not None:
            raise ValueError(
                f"--repeats {choice.repeats}: not with --ray; run 'ena24ssd repeats {choice.out}' after it"
            )
        where = {"address": choice.ray or None, "workers": choice.ray_workers, "shard": choice.ray_shard}
        done = predict_together(*what, **where, **how)
    print(describe_outcome(done))
    return 0


def _export(choice: argparse.Namespace) -> int:
    from ena24ssd.exports import export_run
    from ena24ssd.tables import describe_export

    done = export_run(
        choice.run,
        choice.to,
        choice.format,
        name=choice.name,
        checkpoint=choice.checkpoint,
        data=choice.data,
        device=choice.device,
        engine=choice.engine,
        allow_loss=choice.allow_loss,
        quiet=choice.quiet,
    )
    for exported in done:
        print(describe_export(exported))
    return 0


def _repeats(choice: argparse.Namespace) -> int:
    from ena24ssd.repeats import Rule
    from ena24ssd.repeatspage import report_repeats
    from ena24ssd.tables import describe_repeats
    from ena24ssd.thresholds import Thresholds

    report = report_repeats(
        choice.results,
        choice.out,
        root=choice.pictures,
        thresholds=None if choice.threshold is None else Thresholds(choice.threshold),
        rule=Rule(
            choice.overlap,
            choice.least,
            choice.visits,
            timedelta(hours=choice.rest_hours),
            largest=choice.largest,
            camera_folders=choice.camera_folders,
        ),
        spared=choice.spare,
        quiet=choice.quiet,
    )
    print(describe_repeats(report))
    print(f"wrote {', '.join(map(str, report.files))}")
    return 0


def _merge(choice: argparse.Namespace) -> int:
    from ena24ssd.fleet import merge
    from ena24ssd.tables import describe_outcome

    merged = merge(choice.out)
    print(describe_outcome(merged.outcome))
    if merged.missing:
        print(f"{merged.missing:,} pictures are still missing")
    return 0
