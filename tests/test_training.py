"""Does the real thing run, small: data to run folder, TensorBoard, evaluation and prediction?"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("tensorboard", reason="no extra with an engine is installed")

from trained import EPOCHS, small_config

from ena24ssd.assessment import evaluate
from ena24ssd.config import ConfigError
from ena24ssd.efficientnet import MEAN, STD
from ena24ssd.epoch import DivergedError
from ena24ssd.pretrained import PretrainedError
from ena24ssd.runs import RunError, open_run
from ena24ssd.scores import plain
from ena24ssd.training import resume, train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(trained_run):
    return trained_run


def test_the_run_folder_holds_all_that_the_run_was(run, scenes):
    assert open_run(run.folder) == run
    assert run.config == small_config(scenes, f"engine={run.config.engine}")  # which "auto" has become
    assert len(run.split.train) + len(run.split.validation) + len(run.split.test) == 48
    assert {path.name for path in run.folder.iterdir() if not path.name.startswith(".")} == {
        *("config.yaml", "classes.json", "split.json", "metrics.jsonl", "best.safetensors", "last.safetensors"),
        *("board", "sheet.png", "problems.json", "speed.jsonl", "previous.safetensors", "calibration.json"),
    }


def test_every_epoch_and_split_has_a_row_and_the_loss_falls(run):
    rows = [row for row in run.rows() if "closing" not in row]
    assert [(row["epoch"], row["split"]) for row in rows] == [
        (epoch, split) for epoch in range(EPOCHS) for split in ("train", "validation", "test")
    ]
    losses = [row["anchor/log_loss"] for row in rows if row["split"] == "train"]
    assert losses[-1] < losses[0]


def test_the_best_checkpoint_is_the_best_on_validation(run):
    scores = [r["detection/map50"] for r in run.rows() if r["split"] == "validation" and "closing" not in r]
    kept = run.load_checkpoint("best")
    assert kept.score == max(scores) == scores[kept.epoch]
    assert run.load_checkpoint("last").epoch == EPOCHS - 1


def figures_in(row):
    return {name: value for name, value in row.items() if "/" in name}


@pytest.mark.parametrize("split", ["test", "validation", "train"])
def test_evaluate_gives_the_closing_row_to_the_digit(run, split):
    (closing,) = [row for row in run.rows() if row.get("closing") and row["split"] == split]
    report = evaluate(run.folder, split, quiet=True)
    assert figures_in(closing).items() <= plain(report.metrics).items()
    assert report.epoch == closing["epoch"]


def test_evaluate_gives_the_last_epochs_test_row_to_the_digit(run):
    last = [row for row in run.rows() if row["split"] == "test" and "closing" not in row][-1]
    report = evaluate(run.folder, "test", "last", quiet=True)
    assert figures_in(last).items() <= plain(report.metrics).items()


def test_evaluate_judges_on_test_unless_told_otherwise_and_draws_a_sheet(run, tmp_path):
    report = evaluate(run.folder, sheet=tmp_path / "sheet.png", quiet=True)
    assert report.split == "test"
    assert Image.open(tmp_path / "sheet.png").width > 900


def test_a_dataset_that_changed_under_a_run_is_refused(run, scenes, tmp_path):
    document = json.loads((scenes / "scenes.json").read_text())
    document["images"] = document["images"][:-30]
    (tmp_path / "less.json").write_text(json.dumps(document))
    (tmp_path / "images").symlink_to(scenes / "images")
    with pytest.raises(RunError, match="no longer usable"):
        evaluate(run.folder, data=tmp_path / "less.json", quiet=True)


def test_a_run_is_not_overwritten(run, scenes):
    with pytest.raises(RunError, match="already holds a run"):
        train(small_config(scenes), run.folder, quiet=True)


def test_the_same_seed_gives_the_same_run(run, scenes, tmp_path):
    again = train(small_config(scenes, "log.graph=false", "log.pictures=0"), tmp_path / "again", quiet=True)
    assert again.metrics_file.read_bytes() == run.metrics_file.read_bytes()
    ours, theirs = run.load_checkpoint("last").weights, again.load_checkpoint("last").weights
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_without_a_validation_split_the_last_checkpoint_is_kept(scenes, tmp_path):
    choices = ("split.validation=0", "split.test=0.5", "train.epochs=2", "train.drop_last=true", "log.histograms=false")
    kept = train(small_config(scenes, *choices), tmp_path / "run", quiet=True)
    assert kept.load_checkpoint("best").epoch == 1
    assert {row["split"] for row in kept.rows()} == {"train", "test"}


def test_a_loss_that_is_no_number_stops_the_run_and_names_pictures(scenes, tmp_path):
    with pytest.raises(DivergedError, match="pictures"):
        train(small_config(scenes, "optim.name=sgd", "optim.lr=1e30", "optim.warmup=0"), tmp_path / "run", quiet=True)


def test_too_few_pictures_for_a_batch_say_what_to_do(scenes, tmp_path):
    with pytest.raises(ValueError, match=r"train\.batch"):
        train(small_config(scenes, "train.batch=100", "train.drop_last=true"), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists(), "nothing is left behind"


# -- weights that have learnt before --------------------------------------------------------------------------------

LITE = ("model.backbone=efficientnet_lite0", "model.pretrained=true", "model.frozen_statistics=backbone")
LITE += ("model.levels=[16,32]", "model.pyramid=8", "model.towers=1", "model.sizes=[[0.3],[0.6]]", "model.width=1")
LITE += (f"data.mean={list(MEAN)}", f"data.std={list(STD)}", "optim.head_epochs=1", "train.epochs=1")
LITE += ("log.graph=false", "log.pictures=0", "log.histograms=false")


def test_a_pretrained_backbone_is_where_a_run_begins_even_if_it_was_killed_before_it_kept_anything(
    scenes, tmp_path, monkeypatch
):
    monkeypatch.setattr("ena24ssd.learning.save_sheet", lambda sheet, file: None)
    random, known = np.random.default_rng(0), {}
    for block in (0, 15):
        name = f"features.blocks.{block}.project.conv.weight"
        known[name] = random.normal(0, 0.1, {0: (16, 32, 1, 1), 15: (320, 1152, 1, 1)}[block]).astype(np.float32)
    monkeypatch.setattr("ena24ssd.training.read_pretrained", lambda backbone: known)
    run = train(small_config(scenes, *LITE), tmp_path / "run", quiet=True)
    for name in ("last.safetensors", "previous.safetensors", "best.safetensors", "metrics.jsonl"):
        (run.folder / name).unlink(missing_ok=True)
    again = resume(run.folder, quiet=True)
    weights = again.load_checkpoint("best").weights
    assert all(np.array_equal(weights[name], values) for name, values in known.items())


def test_pretrained_weights_that_cannot_be_had_are_missed_before_anything_is_done(scenes, tmp_path, monkeypatch):
    def miss(backbone: str):
        raise PretrainedError(f"the weights of {backbone} are not here")

    monkeypatch.setattr("ena24ssd.training.read_pretrained", miss)
    monkeypatch.setattr("ena24ssd.training.read_source", None)
    with pytest.raises(PretrainedError, match="efficientnet_lite0"):
        train(small_config(scenes, *LITE), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["optim.average=0.9", "optim.late_share=0.5"])
def test_what_learns_and_what_is_kept_cannot_change_on_the_way(run, change):
    with pytest.raises(ConfigError, match=f"{change.partition('=')[0]}: is .* cannot become"):
        resume(run.folder, [change, "train.epochs=9"], quiet=True)


# -- TensorBoard ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def board(run):
    """A TensorBoard server on loopback over the run's event files; ends by itself after two minutes at the latest."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(run.board_folder)]
    command += ["--host", "127.0.0.1", "--port", "0", "--load_fast", "false"]
    command += ["--reload_interval", "0", "--reload_task", "blocking"]  # it serves once every file is read, not before
    server = subprocess.Popen(
        ["timeout", "120", *command],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    try:
        for line in server.stderr:
            address = re.search(r"http://127\.0\.0\.1:\d+", line)
            if address:
                break
        else:
            pytest.fail("TensorBoard did not start")

        def fetch(path):
            with urllib.request.urlopen(f"{address[0]}/data/plugin/{path}", timeout=20) as answer:
                body = answer.read()
                body = gzip.decompress(body) if answer.headers.get("Content-Encoding") == "gzip" else body
                return body if "json" not in answer.headers["Content-Type"] else json.loads(body)

        yield fetch
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=20)


