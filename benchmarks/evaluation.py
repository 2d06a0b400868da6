"""How long does an evaluation take, from what a network gives to every figure?

Pictures are made up, a third of them blank and the others with one to three animals, and so are the 30 rows that a
network gives for each: most lie near an animal, if there is one, with scores that know a little of how near. They come
in bursts of three. Timed are `rows_to_detections` with `gather`, and `ena24ssd.scores.score` with a thousand draws of
bursts, each size in a process of its own. Time is the processor's, so that other programs disturb it little.

Beside it, once, COCO's figures by pycocotools and by faster-coco-eval, which the package uses, after a check that they
agree.

    python benchmarks/evaluation.py [--pictures 1000 2500 5000 10000]

Target: 10,000 pictures in 20 seconds and 2 GB, and ten times the time for ten times the pictures.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Sequence

import faster_coco_eval
import numpy as np
import scipy
from prettytable import PrettyTable
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ena24ssd.bootstrap import draw_weights, group_by
from ena24ssd.boxes import Box, LabelledBox
from ena24ssd.cameratraps import Image
from ena24ssd.cases import Cases, Found, Truth, gather
from ena24ssd.cocoeval import SIZES, evaluate_coco
from ena24ssd.detections import rows_to_detections
from ena24ssd.matching import match
from ena24ssd.ranking import Ranking
from ena24ssd.scores import score

SPECIES = tuple(f"Species {label}" for label in range(23))
ROWS = 30
BURST = 3
WIDTH, HEIGHT = 1920, 1080
DRAWS = 1000


def make_up(pictures: int) -> tuple[list[Image], list[np.ndarray]]:
    """Pictures with their animals, and what a network gives for each, (30, 6) as `rows_to_detections` takes it."""
    random = np.random.default_rng(0)
    images, rows = [], []
    for number in range(pictures):
        count = random.choice(4, p=(1 / 3, 0.5, 0.1, 1 / 15))
        species = random.zipf(1.3, size=count) % len(SPECIES)
        corner, sides = random.uniform(0, 0.6, (count, 2)), random.uniform(0.05, 0.4, (count, 2))
        truth = np.concatenate([corner, corner + sides], axis=1)
        corner, sides = random.uniform(0, 0.6, (ROWS, 2)), random.uniform(0.05, 0.4, (ROWS, 2))
        found = np.concatenate([corner, corner + sides], axis=1)
        labels, scores = random.integers(len(SPECIES), size=ROWS), random.uniform(0.01, 0.6, ROWS)
        if count:
            near = np.flatnonzero(random.random(ROWS) < 0.6)
            which, blur = random.integers(count, size=len(near)), random.uniform(0, 0.15, len(near))
            found[near] = truth[which] + random.normal(size=(len(near), 4)) * blur[:, None] * 0.2
            labels[near] = np.where(random.random(len(near)) < 0.8, species[which], labels[near])
            scores[near] = np.clip(1 - 4 * blur + random.normal(0, 0.2, len(near)), 0.01, 1)
        boxes = (truth * (WIDTH, HEIGHT, WIDTH, HEIGHT)).tolist()
        labelled = tuple(LabelledBox(label, Box(*box)) for label, box in zip(species.tolist(), boxes))
        images.append(Image(f"{number:06d}", f"{number:06d}.jpg", WIDTH, HEIGHT, labelled))
        rows.append(np.column_stack([labels, scores, found]).astype(np.float32))
    return images, rows


def read_rows(images: Sequence[Image], rows: Sequence[np.ndarray]) -> Cases:
    """The rows as an evaluation takes them, detections of any score."""
    detections = (rows_to_detections(some, SPECIES, WIDTH, HEIGHT, 0.01) for some in rows)
    return gather(images, detections, SPECIES)


def measure(pictures: int) -> dict[str, float]:
    """Seconds of processor for the whole and for its parts, of clock for the whole, and MB held before and at most."""
    images, rows = make_up(pictures)
    groups = group_by((number // BURST for number in range(pictures)), "sequences")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    clock, begin = time.perf_counter(), time.process_time()
    cases = read_rows(images, rows)
    read = time.process_time()
    night = np.arange(len(cases)) % 3 == 0
    score(cases, groups, threshold=0.5, resamples=DRAWS, learnt=images, night=night)
    scored, clock = time.process_time(), time.perf_counter() - clock
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    matches = match(cases)
    matched = time.process_time()
    evaluate_coco(cases)
    evaluated = time.process_time()
    ranking = Ranking(cases, matches)
    for weights in draw_weights(groups, DRAWS):
        ranking.average_precisions(weights)
    return {
        "reading": read - begin,
        "scoring": scored - read,
        "all": scored - begin,
        "by the clock": clock,
        "matching": matched - scored,
        "COCO": evaluated - matched,
        "draws": time.process_time() - evaluated,
        "before": before,
        "peak": peak,
    }


def measure_alone(pictures: int) -> dict[str, float]:
    """`measure` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (pictures,))


