"""Tokenizer, network, packing and optimiser, on the bundled weights."""

import json
import random
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from caption_assets.demo.answers import IMAGE_PERSPECTIVES, SYNTHESIS, all_answers, synthesize, to_json
from caption_assets.demo.data import PATCH_CLASSES, ROW_LENGTH, Batch, BatchMaker, model_pixels, synthesis_inputs
from caption_assets.demo.export import export, load_weights
from caption_assets.demo.network import IMAGE_START, IMAGE_TOKENS, DemoNetwork, NetworkConfig
from caption_assets.demo.optimizer import orthogonalise
from caption_assets.demo.prompts import image_prompt, synthesis_prompt
from caption_assets.demo.scenes import make_picture
from caption_assets.demo.settings import parse
from caption_assets.demo.tokenizer import ASSISTANT, BOS, USER, load_tokenizer, token_id
from caption_assets.demo.trainer import rate_factor
from caption_assets.engine.models import TINY_FOLDER

MAX_BYTES = 8_000_000


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@cache
def tokenizer() -> Any:
    """The bundled tokenizer."""
    return load_tokenizer(TINY_FOLDER)


@cache
def network() -> DemoNetwork:
    """The bundled weights in the training network."""
    made = DemoNetwork(NetworkConfig(patch_classes=PATCH_CLASSES))
    load_weights(made, TINY_FOLDER)
    return made.eval()


@cache
def maker() -> BatchMaker:
    """Small batches."""
    return BatchMaker(tokenizer(), pictures=3, syntheses=3, silent=2)


def test_model_folder_is_small_and_complete() -> None:
    files = {file.name: file.stat().st_size for file in TINY_FOLDER.iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "preprocessor_config.json",
        "processor_config.json",
    } <= set(files)
    assert sum(files.values()) <= MAX_BYTES


def test_every_box_number_is_one_token() -> None:
    for number in range(101):
        assert len(maker().encode(str(number))) == 1
    assert len(maker().encode("[12,34,56,78]")) == 9


def test_tokenizer_returns_every_text_unchanged() -> None:
    answers = all_answers(make_picture("roundtrip", (96, 96), textures=0, mixed=0).scene)
    texts = [to_json(answer) for answer in answers.values()] + ["Ünusual “words”, 漢字 and 🙂.\n"]
    for text in texts:
        assert tokenizer().decode(maker().encode(text)) == text


def test_chat_template_puts_the_picture_first() -> None:
    content = [{"type": "text", "text": "What?"}, {"type": "image"}]
    text = tokenizer().apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    assert text == "<|bos|><|user|><image>What?<|assistant|>"
    plain = tokenizer().apply_chat_template(
        [{"role": "user", "content": "What?"}], tokenize=False, add_generation_prompt=True
    )
    assert plain == "<|bos|><|user|>What?<|assistant|>"


@pytest.mark.parametrize("size", [(96, 96), (300, 250), (97, 640), (33, 20)])
def test_pixels_and_scores_equal_transformers(size: tuple[int, int]) -> None:
    from transformers import AutoProcessor, Idefics3ForConditionalGeneration

    image = make_picture("parity", (400, 400)).image.resize(size)
    load: Any = Idefics3ForConditionalGeneration.from_pretrained
    load_processor: Any = AutoProcessor.from_pretrained
    reference = load(TINY_FOLDER, dtype=torch.float32).eval()
    processor = load_processor(TINY_FOLDER)
    prompt = image_prompt("scene_caption")
    expected = processor(
        text=f"{BOS}{USER}<image>{prompt}{ASSISTANT}", images=[image], return_tensors="pt", add_special_tokens=False
    )
    tokens = [*maker().prefix, *maker().encode(prompt), token_id(tokenizer(), ASSISTANT)]
    assert tokens == expected["input_ids"][0].tolist()
    pixels = torch.from_numpy(model_pixels(image))[None]
    length = len(tokens)
    mask = torch.ones(1, length, length, dtype=torch.bool).tril()
    with torch.no_grad():
        hidden, _ = network()(pixels, torch.tensor([tokens]), torch.arange(length)[None], mask, 1)
        ours, theirs = network().logits(hidden), reference(**expected).logits
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))
    if type(processor.image_processor).__name__.endswith("Pil"):
        # with torchvision the processor has another resize filter
        torch.testing.assert_close(pixels, expected["pixel_values"][0], atol=1e-6, rtol=0)
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


def test_packed_segments_equal_separate_prompts() -> None:
    batch = maker().make("packing")
    with torch.no_grad():
        packed, _ = network()(batch.pixels, batch.tokens, batch.positions, batch.mask, batch.image_rows)
        for row in range(batch.image_rows):
            for start, end, with_image in segments(batch, row):
                alone = list(range(len(maker().prefix))) if with_image else []
                places = [*alone, *range(start, end)]
                tokens = batch.tokens[row, places][None]
                pixels = batch.pixels[row : row + 1] if with_image else batch.pixels[:0]
                mask = torch.ones(1, len(places), len(places), dtype=torch.bool).tril()
                hidden, _ = network()(pixels, tokens, torch.arange(len(places))[None], mask, len(pixels))
                torch.testing.assert_close(hidden[0, -1], packed[row, end - 1], atol=1e-3, rtol=1e-3)


