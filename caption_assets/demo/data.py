"""Training batches: pictures with three packed perspectives each, and text-only syntheses filling the free places.

A row is a sequence of segments. An image row starts with the image prefix, which the three segments behind it see,
besides themselves; their positions all continue from the prefix's end, as if each stood alone behind the picture.
A synthesis segment sees itself only and its positions start at 0.

Training pictures have seeds of their own ("train/..."), evaluation and generated folders use others ("scenes/...").
"""

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from caption_assets.demo import network
from caption_assets.demo.answers import IMAGE_PERSPECTIVES, SYNTHESIS, Answer, image_answers, synthesize, to_json
from caption_assets.demo.colors import COLOR_NAMES, name_pixels
from caption_assets.demo.prompts import image_prompt, synthesis_prompt, vary
from caption_assets.demo.scenes import MAX_SIDE, Scene, make_picture, object_scene, random_size
from caption_assets.demo.tokenizer import ASSISTANT, BOS, EOS, IMAGE, IMAGE_EDGE, USER, token_id
from caption_assets.demo.tokenizer import IMAGE_START as IMAGE_START_TOKEN
from caption_assets.demo.vocabulary import (
    BACKGROUNDS,
    COLUMNS,
    LIGHTS,
    NUMBER_WORDS,
    OBJECT_COLORS,
    ROWS,
    SHAPES,
    SIZES,
)

ROW_LENGTH: Final = 272
PATCH_CLASSES: Final = len(OBJECT_COLORS) * len(SHAPES) + len(BACKGROUNDS) + len(COLOR_NAMES)
TEXTURE_SHARE, MIXED_SHARE = 0.1, 0.2
_NO_SEGMENT: Final = -1
_PREFIX: Final = 0

_FREE_WORDS: Final = (
    *OBJECT_COLORS,
    *BACKGROUNDS,
    *SHAPES,
    *SIZES,
    *ROWS,
    *COLUMNS,
    *LIGHTS,
    *NUMBER_WORDS[1:5],
    *("a", "an", "and", "at", "from", "mostly", "of", "on", "the", "to"),
    *("background", "box", "caption", "checkerboard", "count", "gradient", "image", "label", "name", "notes"),
    *("object", "objects", "pattern", "percent", "picture", "sentence", "tags"),
)


def model_pixels(image: Image.Image, resample: Image.Resampling = Image.Resampling.LANCZOS) -> NDArray[np.float32]:
    """A picture as the Idefics3 processor gives it to the network: (3, 96, 96) in -1..1.

    The processor first scales the longer side to 96 and then, for pictures that are not square, stretches.
    """
    side = network.IMAGE_SIDE
    width, height = image.size
    if width >= height:
        width, height = side, int(side / (width / height))
        height += height % 2
    else:
        width, height = int(side * (width / height)), side
        width += width % 2
    image = image.convert("RGB").resize((max(1, width), max(1, height)), resample)
    if image.size != (side, side):
        image = image.resize((side, side), resample)
    return np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1.0


@dataclass(frozen=True)
class PatchTruth:
    """What each of the 64 patches shows: a class, and for objects (centre x, centre y, width, height), else -1."""

    classes: NDArray[np.int64]
    boxes: NDArray[np.float32]


def patch_truth(scene: Scene, pixels: NDArray[np.float32]) -> PatchTruth:
    """Labels for the loss per patch, which teaches the vision layers long before captions can."""
    grid = network.GRID
    boxes = np.full((grid, grid, 4), -1.0, np.float32)
    first_color = len(OBJECT_COLORS) * len(SHAPES) + len(BACKGROUNDS)
    if scene.texture is not None:
        blocks = pixels.reshape(3, grid, network.PATCH, grid, network.PATCH).mean((2, 4))
        colors = ((blocks + 1) * 127.5).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
        return PatchTruth((first_color + name_pixels(colors)).reshape(-1), boxes.reshape(-1, 4))
    ground = len(OBJECT_COLORS) * len(SHAPES) + list(BACKGROUNDS).index(scene.background)
    classes = np.full((grid, grid), ground, np.int64)
    centers = (np.arange(grid) + 0.5) / grid
    for shown in scene.objects:
        x0, y0, x1, y1 = shown.box
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        hit = ((centers > y0) & (centers < y1))[:, None] & ((centers > x0) & (centers < x1))[None, :]
        hit[min(grid - 1, int(y * grid)), min(grid - 1, int(x * grid))] = True
        classes[hit] = list(OBJECT_COLORS).index(shown.color) * len(SHAPES) + SHAPES.index(shown.shape)
        boxes[hit] = (x, y, x1 - x0, y1 - y0)
    return PatchTruth(classes.reshape(-1), boxes.reshape(-1, 4))


