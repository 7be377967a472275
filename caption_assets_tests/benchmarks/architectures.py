"""Real architectures without their weights: what a model costs does not depend on what it says.

Each is an Idefics3, as published, but for the vocabulary's words: the bundled model's tokenizer with made-up words
behind its own, which are only ever written. vLLM fills in the weights (`load_format: dummy`). Pictures are one tile.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from caption_assets.engine.models import TINY_FOLDER

_SIGLIP = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
_SIGLIP |= {"patch_size": 14}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "smolvlm-256m": {
        "text": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
        | {"num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "vocab_size": 49280},
        "vision": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
        | {"patch_size": 16, "image_size": 512},
        "scale_factor": 4,
    },
    "smolvlm-2b": {
        "text": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24}
        | {"num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 64, "vocab_size": 49155},
        "vision": {**_SIGLIP, "image_size": 378},
        "scale_factor": 3,
    },
    "idefics3-8b": {
        "text": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32}
        | {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128259},
        "vision": {**_SIGLIP, "image_size": 364},
        "scale_factor": 2,
    },
}
ARGUMENTS = {"load_format": "dummy", "max_model_len": 2048}


def write_architecture(folder: Path, name: str) -> None:
    """Everything of a model's folder but the weights."""
    asked = ARCHITECTURES[name]
    folder.mkdir(parents=True)
    side, patch = asked["vision"]["image_size"], asked["vision"]["patch_size"]
    tokens = (side // patch // asked["scale_factor"]) ** 2
    config = _read("config.json")
    config["text_config"] |= asked["text"] | {"max_position_embeddings": 8192}
    config["vision_config"] |= asked["vision"]
    config["scale_factor"] = asked["scale_factor"]
    _write(folder, "config.json", config)
    edge = {"longest_edge": side}
    _write(
        folder, "preprocessor_config.json", _read("preprocessor_config.json") | {"size": edge, "max_image_size": edge}
    )
    _write(folder, "processor_config.json", _read("processor_config.json") | {"image_seq_len": tokens})
    tokenizer = _read("tokenizer.json")
    words = tokenizer["model"]["vocab"]
    first = max(*words.values(), *(token["id"] for token in tokenizer["added_tokens"])) + 1
    words |= {f"word{number}": number for number in range(first, asked["text"]["vocab_size"])}
    _write(folder, "tokenizer.json", tokenizer)
    for other in ("tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        (folder / other).write_text((TINY_FOLDER / other).read_text())


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((TINY_FOLDER / name).read_text())
    return document


def _write(folder: Path, name: str, document: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(document))