@pytest.mark.parametrize("tag", ["Log_loss", "Accuracy", "MAe", "Micro_F1"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_tensorboard_serves_the_posts_curves_at_the_right_steps(board, run, tag, split):
    points = board(f"scalars/scalars?run={tag}%2F{split}&tag={tag}")
    name = {"Log_loss": "log_loss", "Accuracy": "accuracy", "MAe": "mae", "Micro_F1": "micro_f1"}[tag]
    rows = [row for row in run.rows() if row["split"] == split and "closing" not in row]
    assert [step for _, step, _ in points] == list(range(EPOCHS))
    assert [value for *_, value in points] == pytest.approx([row[f"anchor/{name}"] for row in rows], rel=1e-6)


def test_tensorboard_serves_histograms_pictures_rate_and_graph(board):
    histograms = board("histograms/tags")["."]
    assert {"features.conv31.weight", "class_predict.0.bias"} <= histograms.keys()
    assert [h[1] for h in board("histograms/histograms?run=.&tag=features.conv31.weight")] == list(range(EPOCHS))
    images = board("images/images?run=.&tag=Detections&sample=0")
    assert [image["step"] for image in images] == list(range(EPOCHS))
    drawn = Image.open(io.BytesIO(board(f"images/individualImage?{images[-1]['query']}")))
    assert drawn.width > 900
    assert len(board("scalars/scalars?run=Learning_rate%2Ftrain&tag=Learning_rate")) == EPOCHS
    graph = board("graphs/graph?run=.")
    assert b"conv" in graph and graph.count(b"node {") > 50
