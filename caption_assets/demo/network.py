"""The demo network in plain PyTorch, with the parameter names of transformers' Idefics3ForConditionalGeneration.

Training needs two things the transformers class does not offer: several prompts packed behind one picture (a block
mask), and a loss per image patch. Its state_dict loads into the transformers class, patch heads aside, unchanged.
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE_SIDE: Final = 96
PATCH: Final = 12
GRID: Final = IMAGE_SIDE // PATCH
IMAGE_TOKENS: Final = GRID * GRID
IMAGE_START: Final = 4
"""Where the image tokens start in a row: after <|bos|>, <|user|> and the two markers the processor puts there."""
PATCH_BOX_VALUES: Final = 4


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network; the defaults are the bundled model's."""

    vocabulary: int = 896
    width: int = 192
    vision_layers: int = 3
    vision_heads: int = 6
    vision_mlp: int = 768
    text_layers: int = 4
    text_heads: int = 4
    key_value_heads: int = 2
    head_width: int = 64
    text_mlp: int = 512
    positions: int = 1024
    rope_theta: float = 10000.0
    vision_epsilon: float = 1e-6
    text_epsilon: float = 1e-5
    patch_classes: int = 90


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of (batch, heads, length, head width); mask is added to the scores.

    Written out, because on CPU the backward pass of PyTorch's fused attention takes twice the time at these sizes.
    """
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    if mask is not None:
        scores = scores + mask
    return torch.matmul(torch.softmax(scores, -1), value)


class VisionAttention(nn.Module):
    """Full self-attention over the patches."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.heads = config.vision_heads
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: (batch, patches, width)."""
        batch, length, width = hidden.shape
        query, key, value = (
            projection(hidden).view(batch, length, self.heads, width // self.heads).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attend(query, key, value)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return out


class VisionMlp(nn.Module):
    """Two layers with GELU (tanh)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.vision_mlp)
        self.fc2 = nn.Linear(config.vision_mlp, config.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: (batch, patches, width)."""
        out: Tensor = self.fc2(functional.gelu(self.fc1(hidden), approximate="tanh"))
        return out


class VisionLayer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.vision_epsilon)
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.vision_epsilon)
        self.mlp = VisionMlp(config)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: (batch, patches, width)."""
        hidden = hidden + self.self_attn(self.layer_norm1(hidden))
        out: Tensor = hidden + self.mlp(self.layer_norm2(hidden))
        return out


class VisionEmbeddings(nn.Module):
    """Patches as vectors, plus a learned vector per place."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, config.width, PATCH, PATCH)
        self.position_embedding = nn.Embedding(IMAGE_TOKENS, config.width)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (batch, 3, 96, 96) in -1..1; returns (batch, 64, width)."""
        out: Tensor = self.patch_embedding(pixels).flatten(2).transpose(1, 2) + self.position_embedding.weight
        return out


class VisionEncoder(nn.Module):
    """The stack of layers, under transformers' name."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList([VisionLayer(config) for _ in range(config.vision_layers)])


class VisionModel(nn.Module):
    """Picture to patch features."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = VisionEncoder(config)
        self.post_layernorm = nn.LayerNorm(config.width, eps=config.vision_epsilon)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (batch, 3, 96, 96) in -1..1; returns (batch, 64, width)."""
        hidden = self.embeddings(pixels)
        for layer in self.encoder.layers:
            hidden = layer(hidden)
        out: Tensor = self.post_layernorm(hidden)
        return out


class RmsNorm(nn.Module):
    """Root mean square norm with a learned gain."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: (..., width)."""
        return functional.rms_norm(hidden, hidden.shape[-1:], self.weight.to(hidden.dtype), self.epsilon)


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary position embedding; states (batch, heads, length, head width)."""
    first, second = states.chunk(2, -1)
    return states * cosine + torch.cat([-second, first], -1) * sine


class TextAttention(nn.Module):
    """Grouped-query attention with rotary positions and a given mask."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.heads, self.groups, self.head_width = config.text_heads, config.key_value_heads, config.head_width
        self.q_proj = nn.Linear(config.width, self.heads * self.head_width, bias=False)
        self.k_proj = nn.Linear(config.width, self.groups * self.head_width, bias=False)
        self.v_proj = nn.Linear(config.width, self.groups * self.head_width, bias=False)
        self.o_proj = nn.Linear(self.heads * self.head_width, config.width, bias=False)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor) -> Tensor:
        """hidden: (rows, length, width); mask: additive, (rows, 1, length, length)."""
        rows, length, _ = hidden.shape
        query = self.q_proj(hidden).view(rows, length, self.heads, self.head_width).transpose(1, 2)
        key = self.k_proj(hidden).view(rows, length, self.groups, self.head_width).transpose(1, 2)
        value = self.v_proj(hidden).view(rows, length, self.groups, self.head_width).transpose(1, 2)
        query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
        repeats = self.heads // self.groups
        key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
        mixed = attend(query, key, value, mask)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))
        return out


class TextMlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.text_mlp, bias=False)
        self.up_proj = nn.Linear(config.width, config.text_mlp, bias=False)
        self.down_proj = nn.Linear(config.text_mlp, config.width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: (rows, length, width)."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return out


class TextLayer(nn.Module):
    """A Llama layer."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(config.width, config.text_epsilon)
        self.self_attn = TextAttention(config)
        self.post_attention_layernorm = RmsNorm(config.width, config.text_epsilon)
        self.mlp = TextMlp(config)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor) -> Tensor:
        """hidden: (rows, length, width)."""
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cosine, sine, mask)
        out: Tensor = hidden + self.mlp(self.post_attention_layernorm(hidden))
        return out


class TextModel(nn.Module):
    """The language model without its (tied) head."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList([TextLayer(config) for _ in range(config.text_layers)])
        self.norm = RmsNorm(config.width, config.text_epsilon)


class ModalityProjection(nn.Module):
    """Patch features to token embeddings."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.proj = nn.Linear(config.width, config.width, bias=False)


class Connector(nn.Module):
    """Holds the projection, under transformers' name."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.modality_projection = ModalityProjection(config)


class Idefics3Body(nn.Module):
    """Vision model, connector and text model, under transformers' names."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.vision_model = VisionModel(config)
        self.connector = Connector(config)
        self.text_model = TextModel(config)


class DemoNetwork(nn.Module):
    """The whole network; `patch_head` serves training only."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Idefics3Body(config)
        self.patch_head = nn.Linear(config.width, config.patch_classes + PATCH_BOX_VALUES)
        half = torch.arange(0, config.head_width, 2).float() / config.head_width
        angles = torch.outer(torch.arange(config.positions).float(), config.rope_theta**-half).repeat(1, 2)
        self.register_buffer("cosine", angles.cos(), persistent=False)
        self.register_buffer("sine", angles.sin(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.7 / math.sqrt(module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        # what is added to the residual stream starts small
        for name, parameter in self.named_parameters():
            if name.endswith(("out_proj.weight", "fc2.weight", "o_proj.weight", "down_proj.weight")):
                parameter.data.mul_(0.3)

    def forward(
        self, pixels: Tensor, tokens: Tensor, positions: Tensor, mask: Tensor, image_rows: int
    ) -> tuple[Tensor, Tensor]:
        """Hidden states (rows, length, width) before the head, and patch predictions (pictures, 64, classes + 4).

        pixels: (pictures, 3, 96, 96) in -1..1, of which the first `image_rows` belong to the first rows and the others
        are only seen by the patch head; tokens and positions: (rows, length); mask: bool (rows, length, length), true
        where a token may look.
        """
        features = self.model.vision_model(pixels)
        patches = self.patch_head(features)
        hidden = self.model.text_model.embed_tokens(tokens)
        if image_rows:
            image = self.model.connector.modality_projection.proj(features[:image_rows]).to(hidden.dtype)
            end = IMAGE_START + IMAGE_TOKENS
            with_image = torch.cat([hidden[:image_rows, :IMAGE_START], image, hidden[:image_rows, end:]], 1)
            hidden = torch.cat([with_image, hidden[image_rows:]], 0)
        half = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else hidden.dtype
        table_cosine, table_sine = self.get_buffer("cosine"), self.get_buffer("sine")
        cosine, sine = table_cosine[positions][:, None].to(half), table_sine[positions][:, None].to(half)
        additive = torch.zeros(mask.shape, dtype=half).masked_fill_(~mask, float("-inf"))[:, None]
        for layer in self.model.text_model.layers:
            hidden = layer(hidden, cosine, sine, additive)
        out: Tensor = self.model.text_model.norm(hidden)
        return out, patches

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary, by the embedding (tied)."""
        return functional.linear(hidden, self.model.text_model.embed_tokens.weight.to(hidden.dtype))

    def export_state(self) -> dict[str, Tensor]:
        """The weights transformers knows, by its names."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("patch_head.")}
