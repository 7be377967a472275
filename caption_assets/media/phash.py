"""Perceptual hashes: 64 bits that are alike for pictures that look alike.

The hash is `imagehash.phash`'s, bit for bit but where two frequencies are equal. That library loads scipy for it, which
costs half a second and 30 MB, and holds the interpreter for so long that the other decoders wait.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_SIDE = 32
"""Of the square that the frequencies are taken of, in pixels."""
_LOWEST = 8
"""How many frequencies of a direction count."""
_DECIMALS = 6
"""Frequencies nearer to each other than this are equal: what differs is rounding, not the picture."""
_SCALES = np.ones((_LOWEST, _LOWEST))
_SCALES[0] *= np.sqrt(2)
_SCALES[:, 0] *= np.sqrt(2)
"""What an orthonormal transform's first row and column lack against the others."""


def perceptual_hash(luma: NDArray[np.uint8]) -> str:
    """Hash a picture's luma, (height, width): 16 hex digits.

    Bit k, from the highest, says whether frequency k (row by row, the mean first) of the 8 x 8 lowest of the luma's
    unnormalised cosine transform (DCT-II) at 32 x 32 is above their median: pHash, after Zauner, "Implementation and
    Benchmarking of Perceptual Image Hash Functions" (2010), with the mean kept, as imagehash does.
    """
    square = cv2.resize(luma, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    frequencies = np.asarray(cv2.dct(square.astype(np.float64)))[:_LOWEST, :_LOWEST]
    lowest = (frequencies * _SCALES).ravel().round(_DECIMALS)
    ordered = sorted(lowest.tolist())  # where there are so few, sooner than numpy
    middle = len(ordered) // 2
    return np.packbits(lowest > (ordered[middle - 1] + ordered[middle]) / 2).tobytes().hex()