def segments(batch: Batch, row: int) -> list[tuple[int, int, bool]]:
    """(start, end, sees the picture) of the segments behind the image prefix of a row, from the mask alone."""
    first = len(maker().prefix)
    length = int((batch.tokens[row] != 0).sum())
    found: list[tuple[int, int, bool]] = []
    start = first
    for place in range(first + 1, length + 1):
        if place == length or not batch.mask[row, place, start]:
            found.append((start, place, bool(batch.mask[row, start, 0])))
            start = place
    return found


def test_batches_hold_the_answers_as_targets() -> None:
    batch = maker().make("targets")
    assert batch.tokens.shape[1] <= ROW_LENGTH
    assert set(batch.tokens[0, IMAGE_START : IMAGE_START + IMAGE_TOKENS].tolist()) == {5}
    texts = tokenizer().batch_decode([batch.tokens[row][batch.targets[row]] for row in range(len(batch.tokens))])
    picture = [text for text in texts if '"objects":' in text]
    assert len(picture) == 3
    assert all(text.count("<|eos|>") >= 3 and '"background":' in text for text in picture)
    again = maker().make("targets")
    assert torch.equal(batch.tokens, again.tokens)
    assert torch.equal(batch.pixels, again.pixels)
    assert not torch.equal(batch.pixels, maker().make("other").pixels)
    assert int(batch.patch_classes.max()) < PATCH_CLASSES


def test_training_syntheses_also_disagree_with_themselves() -> None:
    rng = random.Random(0)
    known = [all_answers(make_picture(f"syn/{i}", (96, 96), textures=0, mixed=0).scene) for i in range(6)]
    inputs = [synthesis_inputs(known, rng) for _ in range(200)]
    consistent = sum(
        {**one, SYNTHESIS: synthesize(one)} == answers
        for one in inputs
        for answers in known
        if one["scene_caption"] == answers["scene_caption"]
    )
    assert 40 < consistent < 150
    assert all(name in synthesis_prompt(one) for one in inputs for name in ("Caption:", "Objects:", "Count:"))


def test_orthogonalise_leaves_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 64, 160), (2, 160, 64)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert float(values.min()) > 0.3
        assert float(values.max()) < 1.4


def test_rate_warms_up_and_anneals() -> None:
    assert rate_factor(0, 0.0) < 0.02
    assert rate_factor(5000, 0.4) == 1.0
    assert rate_factor(5000, 0.75) == pytest.approx(0.5)
    assert rate_factor(5000, 0.9999) == pytest.approx(0.01)


def test_export_and_load_keep_the_weights(tmp_path: Path) -> None:
    export(network(), tokenizer(), tmp_path / "model")
    loaded = DemoNetwork(NetworkConfig(patch_classes=PATCH_CLASSES))
    load_weights(loaded, tmp_path / "model")
    for name, value in network().export_state().items():
        assert torch.equal(value, loaded.export_state()[name]), name
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    written = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    assert not {"is_local", "local_files_only", "name_or_path"} & set(written)


@pytest.mark.slow
def test_a_run_saves_and_resumes(tmp_path: Path) -> None:
    from caption_assets.demo.trainer import Trainer

    arguments = ["--processes", "1", "--pictures", "2", "--syntheses", "2", "--silent", "1", "--resume"]
    arguments += ["--out", str(tmp_path / "model"), "--work", str(tmp_path / "work"), "--minutes", "0.03"]
    threads = torch.get_num_threads()
    try:
        export(network(), tokenizer(), tmp_path / "model")
        first = Trainer(parse(arguments))
        first.run()
        assert first.step > 0
        assert (tmp_path / "work" / "loss.csv").exists()
        second = Trainer(replace(parse(arguments), minutes=first.elapsed / 60 + 0.05))
        assert second.step == first.step
        assert second.elapsed == pytest.approx(first.elapsed)
        second.run()
        assert second.step > first.step
    finally:
        torch.set_num_threads(threads)


def test_processor_pixels_of_a_flat_picture() -> None:
    pixels = model_pixels(Image.new("RGB", (200, 100), (255, 0, 127)))
    assert pixels.shape == (3, 96, 96)
    assert np.allclose(pixels.mean((1, 2)), [1, -1, -0.004], atol=1e-3)


def test_prompts_fit_the_row() -> None:
    for index in range(100):
        answers = all_answers(make_picture(f"fit/{index}", (96, 96)).scene)
        prompt = synthesis_prompt({name: answers[name] for name in IMAGE_PERSPECTIVES})
        length = len(maker().encode(prompt)) + len(maker().encode(to_json(answers[SYNTHESIS]))) + 4
        assert length < ROW_LENGTH
