"""What may be changed without changing the truth?

Every function takes and returns a batch's arrays; boxes follow their pixels. Nothing is changed in place.
"""

from __future__ import annotations

import numpy as np


def flip(images: np.ndarray, truth: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror the ``chosen`` pictures left to right.

    Parameters: ``images`` (B, S, S, 3); ``truth`` (B, M, 5) unit corners, rows of -1 are padding; ``chosen`` (B,) bool.
    """
    images, truth = images.copy(), truth.copy()
    images[chosen] = images[chosen, :, ::-1]
    mirrored = truth[chosen]
    real = mirrored[..., 0] >= 0
    mirrored[real] = np.stack(
        [mirrored[real, 0], 1 - mirrored[real, 3], mirrored[real, 2], 1 - mirrored[real, 1], mirrored[real, 4]], axis=-1
    )
    truth[chosen] = mirrored
    return images, truth
