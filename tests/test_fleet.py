"""Do many workers find what one does, whatever becomes of them?"""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ena24ssd import fleet, raycluster, shards
from ena24ssd.detector import Detector
from ena24ssd.engine import EngineError
from ena24ssd.fleet import merge, predict_together
from ena24ssd.journal import JournalError
from ena24ssd.models import open_model
from ena24ssd.objectstore import Store, StoreError, StoreWalk, is_address
from ena24ssd.outcome import Outcome, Wanted
from ena24ssd.picturewalk import PictureWalk
from ena24ssd.prediction import Handling, Reading, predict
from ena24ssd.runs import Run
from ena24ssd.stopping import StoppedError
from ena24ssd.thresholds import Thresholds

pytestmark = pytest.mark.xdist_group("ray")
needs_store = pytest.mark.skipif("not __import__('test_fleet').has('pyarrow.fs')", reason="needs PyArrow")

BATCH, SHARD = 4, 8
ASKED = {
    "wanted": Wanted(("megadetector", "csv")),
    "reading": Reading(batch=BATCH),
    "threads": 1,
    "threshold": 0.1,
    "quiet": True,
}
# Read by every Python that Ray starts: pictures take their time, and one ends whoever opens it.
STARTED_WITH = """
import os, signal, time
import PIL.Image
opened = PIL.Image.open
def open(source, *args, **kwargs):
    time.sleep(0.1)
    if os.path.basename(str(source)).startswith("killer"):
        os.kill(os.getpid(), signal.SIGKILL)
    return opened(source, *args, **kwargs)
PIL.Image.open = open
"""
DRIVER = """
import sys
from pathlib import Path
from ena24ssd.fleet import predict_together
from test_fleet import ASKED, SHARD
model, card, out, address = sys.argv[1:]
predict_together(model, [card], Path(out), address=address, workers=1, shard=SHARD, **ASKED)
"""


