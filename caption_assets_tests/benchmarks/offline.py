"""The same requests by vLLM's offline interface, in a process of its own: what the caption op is compared with.

`python -m caption_assets_tests.benchmarks.offline PIPELINE REQUESTS [TOKENS]` loads the default engine's model with the
op's own arguments and prints pictures a second, as JSON, for two ways of asking:

- chat: one `LLM.chat` with all requests, the pictures decoded before;
- blocks: for every eight pictures a serial decode, then one blocking `LLM.chat`.

REQUESTS is a JSON file: a list of {media_id (null: text alone), picture (the place of its bytes), perspective, text}.
TOKENS: plain text of so many tokens is asked for instead of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from caption_assets.captioning.asking import decoded, first_request
from caption_assets.captioning.binding import bind_perspectives
from caption_assets.config import VllmEngine, load_config
from caption_assets.engine import rendering
from caption_assets.engine.device import visible_gpus
from caption_assets.engine.parallelism import Gpus
from caption_assets.engine.protocol import EngineRequest
from caption_assets.engine.vllm_args import engine_args, prepare_environment
from caption_assets.lake.store import Lake
from caption_assets_tests.benchmarks.metered import plain

_BLOCK = 8


def main() -> None:
    """Command line."""
    config, asked = load_config(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
    section = config.engines["default"]
    assert isinstance(section, VllmEngine)
    prepare_environment()
    tokens = int(sys.argv[3]) if len(sys.argv) > 3 else None
    gpus = visible_gpus()
    if not gpus.count:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    llm: Any = LLM(**engine_args(config, section, Gpus(min(gpus.count, 1))))
    lake, bound = Lake(config.lake), bind_perspectives(config)
    pictures: dict[str, list[dict[str, Any]]] = {}
    for each in asked:
        pictures.setdefault(each["picture"]["media_id"], []).append(each)

    def requests(entries: Iterable[dict[str, Any]], salt: str) -> list[EngineRequest]:
        made, images = [], {}
        for number, each in enumerate(entries):
            place, media_id = each["picture"], each["media_id"]
            if media_id and media_id not in images:
                data = lake.read_range(place["path"], place["offset"], place["length"])
                images[media_id] = decoded(data)
            image_id = f"{salt}-{media_id}" if media_id else None
            perspective = bound[each["perspective"]]
            image = images.get(media_id)
            made.append(plain(first_request(perspective, f"{salt}-{number}", each["text"], image, image_id), tokens))
        return made

    def answer(wanted: Sequence[EngineRequest]) -> None:
        conversations = [rendering.messages(each) for each in wanted]
        llm.chat(conversations, [rendering.sampling_params(each) for each in wanted], use_tqdm=False)

    first = [each for entries in list(pictures.values())[:4] for each in entries]
    answer(requests(first, "warm"))
    everything = requests((each for entries in pictures.values() for each in entries), "chat")
    started = time.perf_counter()
    answer(everything)
    chat = len(pictures) / (time.perf_counter() - started)
    del everything
    groups = list(pictures.values())
    started = time.perf_counter()
    for block in range(0, len(groups), _BLOCK):
        entries = [each for group in groups[block : block + _BLOCK] for each in group]
        answer(requests(entries, f"blocks{block}"))
    print(json.dumps({"chat": chat, "blocks": len(pictures) / (time.perf_counter() - started)}))


if __name__ == "__main__":
    main()
