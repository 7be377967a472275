"""How bright and how sharp a picture is, in numbers that compare between pictures of all sizes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from caption_assets.media.pixels import Pixels

_SIDE = 256


@dataclass(frozen=True)
class Quality:
    """Two measures of a picture's luma Y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""

    brightness: float
    """Its mean, 0 (black) to 1 (white)."""
    blur: float
    """The variance of its Laplacian: higher is sharper; 0 is one colour."""


def small_luma(pixels: Pixels) -> NDArray[np.uint8]:
    """The luma of RGB values, averaged down by two until the longer side is at most 256."""
    luma = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    while max(luma.shape) > _SIDE:
        height, width = (max(1, side // 2) for side in luma.shape)
        even = luma[: max(1, 2 * (luma.shape[0] // 2)), : max(1, 2 * (luma.shape[1] // 2))]
        luma = np.asarray(cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    return luma


def measure(luma: NDArray[np.uint8]) -> Quality:
    """Measure what `small_luma` made, (height, width).

    In levels of 0 to 255, blur is var(L) over all pixels of
    L(x, y) = Y(x-1, y) + Y(x+1, y) + Y(x, y-1) + Y(x, y+1) - 4 Y(x, y), edges repeated: the measure LAPV of
    Pertuz, Puig and Garcia, "Analysis of focus measure operators for shape-from-focus", Pattern Recognition 46 (2013),
    after Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy" (ICPR 2000). At one size for all, what
    counts is sharpness as seen in the whole picture, not the noise of single pixels.
    """
    laplacian = cv2.Laplacian(luma, cv2.CV_16S, borderType=cv2.BORDER_REPLICATE)
    (_,), (deviation,) = cv2.meanStdDev(laplacian)
    return Quality(brightness=cv2.sumElems(luma)[0] / luma.size / 255, blur=float(deviation[0]) ** 2)