def has(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:  # PyArrow's too, of a NumPy that it is too new for
        return False
    return True


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray of two workers on this machine, as `predict_together` starts one; its address."""
    if not has("pyarrow.fs") or importlib.util.find_spec("ray") is None:
        pytest.skip("needs the extra ray")
    hooks = tmp_path_factory.mktemp("hooks")
    (hooks / "sitecustomize.py").write_text(STARTED_WITH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(hooks), os.environ.get("PYTHONPATH")])))
        patch.delenv("RAY_ADDRESS", raising=False)
        with raycluster.connected(None, 2, 1, "cpu") as pool:
            import ray  # not before: it reads its environment then

            assert pool == raycluster.Pool(workers=2, threads=1, gpus=0)
            yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="module")
def card(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in folders, in capitals, one that is broken, and a video."""
    card = tmp_path_factory.mktemp("card of 2024")
    pictures = sorted(path for path in scenes.rglob("*") if path.suffix == ".jpg")[:41]
    for number, picture in enumerate(pictures):
        folder = card / ("site b", "Site A", "site b/night")[number % 3]
        folder.mkdir(exist_ok=True, parents=True)
        shutil.copy(picture, folder / f"{number:03}{('.jpg', '.JPG')[number % 2]}")
    (card / "site b" / "broken.jpg").write_text("<html>not found</html>")
    (card / "film.mp4").write_bytes(b"0")
    return card


@pytest.fixture(scope="module")
def alone(trained_run: Run, card: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one machine writes."""
    out = tmp_path_factory.mktemp("alone") / "results.json"
    assert predict(trained_run.folder, [card], out, **ASKED).with_animals > 5
    return written(out)


def written(out: Path) -> dict[str, bytes]:
    """All that lies beside ``out`` in files, but for the time."""
    files = {path.name: path.read_bytes() for path in out.parent.iterdir() if path.is_file()}
    return {name: re.sub(rb'"detection_completion_time": "[^"]+"', b"", content) for name, content in files.items()}


def meanwhile(act: Callable[[], object], out: Path, shards: int) -> threading.Thread:
    """Act once so many shards are finished."""

    def wait() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and len(list(out.parent.glob(f"{out.name}.shards/shard-*"))) < shards:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def busy_workers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "_Worker" in " ".join(process.cmdline()) and ".submit" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_one_of_two_workers_is_killed_midway_and_the_files_are_those_of_one_machine(
    ray_here: str, trained_run: Run, card: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    out, killed = tmp_path / "results.json", []

    def kill() -> None:
        while not (workers := busy_workers()):
            time.sleep(0.02)
        killed.append(workers[0].pid)
        workers[0].kill()

    thread = meanwhile(kill, out, shards=1)
    handling = Handling(sort_into=tmp_path / "sorted")
    outcome = predict_together(trained_run.folder, [card], out, shard=SHARD, handling=handling, **ASKED)
    thread.join(10)
    assert killed
    assert not psutil.pid_exists(killed[0])
    assert written(out) == alone
    assert (outcome.pictures, outcome.failed, outcome.left_out.videos) == (42, 1, 1)
    assert outcome.failures[0].failure == "not a picture format this package reads"
    assert {path.name for path in tmp_path.iterdir()} == {*alone, "sorted"}
    pictures = {path.relative_to(card) for path in PictureWalk([card])}
    copies = [path.relative_to(handling.sort_into) for path in PictureWalk([handling.sort_into])]
    assert {Path(*copy.parts[1:]) for copy in copies} == pictures


@pytest.mark.slow
def test_after_the_driver_was_killed_only_what_is_missing_or_damaged_is_done(
    ray_here: str,
    trained_run: Run,
    card: Path,
    alone: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "results.json"
    command = [sys.executable, "-c", DRIVER, trained_run.folder, card, out, ray_here]
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    driver = subprocess.Popen(
        list(map(str, command)), env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    )
    try:
        meanwhile(driver.kill, out, shards=2).join(70)
    finally:
        driver.kill()
        assert driver.wait(10) == -signal.SIGKILL
    folder = tmp_path / "results.json.shards"
    there = sorted(folder.glob("shard-*.journal"))
    assert 2 <= len(there) < 6
    os.truncate(there[0], there[0].stat().st_size - 5)

    with pytest.raises(JournalError, match="there are shards already; go on with them by --resume"):
        predict_together(trained_run.folder, [card], out, shard=SHARD, **ASKED)
    with pytest.raises(JournalError, match=r"was begun with threshold 0\.1, not 0\.2; go on with what"):
        predict_together(trained_run.folder, [card], out, resume=True, **ASKED | {"threshold": 0.2})

    so_far = merge(out)
    assert so_far.missing == 42 - 8 * (len(there) - 1)
    assert so_far.outcome.pictures == 42 - so_far.missing
    assert [path.name for path in so_far.outcome.files] == ["results-so-far.json", "results-so-far.csv"]
    assert len(json.loads((tmp_path / "results-so-far.json").read_bytes())["images"]) == so_far.outcome.pictures
    for path in so_far.outcome.files:
        path.unlink()

    begun: list[int] = []
    write = shards.Plan.write
    monkeypatch.setattr(
        shards.Plan, "write", lambda plan, shard, found: (begun.append(shard), write(plan, shard, found))
    )
    late = card / "site b" / "zz came later.jpg"
    shutil.copy(card / "site b" / "000.jpg", late)
    try:
        predict_together(trained_run.folder, [card], out, workers=1, resume=True, **ASKED)
    finally:
        late.unlink()
    known = {int(path.stem.partition("-")[2]) for path in there[1:]}
    assert sorted(begun) == sorted(set(range(6)) - known)
    assert written(out) == alone
    with pytest.raises(ValueError, match="is finished, nothing is left to go on with"):
        predict_together(trained_run.folder, [card], out, resume=True, **ASKED)


@pytest.mark.slow
def test_a_store_gives_what_a_folder_does_and_an_interrupted_prediction_goes_on(
    ray_here: str, trained_run: Run, card: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "results.json"

    def ask() -> Outcome:
        store = [f"file://{card}"]
        return predict_together(trained_run.folder, store, out, workers=1, shard=SHARD, resume=True, **ASKED)

    meanwhile(lambda: os.kill(os.getpid(), signal.SIGINT), out, shards=1)
    with pytest.raises(StoppedError, match=r"stopped after [\d,]+ of 42 pictures; .* with --resume goes on"):
        ask()
    assert not out.exists()
    assert ask().left_out.videos == 1
    assert written(out) == alone


@pytest.mark.slow
def test_a_picture_that_ends_whoever_reads_it_is_a_recorded_failure(
    ray_here: str, trained_run: Run, card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, picture in enumerate(sorted((card / "Site A").iterdir())[:6]):
        shutil.copy(picture, pictures / f"{'killer ' if number == 2 else 'picture '}{number}.jpg")
    monkeypatch.setattr(fleet, "TRIES", (1, 1, 1))
    outcome = predict_together(
        trained_run.folder, [pictures], tmp_path / "results.json", workers=1, shard=SHARD, **ASKED
    )
    assert outcome.pictures == 6
    assert [(Path(image.file).name, image.failure) for image in outcome.failures] == [
        ("killer 2.jpg", "ends the process that reads it, each time")
    ]
    listed = json.loads((tmp_path / "results.json").read_bytes())["images"]
    assert [entry["file"] for entry in listed] == sorted(path.name for path in pictures.iterdir())


@pytest.mark.slow
def test_a_worker_says_what_suits_it_or_why_it_cannot(ray_here: str, trained_run: Run) -> None:
    model = open_model(trained_run.folder)
    job = fleet._Job(model, Reading(), 0.1, Handling(), Path("/"), Thresholds(0.5), None, None, None, None, threads=1)
    pool = raycluster.Pool(workers=1, threads=1, gpus=0)
    assert fleet._ask_batch(job, pool) == Detector.load(model).batch
    with pytest.raises(EngineError, match="engine onnxruntime cannot be had; weights run with"):
        fleet._ask_batch(replace(job, engine="onnxruntime"), pool)
    with pytest.raises(EngineError, match=r"a worker has ena24ssd .* and is asked by 0; install the same"):
        fleet._ask_batch(replace(job, version="0"), pool)


@pytest.mark.parametrize("kind, needs", [("onnx", "onnxruntime"), ("symbol", "mxnet")])
def test_an_exported_model_travels_to_machines_that_do_not_have_it(
    kind: str, needs: str, trained_run: Run, card: Path, tmp_path: Path
) -> None:
    pytest.importorskip(needs)
    from ena24ssd.exports import export_run

    exported = export_run(trained_run.folder, tmp_path / "export", [kind], quiet=True)[0]
    picture = next(iter(PictureWalk([card])))
    expected = list(Detector.load(exported.path).detect(picture, 0.1))
    luggage = pickle.dumps(fleet._carry(open_model(exported.path)))
    shutil.rmtree(tmp_path / "export")
    assert list(Detector.load(pickle.loads(luggage)).detect(picture, 0.1)) == expected


@pytest.mark.parametrize(
    "nodes, asked, pool",
    [
        pytest.param([(9, 0)], (None, None, "cpu"), (2, 4, 0), id="a machine gives workers of four cores"),
        pytest.param([(8, 0)], (None, None, "cpu"), (1, 4, 0), id="one core stays free"),
        pytest.param([(2, 0), (1, 0)], (None, None, "cpu"), (2, 1, 0), id="small machines give workers of one core"),
        pytest.param([(1, 0)], (None, None, "cpu"), (1, 1, 0), id="a single core gives a worker all the same"),
        pytest.param([(16, 2), (4, 0)], (None, None, "gpu"), (2, 2, 1), id="each GPU gives a worker"),
        pytest.param([(16, 2)], (None, None, "auto"), (2, 4, 1), id="auto takes a GPU where there is one"),
        pytest.param([(16, 2)], (None, 5, "cpu"), (3, 5, 0), id="cpu leaves the GPUs alone"),
        pytest.param([(16, 2)], (None, None, ("gpu:0", "gpu:1")), (2, 4, 1), id="a run of several GPUs takes one each"),
        pytest.param([(4, 0)], (30, 8, "gpu"), (30, 8, 1), id="how many is known better by who says it"),
    ],
)
def test_as_many_workers_as_fit(nodes: list, asked: tuple, pool: tuple) -> None:
    resources = [{"CPU": float(cores), **({"GPU": float(gpus)} if gpus else {})} for cores, gpus in nodes]
    assert raycluster._measure(resources, *asked) == raycluster.Pool(*pool)


@pytest.mark.parametrize(
    "asked, words",
    [
        pytest.param((None, None, "gpu"), "has a GPU for a worker; --device cpu", id="no GPU anywhere"),
        pytest.param((None, 8, "cpu"), "has 8 cores for a worker; ", id="fewer cores than a worker wants"),
    ],
)
def test_a_cluster_that_is_too_small_is_refused(asked: tuple, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        raycluster._measure([{"CPU": 4.0}], *asked)


def test_without_ray_the_way_out_is_said(trained_run: Run, card: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(EngineError, match=r"pip install 'ena24ssd\[ray\]'"):
        predict_together(trained_run.folder, [card], tmp_path / "results.json", **ASKED)
    assert list(tmp_path.iterdir()) == []


def test_ray_client_is_refused(trained_run: Run, card: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="give host:port of the head"):
        predict_together(trained_run.folder, [card], tmp_path / "r.json", address="ray://head:10001", **ASKED)


def test_a_damaged_list_of_pictures_is_refused(trained_run: Run, card: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results.json.shards"
    shards.make_plan(folder, {"batch": BATCH}, PictureWalk([card]), SHARD)
    plan = shards.open_plan(folder)
    assert (plan.pictures, len(plan.shards), plan.left_out.videos) == (42, 6, 1)
    names = [name for unit in plan.shards for name in shards.unpack(unit.names)]
    assert names == list(map(str, PictureWalk([card])))
    os.truncate(folder / "plan.gz", (folder / "plan.gz").stat().st_size - 9)
    with pytest.raises(JournalError, match=r"plan\.gz: is damaged .*; delete .* to begin anew"):
        shards.open_plan(folder)


@pytest.mark.parametrize(
    "path, expected",
    [
        ("s3://bucket/site 7", True),
        ("file:///cards", True),
        ("cards/7", False),
        ("C://cards", False),
        ("/cards/a://b", False),
        (Path("s3://bucket"), False),
    ],
)
def test_what_is_an_address(path: Path | str, expected: bool) -> None:
    assert is_address(path) is expected


@needs_store
def test_a_store_is_listed_like_a_folder(card: Path) -> None:
    walk, there = StoreWalk(Store([f"file://{card}"])), PictureWalk([card])
    (card / "a").mkdir(exist_ok=True)
    (card / "a" / ".hidden.jpg").touch()
    assert list(walk) == [f"file://{path}" for path in there]
    assert (walk.left_out.videos, walk.left_out.others) == (there.left_out.videos, there.left_out.others)
    assert walk.left_out.first_video == Path(f"file://{card}/film.mp4")
    assert walk.root == Path(f"file://{card}")


@needs_store
def test_addresses_named_twice_are_listed_once(card: Path) -> None:
    picture = f"file://{card}/Site A/001.JPG"
    walk = StoreWalk(Store([f"file://{card}/Site A", picture, f"file://{card}/Site A/"]))
    assert list(walk).count(picture) == 1
    assert StoreWalk(Store([picture])).root == Path(f"file://{card}/Site A")


@needs_store
@pytest.mark.parametrize(
    "paths, error, words",
    [
        pytest.param(["file:///no/such/folder"], FileNotFoundError, "no such picture or folder", id="nothing there"),
        pytest.param(["nonsense://bucket/a"], StoreError, "no store can be reached by that", id="an unknown scheme"),
        pytest.param(["file:///cards", "cards"], ValueError, "some are in a store and some are not", id="a mixture"),
    ],
)
def test_addresses_that_cannot_be_used(paths: list, error: type, words: str, trained_run: Run, tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        predict_together(trained_run.folder, paths, tmp_path / "results.json", **ASKED)


@needs_store
def test_pictures_in_a_store_are_not_handled(trained_run: Run, card: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pictures in a store cannot be drawn on"):
        predict_together(
            trained_run.folder,
            [f"file://{card}"],
            tmp_path / "results.json",
            handling=Handling(draw_into=tmp_path / "drawn"),
            **ASKED,
        )
