"""Are runs and results files judged alike, on the right pictures, and is everything that was promised written?"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tensorboard", reason="no extra with an engine is installed")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trained import small_config

from ena24ssd import cli
from ena24ssd.assessment import evaluate, group_pictures
from ena24ssd.calibration import load_calibration
from ena24ssd.cameratraps import read
from ena24ssd.config import ConfigError
from ena24ssd.contest import compare_models
from ena24ssd.prediction import KEEP, Reading, predict
from ena24ssd.runs import RunError, open_run
from ena24ssd.training import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(trained_run, tmp_path_factory):
    """A copy: evaluating writes into the run folder."""
    return open_run(shutil.copytree(trained_run.folder, tmp_path_factory.mktemp("judged") / "run"))


@pytest.fixture(scope="module")
def report(run):
    return evaluate(run.folder, overrides=["evaluation.protocol=post", "evaluation.score=0.1"], quiet=True)


@pytest.fixture(scope="module")
def results(run, scenes, tmp_path_factory):
    """What the run finds, written down with every score it looks at."""
    file = tmp_path_factory.mktemp("results") / "results.json"
    predict(run.folder, [scenes / "images"], file, reading=Reading(keep=run.config.evaluation.floor), quiet=True)
    return file


def test_a_report_says_what_was_measured(report, run):
    assert (report.split, report.pictures, report.unreadable) == ("test", len(run.split.test), 0)
    assert report.epoch == run.load_checkpoint("best").epoch
    assert report.scores.cases.ids == run.split.test
    assert report.scores.groups.kind == "sequences" and 5 <= report.scores.groups.count < report.pictures
    assert report.metrics["anchor/accuracy_all_background"] > 0.9
    assert set(report.scores.baselines) == {"all background", "most frequent species", "random boxes"}
    assert sum(values["pictures"] for values in report.scores.light.values()) == report.pictures


def test_the_choices_come_from_validation_and_stay_with_the_run(report, run):
    kept = load_calibration(run.folder)
    assert report.scores.calibration == kept
    assert (kept.split, kept.pictures, kept.epoch) == ("validation", len(run.split.validation), report.epoch)


@pytest.mark.parametrize("damage", ["", "{", '{"temperature": 1}'], ids=["none", "no json", "half of it"])
def test_choices_that_are_gone_or_broken_are_made_anew(run, damage):
    file = run.folder / "calibration.json"
    before = file.read_text()
    file.write_text(damage) if damage else file.unlink()
    evaluate(run.folder, overrides=["evaluation.resamples=0"], quiet=True)
    assert file.read_text() == before


def test_the_last_weights_do_not_overwrite_the_choices_of_the_best(run):
    before = (run.folder / "calibration.json").read_text()
    if evaluate(run.folder, checkpoint="last", overrides=["evaluation.resamples=0"], quiet=True).epoch != 2:
        pytest.fail("the last epoch is 2")
    assert (run.folder / "calibration.json").read_text() == before


def test_the_posts_protocol_follows_its_shortcuts(report, run):
    honest, anchors, last, of_training, summed, rounded = report.protocol
    assert honest.figures["map50"] == report.metrics["detection/map50"]
    assert honest.figures["presence_f1"] == report.metrics["presence/f1"]
    assert anchors.figures["accuracy"] == report.metrics["anchor/accuracy"]
    few = evaluate(run.folder, overrides=["evaluation.resamples=0"], quiet=True).scores.cases.ids
    assert last.figures["accuracy"] != anchors.figures["accuracy"] and len(few) == report.pictures
    (row,) = [r for r in run.rows() if r["split"] == "train" and r["epoch"] == report.epoch and not r.get("closing")]
    batches, test_batches = len(run.split.train) // 8, len(run.split.test) // 8
    # no weights to speak of in this run's loss: the test loop's, which the post does not weigh, is the same
    expected = batches * row["anchor/log_loss"] + test_batches * of_training.figures["log_loss"]
    assert summed.figures["log_loss"] == pytest.approx(expected)
    assert rounded.figures["micro_f1"] == float(f"{of_training.figures['micro_f1']:.2g}")


def test_a_results_file_is_judged_as_the_run_that_wrote_it(run, results, scenes):
    split = run.folder / "split.json"
    ours = evaluate(run.folder, overrides=["evaluation.score=0.1"], quiet=True)
    theirs = evaluate(results, "test", data=scenes, split_file=split, overrides=["evaluation.score=0.1"], quiet=True)
    assert theirs.anchors == {} and theirs.epoch is None
    assert theirs.scores.cases.ids == ours.scores.cases.ids
    for name in ("detection/map50", "presence/f1", "blank/sensitivity", "detection/recall"):
        assert theirs.metrics[name] == pytest.approx(ours.metrics[name], abs=1e-3, nan_ok=True)  # rounded in the file


def test_without_a_split_every_picture_is_judged(results, scenes):
    report = evaluate(results, data=scenes, overrides=["evaluation.resamples=0"], quiet=True)
    assert (report.split, report.pictures) == ("all", 48)
    assert report.scores.ranges == {}


def test_pictures_without_a_result_are_counted_and_left_out(results, scenes, tmp_path):
    document = json.loads(results.read_text())
    document["images"][0] = {"file": document["images"][0]["file"], "failure": "truncated", "detections": None}
    del document["images"][1]
    document["images"][2]["file"] = "elsewhere/nowhere.jpg"
    (tmp_path / "some.json").write_text(json.dumps(document))
    report = evaluate(tmp_path / "some.json", data=scenes, overrides=["evaluation.resamples=0"], quiet=True)
    assert (report.pictures, report.unreadable) == (45, 3)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda d: d["detection_categories"].update({key: "ox" for key in d["detection_categories"]}), "none of those"),
        (lambda d: d.update(images=[dict(d["images"][0], file="x.jpg")]), "names no picture of"),
        (lambda d: d.update(images=[]), "names no picture"),
    ],
    ids=["other species", "other pictures", "no pictures"],
)
def test_results_of_something_else_are_refused(results, scenes, tmp_path, change, words):
    document = json.loads(results.read_text())
    change(document)
    (tmp_path / "other.json").write_text(json.dumps(document))
    with pytest.raises(RunError, match=words):
        evaluate(tmp_path / "other.json", data=scenes, quiet=True)


def test_a_species_that_only_the_model_knows_is_an_invention(results, scenes, tmp_path):
    document = json.loads(results.read_text())
    document["detection_categories"]["99"] = "yeti"
    document["images"][0]["detections"] = [{"category": "99", "conf": 0.9, "bbox": [0.1, 0.1, 0.5, 0.5]}]
    (tmp_path / "more.json").write_text(json.dumps(document))
    scores = evaluate(tmp_path / "more.json", data=scenes, overrides=["evaluation.resamples=0"], quiet=True).scores
    assert scores.class_names[-1] == "yeti" and math.isnan(scores.species[-1].ap50)
    assert scores.confusion[:, len(scores.class_names) - 1].sum() == 1


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"overrides": ["model.width=1"]}, ConfigError, "only evaluation"),
        ({"overrides": ["evaluation.scores=1"]}, ConfigError, "no such field"),
        ({"split": "attic"}, RunError, "no side 'attic'"),
    ],
)
def test_what_cannot_be_asked_of_a_run(run, options, error, words):
    with pytest.raises(error, match=words):
        evaluate(run.folder, quiet=True, **options)


@pytest.mark.parametrize(
    "options, words",
    [({}, "--data"), ({"data": True, "split": "test"}, "no split 'test'")],
    ids=["no data", "no split"],
)
def test_what_cannot_be_asked_of_a_results_file(results, scenes, options, words):
    options = options | ({"data": scenes} if options else {})
    with pytest.raises(RunError, match=words):
        evaluate(results, quiet=True, **options)


def test_the_report_is_one_page_and_strict_json(run, tmp_path, capsys):
    folder = tmp_path / "look"
    arguments = ["evaluate", str(run.folder), "--report", str(folder), "--quiet", "evaluation.protocol=post"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    for words in ("mAP at IoU .5", "random boxes", "95 % range", "an animal missed", "published in the post", "day"):
        assert words in said
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") > 6 and "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    document = json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
    assert document["split"] == "test" and document["pictures"] == len(run.split.test)
    assert len(document["protocol"]) == 6
    assert set(document["baselines"]) == {"all background", "most frequent species", "random boxes"}


def test_the_curves_are_on_tensorboard_once_however_often_it_is_asked(run):
    for _ in range(2):
        evaluate(run.folder, overrides=["evaluation.resamples=0"], quiet=True)
    (file,) = (run.board_folder / "evaluation-test").glob("*tfevents*")
    events = EventAccumulator(str(file), size_guidance={"tensors": 0})
    events.Reload()
    assert "Evaluation_test/detection/map50" in events.Tags()["scalars"]
    assert "Precision_recall_test/(all species)" in events.Tags()["tensors"]
    assert len(events.Scalars("Evaluation_test/detection/map50")) == 1


def test_pictures_without_names_are_grouped_by_what_they_show(scenes):
    dataset, config = read(scenes / "scenes.json"), small_config(scenes)
    images = [replace_names(image) for image in dataset.images[:12]]
    assert group_pictures(dataset, images, config, quiet=True).kind == "near-duplicates"
    absent = replace(dataset, root=dataset.root / "attic")
    assert group_pictures(absent, images, config, quiet=True).kind == "pictures"
    assert group_pictures(dataset, dataset.images, config, quiet=True).kind == "sequences"
    cameras = small_config(scenes, "evaluation.drawn=cameras")
    groups = group_pictures(dataset, dataset.images, cameras, quiet=True)
    assert (groups.kind, groups.count) == ("cameras", 6)
    with pytest.raises(RunError, match="cameras cannot be drawn"):
        group_pictures(dataset, images, cameras, quiet=True)


def replace_names(image):
    return image._replace(sequence=None, location=None)


# -- one against another -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(scenes, run, tmp_path_factory):
    """A run that has learnt less, on the same split."""
    folder = tmp_path_factory.mktemp("other") / "less"
    config = small_config(scenes, "train.epochs=1", "seed=2", f"split.file={run.folder / 'split.json'}")
    return train(config, folder, quiet=True)


def test_a_run_and_its_results_cannot_be_told_apart(run, results):
    contest = compare_models([run.folder, results], quiet=True)
    assert contest.models == ("run", "results.json")
    assert contest.pictures == len(run.split.test)
    assert contest.verdicts and not any(verdict.certain for verdict in contest.verdicts)
    assert "cannot be told apart" in contest.conclusions[0]


def test_two_runs_are_judged_by_the_same_pictures(run, other):
    contest = compare_models([run.folder, other.folder], quiet=True)
    assert contest.pictures == len(run.split.test) and contest.left_out == 0
    by_figure = {verdict.figure: verdict for verdict in contest.verdicts}
    verdict = by_figure["detection/map50"]
    assert verdict.difference >= 0
    reports = {r.model: r for r in (evaluate(x.folder, quiet=True) for x in (run, other))}
    values = sorted(report.metrics["detection/map50"] for report in reports.values())
    assert [verdict.first_value, verdict.second_value] == pytest.approx(values)
    json.dumps(contest.to_json(), allow_nan=False)


def test_pictures_that_one_has_learnt_from_judge_nobody(run, other, tmp_path, scenes):
    split = json.loads((run.folder / "split.json").read_text())
    moved = split["test"][:4]
    split["train"], split["test"] = [*split["train"], *moved], split["test"][4:]
    copy = shutil.copytree(other.folder, tmp_path / "copy")
    (copy / "split.json").write_text(json.dumps(split))
    contest = compare_models([run.folder, copy], quiet=True)
    assert (contest.pictures, contest.left_out) == (len(split["test"]), 4)
    split["train"], split["test"] = [*split["train"], *split["test"]], split["validation"]
    split["validation"] = []
    (copy / "split.json").write_text(json.dumps(split))
    with pytest.raises(RunError, match="no picture in common"):
        compare_models([run.folder, copy], quiet=True)


def test_the_verdict_is_printed_and_written(run, other, tmp_path, capsys):
    file = tmp_path / "verdict.json"
    arguments = ["compare", str(run.folder), str(other.folder), "--quiet", "--json", str(file)]
    assert cli.main([*arguments, "evaluation.resamples=200"]) == 0
    said = capsys.readouterr().out
    assert "mAP50" in said and f"{len(run.split.test)} test pictures" in said
    assert json.loads(file.read_text())["pictures"] == len(run.split.test)


def test_one_model_is_nothing_to_compare(run, capsys):
    assert cli.main(["compare", str(run.folder), "--quiet"]) == 1
    assert "two or more" in capsys.readouterr().err


def test_night_is_told_from_the_squares(report, scenes):
    # the drawn scenes say by their strip's time what they are; infrared ones have no colours
    light = report.scores.light
    assert set(light) <= {"day", "night"} and np.isfinite(light["day"]["detection/map50"])


# -- results by other hands --------------------------------------------------------------------------------------------


def written(results, tmp_path, change):
    document = json.loads(results.read_text())
    change(document)
    (tmp_path / "changed.json").write_text(json.dumps(document))
    return tmp_path / "changed.json"


def without_sizes(document):
    for image in document["images"]:
        del image["width"], image["height"]


def on_resized_copies(document):
    for image in document["images"]:
        image["width"], image["height"] = 3 * image["width"], 2 * image["height"]


def by_windows_paths(document):
    without_sizes(document)
    for image in document["images"]:
        image["file"] = "C:\\cards\\7\\" + image["file"].replace("/", "\\")


def among_strangers(document):
    document["images"] += [{"file": "other/none.jpg", "detections": []}]


@pytest.mark.parametrize("change", [without_sizes, on_resized_copies, by_windows_paths, among_strangers])
def test_boxes_are_relative_and_names_are_found_by_their_ends(results, scenes, tmp_path, change):
    options = {"data": scenes, "overrides": ["evaluation.resamples=0"], "quiet": True}
    ours, theirs = evaluate(results, **options), evaluate(written(results, tmp_path, change), **options)
    assert theirs.unreadable == ours.unreadable == 0
    assert theirs.metrics["detection/map50"] == pytest.approx(ours.metrics["detection/map50"], nan_ok=True)
    assert theirs.metrics["detection/mean_iou"] == pytest.approx(ours.metrics["detection/mean_iou"], nan_ok=True)


def test_two_results_for_one_picture_are_refused(results, scenes, tmp_path):
    file = written(results, tmp_path, lambda d: d["images"].append(dict(d["images"][0])))
    with pytest.raises(RunError, match="two results for one picture"):
        evaluate(file, data=scenes, quiet=True)


def test_megadetectors_animals_are_judged_as_animals(results, scenes, tmp_path):
    def without_names(document):
        document["detection_categories"] = {"1": "animal", "2": "person", "3": "vehicle"}
        for image in document["images"]:
            for found in image["detections"]:
                found["category"] = "1"

    file = written(results, tmp_path, without_names)
    report = evaluate(file, data=scenes, overrides=["evaluation.resamples=0", "evaluation.score=0.1"], quiet=True)
    named = evaluate(results, data=scenes, overrides=["evaluation.resamples=0", "evaluation.score=0.1"], quiet=True)
    assert report.scores.class_names == ("animal", "person", "vehicle")
    assert report.metrics["blank/sensitivity"] == named.metrics["blank/sensitivity"]
    assert report.metrics["detection/boxes"] == named.metrics["detection/boxes"]


def test_what_predict_leaves_out_is_no_difference_between_models(run, scenes, tmp_path):
    """`predict` writes nothing down that scores less than it keeps, whereas a network is asked for every score."""
    predict(run.folder, [scenes / "images"], tmp_path / "cut.json", quiet=True)
    contest = compare_models([run.folder, tmp_path / "cut.json"], overrides=["evaluation.score=0.1"], quiet=True)
    assert contest.floor >= KEEP
    assert all(verdict.p == 1 for verdict in contest.verdicts)


@pytest.mark.parametrize(
    "models, options, words",
    [
        (["run", "run"], {}, "the same"),
        (["run", "results"], {"split": "train"}, "learnt by heart"),
        (["run", "absent.json"], {}, "no such run folder or results file"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_measured(run, results, models, options, words):
    places = {"run": run.folder, "results": results}
    with pytest.raises(RunError, match=words):
        compare_models([places.get(name, name) for name in models], quiet=True, **options)


def test_results_without_a_picture_in_common_are_no_contest(results, scenes, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = written(results, tmp_path / "a", lambda d: d.update(images=d["images"][:20]))
    second = written(results, tmp_path / "b", lambda d: d.update(images=d["images"][20:]))
    with pytest.raises(RunError, match="could be read by all"):
        compare_models([first, second], data=scenes, quiet=True)


# -- what a run may have become ----------------------------------------------------------------------------------------


def test_choices_made_for_another_way_to_read_the_network_are_not_taken(run):
    evaluate(run.folder, overrides=["evaluation.resamples=0"], quiet=True)
    before = (run.folder / "calibration.json").read_text()
    overrides = ["evaluation.resamples=0", "evaluation.nms=0.9", "evaluation.floor=0.2"]
    other = evaluate(run.folder, overrides=overrides, quiet=True).scores.calibration
    assert other.reading["nms"] == 0.9 and (run.folder / "calibration.json").read_text() == before


def test_the_posts_protocol_does_without_training_pictures_that_are_gone(run, scenes, tmp_path):
    document = json.loads((scenes / "scenes.json").read_text())
    gone = set(run.split.train[:3])
    document["images"] = [image for image in document["images"] if str(image["id"]) not in gone]
    document["annotations"] = [one for one in document["annotations"] if str(one["image_id"]) not in gone]
    (tmp_path / "less.json").write_text(json.dumps(document))
    (tmp_path / "images").symlink_to(scenes / "images")
    overrides = ["evaluation.resamples=0", "evaluation.protocol=post"]
    report = evaluate(run.folder, data=tmp_path / "less.json", overrides=overrides, quiet=True)
    assert len(report.protocol) == 6


def test_the_test_loss_of_the_post_is_not_weighed(scenes, run, tmp_path):
    changes = ("train.epochs=1", "loss.foreground_weight=900", "loss.normalise_by=anchors", "augment.flip=false")
    config = small_config(scenes, *changes, f"split.file={run.folder / 'split.json'}", "evaluation.protocol=post")
    heavy = train(config, tmp_path / "heavy", quiet=True)
    report = evaluate(heavy.folder, overrides=["evaluation.resamples=0"], quiet=True)
    of_training, summed = report.protocol[3].figures["log_loss"], report.protocol[4].figures["log_loss"]
    (row,) = [one for one in heavy.rows() if one["split"] == "train" and not one.get("closing")]
    test_part = summed - len(run.split.train) // 8 * row["anchor/log_loss"]
    assert 0 < test_part < len(run.split.test) // 8 * of_training / 2, "the same batch weighs far more in training"


@pytest.mark.parametrize("kind", ["a file", "below a file"])
def test_a_report_that_cannot_be_written_is_said_before_anything_is_measured(run, tmp_path, kind):
    (tmp_path / "there").write_text("")
    place = tmp_path / "there" if kind == "a file" else tmp_path / "there" / "look"
    with pytest.raises(OSError, match="there"):
        evaluate(run.folder, report=place, quiet=True)


def test_training_takes_no_notice_of_evaluations(run):
    evaluate(run.folder, overrides=["evaluation.resamples=0"], quiet=True)
    assert run.evaluation_folder("test").is_dir()
    assert not any("evaluation" in name for name in run.board_sizes())
