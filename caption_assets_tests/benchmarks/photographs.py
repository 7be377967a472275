"""Files like photographs, made from numbers: a spectrum that falls like nature's, with sharp shapes before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg

_DISTINCT = 100
"""So many are drawn; the others are these, turned upside down, mirrored or shifted."""


def write_photographs(folder: Path, count: int, seed: int = 7) -> list[Path]:
    """JPEGs of 1.2 to 2.7 megapixels, 3:2 and 2:3, some 300 KB each; what is there already is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:05d}.jpg" for number in range(count)]
    rng = np.random.default_rng(seed)
    for first in range(0, count, -(-count // _DISTINCT)):
        group = files[first : first + -(-count // _DISTINCT)]
        scene = None if all(file.exists() for file in group) else _scene(rng)
        for number, file in enumerate(group):
            if not file.exists() and scene is not None:
                shifted = np.roll(scene, 8 * number, axis=(0, 1))
                quality = int(rng.integers(80, 93))
                file.write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(shifted), quality, "RGB", "420"))
    return files


def _scene(rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.uint8]]:
    height = int(np.sqrt(rng.uniform(1.2e6, 2.7e6) / 1.5))
    width = height * 3 // 2
    if rng.random() < 0.3:
        height, width = width, height
    slope, colour = rng.uniform(1.25, 1.6), rng.uniform(5, 25)
    light, first, second = (_plane(rng, height, width, each) for each in (slope, slope + 0.4, slope + 0.4))
    planes = [128 + 50 * light + colour * shade for shade in (first, 0.5 * second - 0.5 * first, -second)]
    image = np.clip(np.stack(planes, -1), 0, 255).astype(np.uint8)
    for _ in range(rng.integers(4, 20)):
        paint = tuple(int(value) for value in rng.integers(0, 256, 3))
        x, y, size = int(rng.integers(width)), int(rng.integers(height)), int(rng.integers(10, width // 5))
        if rng.random() < 0.5:
            cv2.circle(image, (x, y), size, paint, -1, cv2.LINE_AA)
        else:
            cv2.rectangle(image, (x, y), (x + size, y + size), paint, int(rng.integers(1, 8)))
    return image


def _plane(rng: np.random.Generator, height: int, width: int, slope: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Noise whose amplitude falls with the frequency to the power of `slope`; mean 0, deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = 1.0
    spectrum = rng.standard_normal(frequency.shape) + 1j * rng.standard_normal(frequency.shape)
    plane = np.fft.irfft2(spectrum / frequency**slope, s=(height, width))
    return (plane - plane.mean()) / plane.std()
