"""Does a detector say of a picture what the network saw, whatever the picture comes as?"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorboard", reason="no extra with an engine is installed")

from ena24ssd.config import ConfigError
from ena24ssd.detector import Detector
from ena24ssd.picturewalk import PictureWalk
from ena24ssd.tiles import Tiling

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(trained_run):
    return trained_run


@pytest.fixture(scope="module")
def files(scenes):
    return list(PictureWalk([scenes / "images"]))


def test_a_detector_finds_the_same_as_evaluation_drew_on(run, files):
    assert len(files) == 48
    results = list(Detector.load(run.folder).detect(files, threshold=0.05))
    assert [result.file for result in results] == [str(file) for file in files]
    for result in results:
        assert result.failure is None and (result.width, result.height) == (160, 120)
        for found in result.detections:
            assert found.name == run.class_names[found.label] and found.score >= 0.05
            assert 0 <= found.box.left < found.box.right <= 160 and 0 <= found.box.top < found.box.bottom <= 120
    assert any(result.detections for result in results)


def test_a_broken_picture_is_a_failure_and_holds_nobody_up(run, files, tmp_path):
    good = files[:2]
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    (tmp_path / "empty.png").touch()
    files = [good[0], tmp_path / "bad.jpg", tmp_path / "empty.png", good[1]]
    detector = Detector.load(run.folder)
    results = list(detector.detect(files, 0.1))
    assert [result.failure is None for result in results] == [True, False, False, True]
    alone = next(detector.detect(good[:1], 0.1)).detections
    assert [found.label for found in results[0].detections] == [found.label for found in alone]
    for beside, single in zip(results[0].detections, alone):  # another batch size may round another way
        assert beside.score == pytest.approx(single.score, abs=1e-5)
        assert tuple(beside.box) == pytest.approx(tuple(single.box), abs=0.01)
    assert all(result.failure for result in detector.detect(files[1:3])), "a batch of failures alone"


def test_nothing_found_is_an_empty_tuple(run, files):
    results = list(Detector.load(run.folder).detect(files[:3], threshold=1.0))
    assert [result.detections for result in results] == [(), (), ()]


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(lambda files, scenes: files[0], id="one file, as a path"),
        pytest.param(lambda files, scenes: str(files[0]), id="one file, as text"),
        pytest.param(lambda files, scenes: Image.open(files[0]), id="an opened picture"),
        pytest.param(lambda files, scenes: np.asarray(Image.open(files[0])), id="an array"),
        pytest.param(lambda files, scenes: [files[0]], id="a list"),
        pytest.param(lambda files, scenes: iter([files[0]]), id="anything that can be iterated"),
        pytest.param(lambda files, scenes: scenes / "images", id="a folder: its first picture"),
        pytest.param(lambda files, scenes: [scenes / "images", files[0]], id="a list with a folder in it"),
    ],
)
def test_a_picture_is_the_same_whatever_it_comes_as(run, files, scenes, given):
    detector = Detector.load(run.folder)
    expected = next(detector.detect([files[0]], 0.05, batch_size=1))
    found = next(detector.detect(given(files, scenes), 0.05, batch_size=1))
    assert found.detections == expected.detections and (found.width, found.height) == (160, 120)


@pytest.mark.parametrize(
    "array",
    [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)],
    ids=["grey", "floats", "empty"],
)
def test_an_array_that_is_no_picture_is_refused(run, array):
    with pytest.raises(ValueError, match="RGB as"):
        next(Detector.load(run.folder).detect(array))


def test_a_stricter_nms_leaves_fewer_boxes(run, files):
    loose, strict = (
        sum(len(image.detections) for image in Detector.load(run.folder, reading={"nms": nms}).detect(files[:8], 0.02))
        for nms in (0.9, 0.1)
    )
    assert strict < loose
    with pytest.raises(ConfigError, match="nms"):
        Detector.load(run.folder, reading={"nms": 3})


def test_one_tile_is_the_picture_and_several_bring_more_to_see(run, files):
    plain = list(Detector.load(run.folder).detect(files[:4], 0.05))
    assert list(Detector.load(run.folder, tiling=Tiling(1, 1)).detect(files[:4], 0.05)) == plain
    tiled = list(Detector.load(run.folder, tiling=Tiling(2, 2)).detect(files[:4], 0.05))
    assert [image.file for image in tiled] == [image.file for image in plain]
    for image in tiled:
        for found in image.detections:
            assert 0 <= found.box.left < found.box.right <= 160 and 0 <= found.box.top < found.box.bottom <= 120
    assert tiled != plain


def test_what_counts_is_what_was_chosen_on_validation(run, files):
    detector = Detector.load(run.folder)
    calibrated = detector.model.calibration
    assert calibrated is not None and detector.thresholds.overall == (
        calibrated.threshold or run.config.evaluation.score
    )
    assert all(
        found.score >= detector.thresholds.overall for image in detector.detect(files) for found in image.detections
    )
    with pytest.raises(ValueError, match="best, species, review"):
        detector.model.thresholds("finest")
