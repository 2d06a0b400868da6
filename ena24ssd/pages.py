"""How do figures and pictures become one page that any browser shows, and any day later still?

A page is one HTML file that holds everything, pictures included: no scripts, and nothing asked of any server. Names
come from files that anybody may have written, so everything is escaped, and the page forbids its browser to load or
run anything (its Content-Security-Policy).
"""

from __future__ import annotations

import base64
import io
import math
import unicodedata
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image as Pillow

from ena24ssd.files import replace_file

QUALITY = 82  # of photographs in a page, JPEG
UNKNOWN = "\N{EN DASH}"  # what stands for a figure that has no meaning
REPLACED = "\N{REPLACEMENT CHARACTER}"  # what stands for a sign that steers
PERCENT = "\N{NO-BREAK SPACE}%"


def render_page(template: str, light: Mapping[str, bytes], dark: Mapping[str, bytes], **values: Any) -> str:
    """A template of this package, filled in.

    Parameters: ``light`` and ``dark``, the plots as PNG files by name, for either kind of screen; ``values``, what the
    template names. Text is escaped, whatever it holds.
    """
    environment = Environment(
        loader=FunctionLoader(_read_template),
        autoescape=True,
        undefined=StrictUndefined,
        lstrip_blocks=True,
        finalize=_readable,
    )
    environment.filters |= {"count": "{:,}".format, "percent": percent, "two": two_digits, "photograph": photograph}
    environment.tests |= {"known": is_known}
    bright, dim = ({name: to_uri(png, "png") for name, png in plots.items()} for plots in (light, dark))
    return environment.get_template(template).render(light=bright, dark=dim, **values)


def write_plots(folder: Path, plots: Mapping[str, bytes], names: Iterable[str]) -> None:
    """Write ``plots`` as ``folder/<name>.png``; those of ``names`` that are not among them were left by earlier data
    and go.
    """
    for name in names:
        path = folder / f"{name}.png"
        if name in plots:
            replace_file(path, plots[name])
        else:
            path.unlink(missing_ok=True)


def percent(share: float) -> str:
    """12 %, 1.2 %, 0.05 %; never 0 % for some, nor 100 % for not quite all; a dash for NaN."""
    if not is_known(share):
        return UNKNOWN
    value = share * 100
    if 99 < value < 100:
        return f"{min(value, 99.9):.1f}{PERCENT}"
    if value >= 9.95 or abs(value - round(value)) < 1e-9:
        return f"{value:.0f}{PERCENT}"
    return f"{value:.1f}{PERCENT}" if value >= 0.95 else f"{value:.2g}{PERCENT}"


def two_digits(value: float) -> str:
    """0.83; a dash for NaN."""
    return f"{value:.2f}" if is_known(value) else UNKNOWN


def is_known(value: float | None) -> bool:
    """Whether there is such a figure: it is neither None nor NaN."""
    return value is not None and not math.isnan(value)


def photograph(picture: Pillow.Image) -> str:
    """A picture as the address of itself, JPEG."""
    return to_uri(encode(picture, "JPEG", quality=QUALITY), "jpeg")


def to_uri(content: bytes, kind: str) -> str:
    """An encoded picture as the address of itself; ``kind`` is png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def encode(picture: Pillow.Image, kind: str, **options: int) -> bytes:
    """The picture as a file of this kind."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _readable(value: Any) -> Any:
    """Text without what would turn the sentences round it, or beep."""
    if isinstance(value, str) and not isinstance(value, Markup):
        steers = (letter not in "\n\t" and unicodedata.category(letter) in ("Cc", "Cf") for letter in value)
        return "".join(REPLACED if bad else letter for letter, bad in zip(value, steers))
    return value


def _read_template(name: str) -> str:
    return (resources.files("ena24ssd") / "templates" / name).read_text("utf-8")