def evaluate_pycocotools(cases: Cases) -> np.ndarray:
    """pycocotools' twelve figures of the same boxes, with the package's sizes."""

    def dataset(rows: Truth | Found) -> COCO:
        xywh = np.concatenate([rows.box[:, :2], rows.box[:, 2:] - rows.box[:, :2]], axis=1)
        area = xywh[:, 2:].prod(axis=1) / cases.sizes[rows.picture].prod(axis=1)
        scores = rows.score if isinstance(rows, Found) else np.ones(len(xywh))
        columns = (column.tolist() for column in (rows.picture, rows.label, xywh, area, scores))
        names = ("id", "image_id", "category_id", "bbox", "area", "score")
        coco = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in range(len(cases))],
            "categories": [{"id": label} for label in range(len(SPECIES))],
            "annotations": [dict(zip(names, record), iscrowd=0) for record in zip(range(1, len(xywh) + 1), *columns)],
        }
        coco.createIndex()
        return coco

    evaluator = COCOeval(dataset(cases.truth), dataset(cases.found), "bbox")
    evaluator.params.areaRng = [[0, 1e10], *map(list, SIZES.values())]
    evaluator.params.areaRngLbl = ["all", *SIZES]
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator.stats


def compare(pictures: int) -> None:
    """Print the seconds of both evaluators for the same cases."""
    cases = read_rows(*make_up(pictures))
    begin = time.perf_counter()
    ours = evaluate_coco(cases)
    middle = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = evaluate_pycocotools(cases)
    end = time.perf_counter()
    sizes = ours.sizes.values()
    figures = [ours.map, ours.map50, ours.map75, *(size.map for size in sizes)]
    figures += [ours.ar1, ours.ar10, ours.ar100, *(size.ar for size in sizes)]
    np.testing.assert_allclose(figures, theirs, rtol=0, atol=1e-9)
    print(
        f"COCO's figures of {pictures:,} pictures: pycocotools {end - middle:.2f} s, faster-coco-eval "
        f"{middle - begin:.2f} s, {(end - middle) / (middle - begin):.1f} times as fast; all twelve agree "
        f"(mAP {ours.map:.3f}, mAP50 {ours.map50:.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[1_000, 2_500, 5_000, 10_000])
    sizes = parser.parse_args().pictures
    print(
        f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}, "
        f"faster-coco-eval {faster_coco_eval.__version__}, {os.cpu_count()} cores"
    )
    seconds = ["reading", "scoring", "all", "by the clock", "matching", "COCO", "draws"]
    table = PrettyTable(["pictures", "detections", "peak", "before", "all of 1,000", *seconds], align="r")
    for pictures in sizes:
        cost = measure_alone(pictures)
        memory = [f"{cost[name]:,.0f} MB" for name in ("peak", "before")]
        times = [1000 * cost["all"] / pictures, *(cost[name] for name in seconds)]
        table.add_row([f"{pictures:,}", f"{pictures * ROWS:,}", *memory, *(f"{taken:.2f} s" for taken in times)])
    print(table)
    print(f"Processor time; matching, COCO and draws (mAP alone, {DRAWS:,} times) are parts of scoring, timed again")
    compare(min(sizes))


if __name__ == "__main__":
    main()