@dataclass
class Row:
    """A row being filled; `targets` marks the tokens to be predicted."""

    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    targets: list[bool] = field(default_factory=list)
    sees_prefix: list[bool] = field(default_factory=list)
    count: int = 0

    def add(self, prompt: list[int], answer: list[int], start: int) -> None:
        """Append a segment whose positions start at `start`; 0 makes it independent of any picture."""
        self.count += 1
        length = len(prompt) + len(answer)
        self.tokens += prompt + answer
        self.positions += range(start, start + length)
        self.segments += [self.count] * length
        self.targets += [False] * len(prompt) + [True] * len(answer)
        self.sees_prefix += [start > 0] * length


@dataclass(frozen=True)
class Batch:
    """Tensors of one step: see DemoNetwork.forward; targets (rows, length) marks what to predict."""

    image_rows: int

    pixels: Tensor
    tokens: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    patch_classes: Tensor
    patch_boxes: Tensor


class BatchMaker:
    """Draws scenes and packs them. Every process of a training run draws other seeds."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, pictures: int, syntheses: int, silent: int = 0) -> None:
        self.pictures, self.syntheses, self.silent = pictures, syntheses, silent
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self._bos, self._user, self._assistant, self._eos, self._image, edge, start = (
            token_id(tokenizer, token) for token in (BOS, USER, ASSISTANT, EOS, IMAGE, IMAGE_EDGE, IMAGE_START_TOKEN)
        )
        self.prefix = [self._bos, self._user, edge, start, *[self._image] * network.IMAGE_TOKENS, edge]
        if self.prefix.index(self._image) != network.IMAGE_START:
            raise ValueError("the network and the prompt disagree on where the image tokens stand")

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        return [int(token) for token in self._tokenizer.encode(text, add_special_tokens=False)]

    def _encode_prompt(self, text: str) -> list[int]:
        if text not in self._cache:
            if len(self._cache) > 5000:
                self._cache.clear()
            self._cache[text] = self.encode(text)
        return self._cache[text]

    def _image_row(self, answers: dict[str, Answer], rng: random.Random) -> Row:
        start = len(self.prefix)
        row = Row(list(self.prefix), list(range(start)), [_PREFIX] * start, [False] * start, [True] * start)
        for name in rng.sample(IMAGE_PERSPECTIVES, len(IMAGE_PERSPECTIVES)):
            prompt = [*self._encode_prompt(vary(name, image_prompt(name), rng)), self._assistant]
            answer = [*self.encode(to_json(answers[name])), self._eos]
            if len(row.tokens) + len(prompt) + len(answer) <= ROW_LENGTH:
                row.add(prompt, answer, start)
        return row

    def _synthesis(self, answers: list[dict[str, Answer]], rng: random.Random) -> tuple[list[int], list[int]]:
        inputs = synthesis_inputs(answers, rng)
        prompt = [self._bos, self._user, *self.encode(vary(SYNTHESIS, synthesis_prompt(inputs), rng)), self._assistant]
        return prompt, [*self.encode(to_json(synthesize(inputs))), self._eos]

    def make(self, seed: str) -> Batch:
        """The batch of a seed."""
        rng = random.Random(f"batch/{seed}")
        pixels: list[NDArray[np.float32]] = []
        truths: list[PatchTruth] = []
        rows: list[Row] = []
        known: list[dict[str, Answer]] = []
        for index in range(self.pictures):
            picture = make_picture(f"train/{seed}/{index}", _training_size(rng), TEXTURE_SHARE, MIXED_SHARE)
            pixels.append(model_pixels(_disturb(picture.image, rng), _resample(rng)))
            truths.append(patch_truth(picture.scene, pixels[-1]))
            known.append(image_answers(picture.scene))
            rows.append(self._image_row(known[-1], rng))
        # copying is learnt from many different texts, and a scene that nobody paints is cheap
        known += [image_answers(object_scene(rng, (network.IMAGE_SIDE,) * 2)) for _ in range(self.syntheses)]
        texts = [self._synthesis(known, rng) for _ in range(self.syntheses)]
        for prompt, answer in sorted(texts, key=lambda one: -len(one[0]) - len(one[1])):
            _first_fit(rows, len(prompt) + len(answer)).add(prompt, answer, 0)
        # nothing is asked about the silent pictures: the loss per patch alone costs a fifth of a captioned picture's
        for index in range(self.silent):
            picture = make_picture(f"train/{seed}/silent/{index}", _training_size(rng), textures=0, mixed=0)
            pixels.append(model_pixels(_disturb(picture.image, rng), _resample(rng)))
            truths.append(patch_truth(picture.scene, pixels[-1]))
        return _tensors(rows, self.pictures, np.stack(pixels), truths)


def synthesis_inputs(answers: list[dict[str, Answer]], rng: random.Random) -> dict[str, Answer]:
    """Outputs for a synthesis to read: of one scene, of several, with a wrong count, or with words at random."""
    one = dict(rng.choice(answers))
    draw = rng.random()
    if draw < 0.4:
        return one
    if draw < 0.7:
        return {name: rng.choice(answers)[name] for name in IMAGE_PERSPECTIVES}
    count = {**one["scene_count"], "count": rng.randrange(len(NUMBER_WORDS))}
    if draw < 0.82:
        return {**one, "scene_count": count}
    words = rng.choices(_FREE_WORDS, k=rng.randint(4, 32))
    words[0] = rng.choice(("A", "An", "The"))
    tags = [" ".join(rng.choices(_FREE_WORDS, k=rng.randint(1, 2))) for _ in range(rng.randint(1, 6))]
    return {**one, "scene_caption": {"caption": " ".join(words) + ".", "tags": tags}, "scene_count": count}


def _first_fit(rows: list[Row], length: int) -> Row:
    for row in rows:
        if len(row.tokens) + length <= ROW_LENGTH:
            return row
    rows.append(Row())
    return rows[-1]


def _training_size(rng: random.Random) -> tuple[int, int]:
    # small pictures are quick to draw; large ones must be seen, too, for their edges look different after scaling
    draw = rng.random()
    return random_size(rng, 160 if draw < 0.3 else 400 if draw < 0.8 else MAX_SIDE)


def _resample(rng: random.Random) -> Image.Resampling:
    # the processor's torchvision variant has no Lanczos filter and takes bicubic
    return Image.Resampling.LANCZOS if rng.random() < 0.85 else Image.Resampling.BICUBIC


def _disturb(image: Image.Image, rng: random.Random) -> Image.Image:
    if rng.random() < 0.75:
        return image
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=rng.randint(70, 95), subsampling=rng.choice((0, 2)))
    return Image.open(buffer).convert("RGB")


def _tensors(rows: list[Row], image_rows: int, pixels: NDArray[np.float32], truths: list[PatchTruth]) -> Batch:
    length = max(len(row.tokens) for row in rows)

    def padded(name: str, value: int) -> NDArray[np.int64]:
        out = np.full((len(rows), length), value, np.int64)
        for index, row in enumerate(rows):
            values = getattr(row, name)
            out[index, : len(values)] = values
        return out

    segments = torch.from_numpy(padded("segments", _NO_SEGMENT))
    sees_prefix = torch.from_numpy(padded("sees_prefix", 0)).bool()
    same = segments[:, :, None] == segments[:, None, :]
    prefix = (segments == _PREFIX)[:, None, :] & sees_prefix[:, :, None]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    return Batch(
        image_rows=image_rows,
        pixels=torch.from_numpy(pixels),
        tokens=torch.from_numpy(padded("tokens", 0)),
        positions=torch.from_numpy(padded("positions", 0)),
        mask=causal & (same | prefix),
        targets=torch.from_numpy(padded("targets", 0)).bool(),
        patch_classes=torch.from_numpy(np.stack([truth.classes for truth in truths])),
        patch_boxes=torch.from_numpy(np.stack([truth.boxes for truth in truths])),
    )


def batches(maker: BatchMaker, rank: int, first: int) -> Iterator[Batch]:
    """Endless batches of one process, from its `first` on."""
    index = first
    while True:
        yield maker.make(f"{rank}/{index}")
        index += 1
