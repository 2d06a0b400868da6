"""What can I type, and what do mistakes cost?"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ena24ssd import cli
from ena24ssd.choosing import choose_split
from ena24ssd.config import change_config, read_config
from ena24ssd.detections import read_megadetector
from ena24ssd.picturewalk import common_folder
from ena24ssd.sources import read_source

ROOT = Path(__file__).parents[1]
VERBS = [
    *("check", "compare", "convert", "curves", "doctor", "download", "evaluate", "explore", "predict", "runs"),
    *("export", "merge", "repeats"),
    *("split", "synth", "train"),
]
SMALL = [
    *("device=cpu", "data.image_side=64", "model.width=0.05", "model.sizes=[0.2,0.4]", "model.ratios=[1]"),
    *("split.kind=grouped", "split.train=0.5", "split.validation=0.2", "split.test=0.3", "train.epochs=1"),
    *("log.pictures=0", "log.histograms=false", "log.graph=false"),
]


@pytest.mark.parametrize("verb", VERBS)
def test_every_script_is_a_door_to_the_same_verb(verb):
    script = subprocess.run(
        [sys.executable, f"scripts/{verb}.py", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    command = subprocess.run(
        [sys.executable, "-m", "ena24ssd.cli", verb, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert script.returncode == command.returncode == 0
    # argparse names the command after the file that was started
    assert script.stdout.replace(f"{verb}.py {verb}", f"ena24ssd {verb}") == command.stdout.replace(
        "cli.py", "ena24ssd"
    )


def test_check_tells_what_is_in_a_dataset(scenes, capsys):
    assert cli.main(["check", str(scenes)]) == 0
    said = capsys.readouterr().out
    assert "48 usable pictures" in said and "no problems" in said


def test_check_can_do_without_the_pictures(scenes, tmp_path, capsys):
    (tmp_path / "alone.json").write_bytes((scenes / "scenes.json").read_bytes())
    for choice, code in (([], 1), (["--no-pictures"], 0)):
        assert cli.main(["check", str(tmp_path / "alone.json"), *choice]) == code
        said = capsys.readouterr().out
        assert "48 usable pictures" in said and "looked at the json alone" in said
        assert ("the pictures were not looked at: alone.json" in said) == (code == 1)
    assert cli.main(["check", str(tmp_path / "alone.json"), "--pictures", str(tmp_path)]) == 1
    assert "no picture to use" in capsys.readouterr().err


def test_check_speaks_json(scenes, tmp_path, capsys):
    assert cli.main(["check", str(scenes), "--deep", "--quiet", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pictures"] == 48 and document["problems"] == []
    assert cli.main(["check", str(scenes), "--json", str(tmp_path / "found.json")]) == 0
    assert json.loads((tmp_path / "found.json").read_text())["looked_at"] == "the json and which pictures exist"


def test_split_writes_a_split_that_a_run_can_use_and_says_what_leaks(scenes, tmp_path, capsys):
    out, report = tmp_path / "split.json", tmp_path / "report"
    command = ["split", str(scenes), "--shares", "0.5", "0.2", "0.3", "--quiet", "--cache", str(tmp_path / "cache")]
    assert cli.main([*command, "--out", str(out), "--report", str(report)]) == 0
    said = capsys.readouterr().out
    assert "grouped by scene" in said and "same camera" in said and "leaks-random.png" in said
    assert (report / "leaks-random.png").exists() and json.loads((report / "leaks.json").read_text())["pictures"] == 48
    config = read_config(None, [f"data.path={scenes}", f"split.file={out}"])
    split = choose_split(read_source(config.data), config.split, 0).split
    assert sum(map(len, split.to_json().values())) == 48


def test_split_says_when_the_data_has_chosen_already(scenes, tmp_path, capsys):
    document = json.loads((scenes / "scenes.json").read_text())
    (tmp_path / "images").symlink_to(scenes / "images")
    for name, part in (("train", document["images"][:36]), ("valid", document["images"][36:])):
        ids = {image["id"] for image in part}
        boxes = [box for box in document["annotations"] if box["image_id"] in ids]
        (tmp_path / f"{name}.json").write_text(json.dumps({**document, "images": part, "annotations": boxes}))
    assert cli.main(["split", str(tmp_path)]) == 0
    assert "came with the data" in capsys.readouterr().out
    assert cli.main(["split", str(tmp_path), "--kind", "random", "--shares", "0.5", "0", "0.5"]) == 0
    assert "random: train 24, validation 0, test 24" in capsys.readouterr().out
    assert cli.main(["split", str(tmp_path), "--shares", "0.5", "0.1", "0.6"]) == 1
    said = capsys.readouterr().err
    assert "the three shares must add up to 1" in said and "http" not in said


def test_names_cannot_steer_the_terminal(scenes, tmp_path, capsys):
    document = json.loads((scenes / "scenes.json").read_text())
    document["categories"][0]["name"] = "Fox\x1b[2J"
    document["images"][0]["file_name"] = "\x1b]0;title\x07.jpg"
    (tmp_path / "a.json").write_text(json.dumps(document))
    cli.main(["check", str(tmp_path / "a.json"), "--pictures", str(scenes / "images")])
    cli.main(["check", str(tmp_path / "\x1b[2J.json")])
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and "Fox\\x1b[2J" in said.out


def test_convert_goes_there_and_back(scenes, tmp_path, capsys):
    assert cli.main(["convert", str(scenes / "scenes.json"), str(tmp_path / "voc"), "--to", "voc", "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "48 pictures" in said and "not held by voc" in said
    back = ["convert", str(tmp_path / "voc"), str(tmp_path / "back.json"), "--pictures", str(scenes / "images")]
    assert cli.main([*back, "--quiet"]) == 0
    assert "48 pictures" in capsys.readouterr().out
    assert cli.main(["check", str(tmp_path / "back.json"), "--pictures", str(scenes / "images"), "--deep"]) == 0
    assert cli.main([*back, "--quiet"]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_check_counts_problems_by_rule_and_its_exit_code_says_so(scenes, tmp_path, capsys):
    document = json.loads((scenes / "scenes.json").read_text())
    document["annotations"][0]["bbox"][2] = -3
    document["images"][1]["file_name"] = "../outside.jpg"
    (tmp_path / "bad.json").write_text(json.dumps(document))
    assert cli.main(["check", str(tmp_path / "bad.json"), "--pictures", str(scenes / "images")]) == 1
    said = capsys.readouterr().out
    assert "box-without-area" in said and "unusable-file-name" in said


def test_synth_draws_what_was_asked_for(tmp_path, capsys):
    assert cli.main(["synth", str(tmp_path), "--images", "6", "--cameras", "2", "--size", "96x72", "--seed", "4"]) == 0
    assert cli.main(["check", str(tmp_path)]) == 0
    assert "6 usable pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["check", "absent"], "no such file or folder"),
        (["synth", "x", "--size", "large"], "WIDTHxHEIGHT"),
        (["train", "configs/none.yaml", "--data", "x"], "no such config file"),
        (["train", "optim.rate=1", "--data", "x"], "optim.rate: no such field"),
        (["train", "a.yaml", "b.yaml"], "one config file at most"),
        (["train"], "--data"),
        (["evaluate", "absent"], "no such run folder or results file"),
        (["predict", "absent", "absent.jpg"], "no such picture"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_1(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--fast"], ["check", "a", "b"]])
def test_a_command_line_that_does_not_parse_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 2 and "usage" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_road_by_commands(scenes, tmp_path, capsys):
    pytest.importorskip("tensorboard", reason="no extra with an engine is installed")
    run, found = tmp_path / "run", tmp_path / "found"
    assert cli.main(["train", SMALL[0], "--data", str(scenes), "--out", str(run), "--quiet", *SMALL[1:]]) == 0
    said = capsys.readouterr().out
    assert "Accuracy/train" in said and "Micro_F1/test" in said and "all background" in said

    assert cli.main(["evaluate", str(run), "--quiet", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    closing = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][-1]
    assert figures["anchor/log_loss"] == closing["anchor/log_loss"] and figures["split"] == "test"

    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    pictures = sorted(scenes.glob("images/*/*.jpg"))[:4]
    arguments = ["predict", str(run), *map(str, pictures), str(tmp_path / "bad.jpg"), "--quiet", "--threshold", "0.05"]
    assert cli.main([*arguments, "--out", str(found / "results.json"), "--draw", str(found / "drawn")]) == 0
    assert "5 pictures" in (said := capsys.readouterr().out) and "bad.jpg: not a picture" in said
    results, names = read_megadetector(found / "results.json")
    assert [result.failure is None for result in results] == [True] * 4 + [False]
    assert names == tuple(json.loads((run / "classes.json").read_text()))
    assert len(list((found / "drawn").rglob("*.jpg.jpg"))) == 4

    assert cli.main(["predict", str(run), str(scenes / "images"), "--quiet", "--out", str(found / "folder.json")]) == 0
    results, _ = read_megadetector(found / "folder.json")
    assert [result.file for result in results] == sorted(
        path.relative_to(scenes / "images").as_posix() for path in scenes.glob("images/*/*.jpg")
    )


@pytest.mark.parametrize(
    "paths, folder",
    [
        (["photos"], "photos"),
        (["photos/a.jpg"], "photos"),
        (["photos/one", "photos/two/b.jpg"], "photos"),
        (["photos/one/a.jpg", "other"], "."),
    ],
    ids=["one folder", "one picture", "a folder and a picture beside it", "two places"],
)
def test_file_names_start_from_the_deepest_folder_that_holds_all(tmp_path, monkeypatch, paths, folder):
    for name in ("photos/one", "photos/two", "other"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert common_folder(paths) == tmp_path / folder


def test_explore_writes_a_report_and_a_snippet_that_is_a_config(scenes, tmp_path, capsys):
    out, figures = tmp_path / "look", tmp_path / "figures.json"
    command = [
        "explore",
        str(scenes),
        str(ROOT / "configs" / "ena24.yaml"),
        "--out",
        str(out),
        "--json",
        str(figures),
        "--quiet",
    ]
    assert cli.main([*command, "data.image_side=192"]) == 0
    said = capsys.readouterr().out
    assert (out / "report.html").exists() and len(list((out / "plots").glob("*.png"))) >= 5
    assert json.loads(figures.read_text())
    snippet = said[said.index("model:") : said.index("wrote ")]
    pasted = {f"model.{name}": value for name, value in yaml.safe_load(snippet)["model"].items()}
    assert change_config(read_config(ROOT / "configs" / "ena24.yaml", ["data.image_side=192"]), pasted).model.sizes
