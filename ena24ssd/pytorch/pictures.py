"""How do bytes become what the network sees?

The squares of all pictures lie on the device as bytes, a gigabyte of them for ENA24. Every batch is picked from them
there, changed as `ena24ssd.changes` has drawn, and normalised. The host sends a few numbers per picture, and waits for
nothing. `ena24ssd.augment` does the same with Pillow; what is rounded to whole levels there is rounded here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ena24ssd.changes import CANVAS, DARKEST, LUMA, NEAR_INFRARED, Changes, Infrared, place_parts

BLOCK = 2**26  # bytes of squares that are on their way to the device at a time


class Squares:
    """The squares of all pictures on one device."""

    def __init__(self, pixels: np.ndarray, device: torch.device | str):
        """Copy ``pixels`` (n, S, S, 3) uint8 to the device, block by block where they are a file mapped into memory.

        Raises what torch raises (torch.OutOfMemoryError) where they do not fit.
        """
        self.pixels = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
        step = max(1, BLOCK // max(1, int(np.prod(pixels.shape[1:]))))
        for start in range(0, len(pixels), step):
            block = np.array(pixels[start : start + step])  # torch warns of arrays that it could not write to
            self.pixels[start : start + step] = torch.from_numpy(block)

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: torch.Tensor | np.ndarray) -> torch.Tensor:
        """The squares at ``rows`` (B,) int64, on the device: (B, S, S, 3) uint8.

        Raises IndexError for rows on the host that there are not; a GPU that has to notice is lost to the process.
        """
        if isinstance(rows, np.ndarray):
            if wrong := rows[(rows < 0) | (rows >= len(self))].tolist():
                raise IndexError(
                    f"squares on {self.pixels.device}: rows are 0 to {len(self) - 1}, and {wrong[0]} was asked for; "
                    "hold the pixels that the batches are of"
                )
            rows = send(rows, self.pixels.device)
        return self.pixels.index_select(0, rows)


def send(array: np.ndarray, device: torch.device, dtype: type | None = None) -> torch.Tensor:
    """A small array on its way to the device; a GPU fetches it when it is needed, and nobody waits."""
    tensor = torch.from_numpy(np.require(array, dtype, ("C", "W")))  # torch warns of arrays that it could not write to
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def normalise(
    images: torch.Tensor, mean: torch.Tensor | Sequence[float], std: torch.Tensor | Sequence[float]
) -> torch.Tensor:
    """What the network takes: levels of 255 in [0, 1], less ``mean``, divided by ``std``.

    Parameters: ``images`` (B, S, S, 3), uint8 or float32 in [0, 255]; ``mean`` and ``std`` (3,), of red, green and
    blue, as numbers or as tensors on the images' device.
    Returns (B, 3, S, S) float32 in channels_last: the bytes lie in the order of the images'.
    """
    mean, std = (
        each if isinstance(each, torch.Tensor) else send(np.array(each), images.device, np.float32)
        for each in (mean, std)
    )
    pixels = (images.permute(0, 3, 1, 2) / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    return pixels.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def render(images: torch.Tensor, changes: Changes) -> torch.Tensor:
    """The pictures (B, S, S, 3) uint8 with ``changes`` done to them where they are, in the same shape and type.

    Not for autocast: bfloat16 has no more digits than a level takes.
    """
    device = images.device
    if changes.mirrored is not None:
        mirrored = send(changes.mirrored, device).view(-1, 1, 1, 1)
        images = torch.where(mirrored, images.flip(2), images)
    if changes.infrared is None and changes.mixes is None and changes.windows is None:
        return images
    planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)  # (B, 3, S, S)
    if changes.infrared is not None:
        rows = send(changes.infrared.rows, device)
        planes[rows] = _look_infrared(planes[rows], changes.infrared)
    if changes.mixes is not None:
        planes = _recolour(planes, changes.mixes, changes.lifts)
    if changes.windows is not None:
        planes = _show(planes, changes.windows)
    return planes.permute(0, 2, 3, 1).to(torch.uint8, memory_format=torch.contiguous_format)


def _look_infrared(planes: torch.Tensor, infrared: Infrared) -> torch.Tensor:
    """Pictures (K, 3, S, S) as if taken by flash: (K, 1, S, S) whole levels."""
    device = planes.device
    lights = np.stack([infrared.falloff, infrared.gamma, infrared.exposure, infrared.grain])
    falloff, gamma, exposure, grain = send(lights[..., None, None], device)  # (K, 1, 1) each
    centres = send(infrared.centres[..., None], device, np.float32)  # (K, 2, 1)
    noise = send(infrared.noise, device)

    red, green, blue = planes.unbind(1)
    grey = _whole(NEAR_INFRARED[0] * red + NEAR_INFRARED[1] * green + NEAR_INFRARED[2] * blue)
    across, down = ((torch.linspace(0, 1, planes.shape[-1], device=device) - centres) ** 2).unbind(1)  # (K, S)
    lit = (grey / 255) ** gamma / (1 + falloff * (across[:, None, :] + down[:, :, None]))
    lit = lit * (exposure / lit.mean((1, 2), keepdim=True).clamp(min=DARKEST)) + grain * noise
    return lit.clamp(0, 255).floor()[:, None]


def _recolour(planes: torch.Tensor, mixes: np.ndarray, lifts: np.ndarray) -> torch.Tensor:
    """Red, green and blue of (B, 3, S, S) mixed anew, and the mean luma lifted: whole levels."""
    device = planes.device
    mean = _whole(_whole(planes.mean(3)).mean(2))  # (B, 3); Pillow rounds on the way as well
    added = (mean * send(lifts[:, None] * LUMA, device, np.float32)).sum(1)
    mixed = torch.baddbmm(added.view(-1, 1, 1), send(mixes, device, np.float32), planes.flatten(2))
    return _whole(mixed).clamp(0, 255).view_as(planes)


def _show(planes: torch.Tensor, windows: np.ndarray) -> torch.Tensor:
    """Pictures (B, 3, S, S) seen through their windows: whole levels.

    Every row and column of the square is a weighted sum of the picture's, with the weights of Pillow's bilinear filter:
    a triangle round the place where it comes from, two pixels wide, or wider as far as the picture shrinks.
    """
    side, device = planes.shape[-1], planes.device
    parts, places = (each.reshape(-1, 2, 2) for each in place_parts(windows, side))  # (B, corner, x and y)
    scale = (parts[:, 1] - parts[:, 0]) / (places[:, 1] - places[:, 0])  # pixels of the picture in one of the square
    lines = np.stack([parts[:, 0] - scale * places[:, 0], scale, places[:, 0], places[:, 1]])
    origin, scale, start, end = send(lines[..., None], device, np.float32)  # (B, 2, 1) each

    middles = torch.arange(side, device=device) + 0.5
    distance = (middles - (origin + scale * middles)[..., None]).abs()  # (B, 2, S of the square, S of the picture)
    weights = (1 - distance / scale[..., None].clamp(min=1)).clamp(min=0)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)  # outside of the picture, all may be 0
    across, down = weights[:, :1], weights[:, 1:]  # (B, 1, S, S), for all three colours
    seen = _whole(down @ _whole(planes @ across.mT))

    inside = (start < middles) & (middles < end)  # (B, 2, S)
    inside = inside[:, :1, None, :] & inside[:, 1:, :, None]  # (B, 1, S, S)
    return torch.where(inside, seen, send(np.array(CANVAS), device, np.float32).view(3, 1, 1))


def _whole(levels: torch.Tensor) -> torch.Tensor:
    """The nearest whole levels; halves go up, as in Pillow."""
    return (levels + 0.5).floor()
