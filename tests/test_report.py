"""Is the report one sound, self-contained page, whoever wrote the names in it?"""

from __future__ import annotations

import json
import shlex
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image as Pillow

from ena24ssd.anchors import Anchors
from ena24ssd.config import RunConfig, change_config, check_config, read_config
from ena24ssd.exploration import examine, read_for_exploration
from ena24ssd.plots import PLOTS
from ena24ssd.report import explore, overrides, render, snippet

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "img", "source", "br"}


class Page(HTMLParser):
    """The elements of a page, its text, and whether every element is closed in its turn."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.source = source
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def write(
    folder: Path, species: dict[str, int], *, blanks: int = 0, pictures: bool = True, names: str = "{}.jpg"
) -> Path:
    """A dataset folder with so many pictures of each species, one box on each."""
    folder.mkdir(exist_ok=True)
    images, annotations = [], []
    for category, count in enumerate([*species.values(), blanks]):
        for _ in range(count):
            number = len(images)
            images.append({"id": number, "file_name": names.format(number), "width": 160, "height": 120})
            if category < len(species):
                box = [5 + number % 50, 10, 20 + 3 * (number % 20), 30]
                annotations.append({"id": number, "image_id": number, "category_id": category, "bbox": box})
            if pictures:
                Pillow.new("RGB", (160, 120), (40, 90 + number % 90, 60)).save(folder / names.format(number))
    categories = [{"id": number, "name": name} for number, name in enumerate(species)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "data.json").write_text(json.dumps(document))
    return folder


def page_of(folder: Path, **changes) -> Page:
    """The page without plots, which take most of the time and are tested by themselves."""
    config = change_config(RunConfig(), {"data.path": folder, **changes})
    source, has_pictures = read_for_exploration(config)
    return Page(render(examine(source, config, sample=10 if has_pictures else 0), {}, {}, None))


@pytest.mark.parametrize(
    ("species", "more", "says"),
    [
        ({"deer": 1}, {}, "There is one species"),
        ({"deer": 0}, {"blanks": 3}, "No picture has a box."),
        ({"deer": 30, "fox": 2}, {"blanks": 2}, "deer has 30 boxes, fox 2."),
        ({"deer": 4}, {"pictures": False}, "No picture was looked at"),
        ({f"species {k}": 1 for k in range(60)}, {"pictures": False}, "species 59"),
    ],
    ids=["one picture", "only blanks", "two species", "the json alone", "60 species"],
)
def test_a_report_of_whatever_there_is(tmp_path, species, more, says):
    assert says in page_of(write(tmp_path, species, **more)).text


@pytest.fixture(scope="module")
def written(scenes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("explored")
    explore(out, change_config(RunConfig(), {"data.path": scenes}), sample=20, quiet=True)
    return out


def test_what_is_written(written):
    assert sorted(path.name for path in written.iterdir()) == ["plots", "report.html"]
    files = sorted((written / "plots").iterdir())
    assert {file.stem for file in files} == {*PLOTS, "samples"}
    for file in files:
        with Pillow.open(file) as picture:
            picture.load()
    page = Page((written / "report.html").read_text("utf-8"))
    assert sum(tag == "img" for tag, _ in page.elements) == len(files)
    assert "infrared" in page.text and "6 cameras" in page.text


def test_one_file_without_scripts_or_requests(written):
    page = Page((written / "report.html").read_text("utf-8"))
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "form", "a", "base"}
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "data:image/").startswith("data:image/"), (tag, name)
    assert "url(" not in page.source and "@import" not in page.source and "http:" not in page.source
    policy = [each["content"] for _, each in page.elements if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert len(page.source) < 4_000_000
    assert all(attributes["alt"] for tag, attributes in page.elements if tag == "img")


def test_without_pictures_and_without_boxes_there_is_a_report_too(tmp_path):
    folder = write(tmp_path / "data", {"deer": 0}, blanks=2, pictures=False)
    earlier = tmp_path / "out" / "plots" / "species.png"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"of other data")
    config = change_config(RunConfig(), {"data.path": folder})
    found = explore(tmp_path / "out", config, quiet=True)
    assert found.light is None and found.blanks == 2
    assert [path.name for path in (tmp_path / "out" / "plots").iterdir()] == ["boxes-per-picture.png"]
    with pytest.raises(ValueError, match="must be 1 at least"):
        explore(tmp_path / "out", config, sample=0)


@pytest.mark.parametrize("name", [EVIL, "\"><img src=x onerror='1'>", "{{ 7 * 7 }}", "{% for %}"])
def test_names_from_the_file_are_only_text(tmp_path, name):
    page = page_of(write(tmp_path, {name: 3, "deer": 0, name + "!": 0}, pictures=False))
    assert name in "".join(page.words)
    assert "script" not in {tag for tag, _ in page.elements}
    assert not any("onerror" in attributes for _, attributes in page.elements)


def test_file_names_are_only_text_too(tmp_path):
    names = "<b onclick=1>{}.jpg"
    folder = write(tmp_path, {"deer": 3}, names=names)
    (folder / names.format(1)).write_bytes(b"no picture")
    page = page_of(folder)
    assert names.format(1) in page.text and "1 could not be read" in page.text
    assert not any("onclick" in attributes for _, attributes in page.elements)


def test_the_snippet_is_a_config(tmp_path):
    page = page_of(write(tmp_path, {"deer": 40}, pictures=False), **{"model.sizes": [0.9]})
    levels = (Anchors(13, (0.2, 0.1), (1.0, 0.74)),)
    for pasted in (check_config(yaml.safe_load(snippet(levels))), read_config(None, shlex.split(overrides(levels)))):
        assert (pasted.model.sizes, pasted.model.ratios) == ((0.2, 0.1), (1.0, 0.74))
    assert "model: sizes: [" in page.text and "paste this into your config file" in page.text


PYRAMID = {"model.backbone": "efficientnet_lite0", "data.image_side": 64, "model.levels": [16, 32]}


@pytest.mark.parametrize("ratios", [((1.0, 0.5),) * 2, ((1.0, 0.5), (2.0, 0.3))], ids=["shared", "of their own"])
def test_anchors_of_several_levels_can_be_pasted(ratios):
    levels = (Anchors(8, (0.2, 0.1), ratios[0]), Anchors(4, (0.4, 0.5), ratios[1]))
    network = {**PYRAMID, "model.sizes": [[0.3], [0.4]]}
    own = [f"{name}={value}" for name, value in network.items()]
    for pasted in (
        change_config(
            RunConfig(), {**network, **{f"model.{k}": v for k, v in yaml.safe_load(snippet(levels))["model"].items()}}
        ),
        read_config(None, [*own, *shlex.split(overrides(levels))]),
    ):
        assert [(level.sizes, level.ratios) for level in pasted.model.anchors] == [level[1:] for level in levels]
    assert " " not in overrides(levels).replace("' '", ""), "each is one word"


def test_several_levels_have_a_table_and_small_animals_are_judged_by_the_finest(tmp_path):
    folder = write(tmp_path, {"deer": 40}, pictures=False)
    page = page_of(folder, **PYRAMID, **{"model.sizes": [[0.3], [0.4]], "model.ratios": [1]})
    assert "distance between two cells of the network's finest feature map" in page.text
    assert "narrower than 16 pixels" in page.text
    assert "these grids of 4 x 4, 2 x 2 cells" in page.text
    assert "pixels a cell" in page.text and "sizes: [[" in page.text
    alone = page_of(folder)
    assert "narrower than 16 pixels, the distance between two cells of the network:" in alone.text
    assert "this grid of 13 x 13 cells" in alone.text and "pixels a cell" not in alone.text


def test_the_worst_species_is_named_and_marked(tmp_path):
    page = page_of(write(tmp_path, {"deer": 25, "fox": 25}, pictures=False), **{"model.sizes": [1.0]})
    assert "Worst off is" in page.text
    assert [attributes.get("class") for tag, attributes in page.elements if tag == "tr"].count("worst") == 1


def test_the_same_data_give_the_same_page(tmp_path):
    folder = write(tmp_path, {"deer": 3})
    assert page_of(folder).source == page_of(folder).source
