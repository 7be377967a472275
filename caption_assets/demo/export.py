"""Writes a network as a stock Idefics3 model folder that transformers and vLLM load without further code."""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from transformers import Idefics3Config, Idefics3ForConditionalGeneration, LlamaConfig, PreTrainedTokenizerFast

from caption_assets.demo.network import IMAGE_SIDE, IMAGE_TOKENS, PATCH, DemoNetwork, NetworkConfig
from caption_assets.demo.tokenizer import IMAGE, token_id

_PROCESSOR: Final[dict[str, Any]] = {
    "image_processor_type": "Idefics3ImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"longest_edge": IMAGE_SIDE},
    "do_image_splitting": False,
    "max_image_size": {"longest_edge": IMAGE_SIDE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_pad": True,
    "resample": 1,
}


def transformers_config(config: NetworkConfig, image_token: int) -> Idefics3Config:
    """The network's sizes as transformers writes them."""
    text = LlamaConfig(
        vocab_size=config.vocabulary,
        hidden_size=config.width,
        intermediate_size=config.text_mlp,
        num_hidden_layers=config.text_layers,
        num_attention_heads=config.text_heads,
        num_key_value_heads=config.key_value_heads,
        head_dim=config.head_width,
        max_position_embeddings=config.positions,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=True,
        rms_norm_eps=config.text_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
    )
    vision = {
        "hidden_size": config.width,
        "intermediate_size": config.vision_mlp,
        "num_hidden_layers": config.vision_layers,
        "num_attention_heads": config.vision_heads,
        "image_size": IMAGE_SIDE,
        "patch_size": PATCH,
        "layer_norm_eps": config.vision_epsilon,
    }
    return Idefics3Config(
        vision_config=vision,
        text_config=text,
        image_token_id=image_token,
        scale_factor=1,
        tie_word_embeddings=True,
        pad_token_id=0,
    )


def _write(network: DemoNetwork, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    config = transformers_config(network.config, token_id(tokenizer, IMAGE))
    model: Any = Idefics3ForConditionalGeneration(config)  # type: ignore[no-untyped-call]
    result = model.load_state_dict(
        {**network.export_state(), "lm_head.weight": network.model.text_model.embed_tokens.weight}, strict=False
    )
    missing = [name for name in result.missing_keys if "position_ids" not in name]
    if missing or result.unexpected_keys:
        raise ValueError(f"weights do not fit: missing {missing}, unexpected {result.unexpected_keys}")
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    _write_tokenizer(tokenizer, folder)
    files: dict[str, dict[str, Any]] = {
        "preprocessor_config.json": _PROCESSOR,
        "processor_config.json": {"processor_class": "Idefics3Processor", "image_seq_len": IMAGE_TOKENS},
        "generation_config.json": {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "do_sample": False},
    }
    for name, contents in files.items():
        (folder / name).write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def _write_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    contents = json.loads(settings.read_text(encoding="utf-8"))
    for loading_detail in ("is_local", "local_files_only"):
        # left over from how the tokenizer was loaded; without it two exports of the same model are the same files
        contents.pop(loading_detail, None)
    settings.write_text(json.dumps(contents, indent=2) + "\n", encoding="utf-8")


def export(network: DemoNetwork, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the model folder; each file appears at once, so that a reader never sees half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
        _write(network, tokenizer, Path(scratch))
        for source in Path(scratch).iterdir():
            os.chmod(source, 0o644)
            shutil.move(source, folder / source.name)


def load_weights(network: DemoNetwork, folder: Path) -> None:
    """Load an exported model's weights; the patch heads, which are not exported, stay as they are."""
    weights = {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    weights.pop("lm_head.weight", None)
    result = network.load_state_dict(weights, strict=False)
    if result.unexpected_keys or any(not name.startswith("patch_head.") for name in result.missing_keys):
        raise ValueError(f"weights do not fit: {result}")
