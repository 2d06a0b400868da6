"""How does a person get to see what was found, without installing anything?

`explore` measures a dataset and writes one HTML file that holds everything, pictures included, and the same plots as
PNG files (`ena24ssd.pages` says what such a page is).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image as Pillow
from tqdm import tqdm

from ena24ssd.anchors import Anchors, as_choices
from ena24ssd.charts import DARK, LIGHT, MOST_ROWS
from ena24ssd.config import RunConfig
from ena24ssd.exploration import BORDER, FEW, Exploration, Species, examine, read_for_exploration
from ena24ssd.files import replace_file
from ena24ssd.pages import encode, render_page, write_plots
from ena24ssd.plots import PLOTS, draw_plots, draw_samples

POOR = 0.5  # share of its boxes below which a species' coverage is marked
ENOUGH = 300  # boxes; anchors suggested for fewer may suit these very pictures only
LOSS = 0.02  # share of its boxes that a species must lose by the suggestion to be warned of


def explore(
    out: Path, config: RunConfig, *, sample: int = 500, json_alone: bool = False, quiet: bool = False
) -> Exploration:
    """Look at a dataset as a network of ``config`` would; write ``out/report.html`` and ``out/plots/*.png``.

    Parameters: ``sample``, how many pictures to decode at most to tell night from day. ``json_alone``: do not look for
    pictures; where there are none near the json, and ``config.data.pictures`` names no folder, that is what happens
    anyway, and the report says so. ``quiet``: no progress bar.

    Raises AnnotationError where the annotations cannot be used, ValueError for a sample below 1.
    """
    if sample < 1:
        raise ValueError(f"sample is {sample}; it must be 1 at least. To look at no picture, read the json alone")
    source, has_pictures = read_for_exploration(config, json_alone=json_alone)

    def progress(jobs: Iterable) -> Iterable:
        return tqdm(jobs, "looking", leave=False, unit="picture", disable=quiet or None)

    found = examine(source, config, sample=sample if has_pictures else 0, progress=progress)
    samples = draw_samples(found) if has_pictures else None
    write_report(out, found, samples)
    return found


def write_report(out: Path, found: Exploration, samples: Pillow.Image | None = None) -> None:
    """Write ``out/report.html`` and ``out/plots/*.png``; ``samples``, drawn pictures to show."""
    light, dark = draw_plots(found, LIGHT), draw_plots(found, DARK)
    files = dict(light)
    if samples is not None:
        files["samples"] = encode(samples, "PNG")
    write_plots(out / "plots", files, [*PLOTS, "samples"])
    replace_file(out / "report.html", render(found, light, dark, samples))


def render(found: Exploration, light: dict[str, bytes], dark: dict[str, bytes], samples: Pillow.Image | None) -> str:
    """The report as one HTML page; ``light`` and ``dark`` hold the plots as PNG files by name."""
    return render_page(
        "explore.html",
        light,
        dark,
        found=found,
        dataset=found.dataset,
        samples=samples,
        snippet=snippet(found.anchors.suggested) if found.anchors else "",
        least=min(measured(found), key=lambda row: row.covered, default=None),
        few=FEW,
        drawn=MOST_ROWS,
        enough=ENOUGH,
        poor=POOR,
        border=BORDER,
        small_share=narrower(found, found.anchors.strides[0]) if found.anchors else 0.0,
        losers=[row for row in measured(found) if row.suggested < row.covered - LOSS],
        unseen=[row.name for row in found.species if not row.boxes],
    )


def measured(found: Exploration) -> list[Species]:
    """The species with boxes enough for a share of them to mean something; all with any, where most have too few."""
    seen = [row for row in found.species if row.boxes]
    enough = [row for row in seen if row.boxes >= FEW]
    return enough if len(enough) >= len(seen) / 2 else seen


def narrower(found: Exploration, pixels: float) -> float:
    """The share of the boxes whose shorter side has fewer pixels than that in the network's square."""
    return float((found.boxes.shorter_side * found.image_side < pixels).mean())


def snippet(levels: Sequence[Anchors]) -> str:
    """The anchors as YAML for a config file."""
    lines = (f"  {name}: {_listed(values)}\n" for name, values in as_choices(levels).items())
    return "model:\n" + "".join(lines)


def overrides(levels: Sequence[Anchors]) -> str:
    """The anchors as words for a command line, quoted for a shell."""
    return " ".join(f"'model.{name}={_listed(values, ',')}'" for name, values in as_choices(levels).items())


def _listed(values: list, between: str = ", ") -> str:
    """A list of numbers, or of such lists, in the fewest digits."""
    inner = (_listed(value, between) if isinstance(value, list) else f"{value:g}" for value in values)
    return f"[{between.join(inner)}]"
