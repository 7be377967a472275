"""The model's tokenizer: byte-level BPE, trained on demo prompts and answers until every word is one token."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from caption_assets.demo.answers import IMAGE_PERSPECTIVES, SYNTHESIS, all_answers, synthesize, to_json
from caption_assets.demo.prompts import image_prompt, synthesis_prompt, vary
from caption_assets.demo.scenes import make_picture

VOCABULARY_SIZE: Final = 896
PAD, BOS, EOS, USER, ASSISTANT, IMAGE = "<|pad|>", "<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<image>"
IMAGE_EDGE, IMAGE_START = "<fake_token_around_image>", "<global-img>"
SPECIAL_TOKENS: Final = (PAD, BOS, EOS, USER, ASSISTANT, IMAGE, IMAGE_EDGE, IMAGE_START, "<end_of_utterance>")

# The picture stands before the text whatever the order of a message's parts: its tokens are then a shared prefix.
CHAT_TEMPLATE: Final = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{% elif message['role'] == 'user' %}<|user|>{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'image_url', 'image_pil') %}<image>{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def corpus(count: int) -> Iterator[str]:
    """Prompts and answers of `count` scenes, and every number of a box many times."""
    for index in range(count):
        scene = make_picture(f"tokenizer/{index}", size=(96, 96)).scene
        rng = random.Random(index)
        answers = all_answers(scene)
        yield from (to_json(answer) for answer in answers.values())
        yield from (vary(name, image_prompt(name), rng) for name in IMAGE_PERSPECTIVES)
        prompt = synthesis_prompt({name: answers[name] for name in IMAGE_PERSPECTIVES})
        yield vary(SYNTHESIS, prompt, rng)
        yield to_json(synthesize({**answers, "scene_count": {"count": index % 9, "background": ""}}))
    for number in range(101):
        yield from [f"[{number},{number}]"] * 100


def train_tokenizer(count: int = 6000) -> PreTrainedTokenizerFast:
    """Train the tokenizer from scratch (about half a minute)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(count), trainer)
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    fast.chat_template = CHAT_TEMPLATE
    for number in range(101):
        if len(fast.encode(str(number), add_special_tokens=False)) != 1:
            raise ValueError(f"{number} is not one token")
    return fast


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a model folder."""
    tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return tokenizer


def token_id(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The number of one token."""
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int):
        raise TypeError(f"{token} is no single token")
    return found
