"""Pictures without objects: gradients, patterns, and "mixed pictures", which stand in for photographs.

A mixed picture is made of what photographs are made of, without showing anything: clouds of fractal noise, soft
blobs, blurred regions of a palette, horizons, shading, vignettes and grain, in very different colours and exposures.
"""

import random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from caption_assets.demo.vocabulary import BACKGROUNDS, OBJECT_COLORS, Rgb

Floats = NDArray[np.float32]


def jitter(color: Rgb, rng: random.Random, amount: int) -> Rgb:
    """A colour near the given one: each channel moves by at most `amount`."""
    red, green, blue = (int(max(0, min(255, value + rng.uniform(-amount, amount)))) for value in color)
    return red, green, blue


def gradient_or_pattern(kind: str, first: Rgb, second: Rgb, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A gradient from the first colour to the second, stripes or a checkerboard of both."""
    width, height = size
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    if kind == "horizontal gradient":
        share = np.broadcast_to(x, (height, width))
    elif kind == "vertical gradient":
        share = np.broadcast_to(y, (height, width))
    elif kind == "striped pattern":
        axis = y if rng.random() < 0.5 else x
        share = np.broadcast_to(np.floor(axis * 2 * rng.randint(2, 5) - 1e-6) % 2, (height, width))
    else:
        cells = 2 * rng.randint(2, 3)
        share = (np.floor(x * cells - 1e-6) + np.floor(y * cells - 1e-6)) % 2
    a, b = np.array(first, np.float32), np.array(second, np.float32)
    pixels = a + (b - a) * share[..., None]
    return Image.fromarray(pixels.round().astype(np.uint8))


def fractal_noise(side: int, rng: np.random.Generator, roughness: float) -> Floats:
    """Smooth random clouds (side, side) in 0-1: octaves of upscaled noise, each `roughness` times the one before."""
    total = np.zeros((side, side), np.float32)
    weight, cells = 1.0, int(rng.integers(2, 5))
    while cells < side:
        octave = Image.fromarray(rng.random((cells, cells), dtype=np.float32))
        total += weight * np.asarray(octave.resize((side, side), Image.Resampling.BICUBIC))
        weight *= roughness
        cells *= 2
    low, high = total.min(), total.max()
    return np.asarray((total - low) / max(float(high - low), 1e-6), np.float32)


def _palette(rng: np.random.Generator) -> Floats:
    """Two to six colours, 0-255: natural (muted, dark and light) or taken from the vocabulary and shaded."""
    count = int(rng.integers(2, 7))
    named = np.array([*OBJECT_COLORS.values(), *BACKGROUNDS.values()], np.float32)
    style = rng.random()
    if style < 0.35:
        colors = named[rng.integers(0, len(named), count)] * rng.uniform(0.3, 1.15, (count, 1))
        gray = colors.mean(1, keepdims=True)
        colors = gray + (colors - gray) * rng.uniform(0.2, 1.0, (count, 1))
    elif style < 0.7:
        # one hue from shadow to light
        hue = named[rng.integers(0, len(named))]
        gray = hue.mean()
        hue = gray + (hue - gray) * rng.uniform(0.0, 1.0)
        colors = hue * np.linspace(rng.uniform(0.05, 0.5), rng.uniform(0.7, 1.5), count)[:, None]
        colors = colors + rng.uniform(-25, 25, (count, 3))
    else:
        lightness = rng.uniform(10, 245, (count, 1))
        colors = lightness + rng.normal(0, 1, (count, 3)) * rng.uniform(3, 50)
    return np.asarray(np.clip(colors, 0, 255), np.float32)


def _clouds(palette: Floats, side: int, rng: np.random.Generator) -> Floats:
    """The palette spread along fractal noise."""
    noise = fractal_noise(side, rng, float(rng.uniform(0.3, 0.8))) * (len(palette) - 1)
    low = np.minimum(noise.astype(np.int64), len(palette) - 2)
    share = (noise - low)[..., None]
    return np.asarray(palette[low] * (1 - share) + palette[low + 1] * share, np.float32)


def _regions(palette: Floats, side: int, rng: np.random.Generator) -> Floats:
    """Overlapping rectangles, ellipses and polygons of all sizes, like things seen out of focus."""
    image = Image.new("RGB", (side, side), _rgb(palette[0]))
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(4, 40))):
        color = _rgb(np.clip(palette[rng.integers(0, len(palette))] + rng.normal(0, 14, 3), 0, 255))
        x, y = rng.uniform(-0.1, 1.1, 2) * side
        half = rng.uniform(0.02, 0.45, 2) * side
        kind = rng.random()
        if kind < 0.4:
            pen.ellipse((x - half[0], y - half[1], x + half[0], y + half[1]), fill=color)
        elif kind < 0.7:
            pen.rectangle((x - half[0], y - half[1], x + half[0], y + half[1]), fill=color)
        else:
            corners = (rng.uniform(-1, 1, (int(rng.integers(3, 7)), 2)) * half + (x, y)).tolist()
            pen.polygon([(float(px), float(py)) for px, py in corners], fill=color)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 3.5)))), np.float32)


def _blobs(palette: Floats, side: int, rng: np.random.Generator) -> Floats:
    """Soft blobs on a plain or shaded ground."""
    axis = np.linspace(0, 1, side, dtype=np.float32)
    pixels = np.broadcast_to(palette[0], (side, side, 3)).copy()
    for _ in range(int(rng.integers(1, 9))):
        x, y = rng.uniform(0, 1, 2)
        spread = rng.uniform(0.05, 0.4, 2)
        falloff = np.exp(-(((axis[None, :] - x) / spread[0]) ** 2) - ((axis[:, None] - y) / spread[1]) ** 2)
        hard = np.clip(falloff * rng.uniform(1, 4), 0, 1)[..., None]
        pixels = pixels * (1 - hard) + palette[rng.integers(0, len(palette))] * hard
    return np.asarray(pixels, np.float32)


def _horizon(palette: Floats, side: int, rng: np.random.Generator) -> Floats:
    """Bands with wavy edges, like sky, hills and ground."""
    axis = np.linspace(0, 1, side, dtype=np.float32)
    wave = fractal_noise(side, rng, 0.5) * rng.uniform(0.02, 0.3)
    edges = np.sort(rng.uniform(0.1, 1.0, len(palette) - 1))
    level = axis[:, None] + wave
    band = sum((level > edge).astype(np.int64) for edge in edges)
    pixels = palette[np.asarray(band)]
    return np.asarray(pixels.transpose(1, 0, 2) if rng.random() < 0.2 else pixels, np.float32)


_LAYERS = (_clouds, _regions, _blobs, _horizon)


def _rgb(color: NDArray[np.floating]) -> Rgb:
    return int(color[0]), int(color[1]), int(color[2])


def _expose(pixels: NDArray[np.floating], rng: np.random.Generator) -> Floats:
    """Shading, vignette, gain and gamma: the spread of exposures and of low light that photographs have."""
    side = len(pixels)
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    if rng.random() < 0.5:
        shade = fractal_noise(side, rng, float(rng.uniform(0.4, 0.9)))[..., None]
        strength = rng.uniform(0.1, 0.8)
        pixels = pixels * (1 - strength + strength * shade * 1.6)
    if rng.random() < 0.4:
        radius = axis[None, :] ** 2 + axis[:, None] ** 2
        pixels = pixels * (1 - rng.uniform(0.2, 0.7) * np.clip(radius / 2, 0, 1))[..., None]
    if rng.random() < 0.5:
        pixels = 255 * np.clip(pixels / 255, 0, 1) ** np.float32(rng.uniform(0.5, 2.2))
    if rng.random() < 0.6:
        # exposure: photographs are seldom as dark as products of random factors are
        target = rng.uniform(45, 205)
        pixels = np.clip(pixels * np.float32(target / max(float(pixels.mean()), 8.0)), 0, 255)
    if rng.random() < 0.6:
        pixels = pixels + rng.normal(0, rng.uniform(1, 18), (side, side, int(rng.choice([1, 3])))).astype(np.float32)
    return np.asarray(np.clip(pixels, 0, 255), np.float32)


def mixed_picture(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    """A picture that shows nothing in particular, as varied as photographs are in colour, texture and light."""
    side = int(rng.choice([48, 64, 96, 96, 128]))
    palette = _palette(rng)
    pixels = _LAYERS[rng.integers(0, len(_LAYERS))](palette, side, rng)
    if rng.random() < 0.6:
        other = _LAYERS[rng.integers(0, len(_LAYERS))](palette if rng.random() < 0.5 else _palette(rng), side, rng)
        mask = fractal_noise(side, rng, 0.5)
        edge = rng.uniform(0.3, 0.7)
        mask = np.clip((mask - edge) * rng.uniform(2, 30) + 0.5, 0, 1)
        pixels = pixels * (1 - mask[..., None]) + other * mask[..., None]
    image = Image.fromarray(_expose(pixels, rng).round().astype(np.uint8))
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.5))))
    return image.resize(size, Image.Resampling.BICUBIC)
