"""How bright and how sharp a picture is, in numbers that compare between pictures of all sizes."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from caption_assets.media.pixels import Pixels

_SIDE = 256


@dataclass(frozen=True)
class Quality:
    """Two measures of a picture's luma Y = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601)."""

    brightness: float
    """Its mean, 0 (black) to 1 (white)."""
    blur: float
    """The variance of its Laplacian: higher is sharper; 0 is one colour."""


def measure(pixels: Pixels) -> Quality:
    """Measure RGB values, (height, width, 3).

    The luma is averaged down by the least whole factor that makes the longer side at most 256 pixels. Then, in levels
    of 0 to 255, blur is var(L) over all pixels of
    L(x, y) = Y(x-1, y) + Y(x+1, y) + Y(x, y-1) + Y(x, y+1) - 4 Y(x, y), edges repeated: the measure LAPV of
    Pertuz, Puig and Garcia, "Analysis of focus measure operators for shape-from-focus", Pattern Recognition 46 (2013),
    after Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy" (ICPR 2000). At one size for all, what
    counts is sharpness as seen in the whole picture, not the noise of single pixels.
    """
    luma = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    factor = -(-max(luma.shape) // _SIDE)
    small = np.asarray(Image.fromarray(luma).reduce(factor) if factor > 1 else luma, np.float32)
    laplacian = cv2.Laplacian(small, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE)
    return Quality(brightness=float(small.mean(dtype=np.float64)) / 255, blur=float(laplacian.var(dtype=np.float64)))
