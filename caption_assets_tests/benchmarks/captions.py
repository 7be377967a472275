"""All figures of the caption op, in one run: `python -m caption_assets_tests.benchmarks.captions`.

| part | what is compared | module beside this one |
|---|---|---|
| op (a, d) | the op with its engine driven bare, and with vLLM's offline interface; engine idle share | `caption_op` |
| shared (b) | five perspectives together with five passes: encoder runs, cached image tokens | `shared_picture` |
| servers (c) | the whole job on a stub server with the ideal rate | `openai_engine` |
| caption_flow (c) | the whole job with CaptionFlow's orchestrator in mock mode | `caption_flow` |
| finished (e) | how soon a finished shard is recognised | `finished_shard` |

Each part runs in a process of its own, one after the other, prints ratios of medians over three or more turns, and what
is wanted. `--only` chooses; `--model` and the options behind `--` go to the op alone. Exit status 1: a part failed.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence

PARTS = {
    "op": "caption_op",
    "shared": "shared_picture",
    "servers": "openai_engine",
    "caption_flow": "caption_flow",
    "finished": "finished_shard",
}
_LETTERS = {"a": ["op"], "b": ["shared"], "c": ["servers", "caption_flow"], "d": ["op"], "e": ["finished"]}
_NEWER_PYTHONS = ("python3.14", "python3.13", "python3.12")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*PARTS, *_LETTERS], default=list(PARTS), metavar="PART")
    parser.add_argument(
        "--model", default="tiny", help="for the op: `tiny`, a name of architectures.py, a folder, a hub name"
    )
    parser.add_argument(
        "--python", default=newer_python(), help="3.12 or newer, to make CaptionFlow's environment with"
    )
    parser.add_argument("rest", nargs="*", metavar="-- OPTION", help="options of caption_op")
    options = parser.parse_args()
    arguments = {"op": ["--model", options.model, *options.rest], "caption_flow": ["--python", options.python]}
    failed = [name for name in chosen(options.only) if not run(name, arguments.get(name, []))]
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def chosen(names: Sequence[str]) -> list[str]:
    """The parts that names or letters stand for, each once, in this module's order."""
    wanted = {part for name in names for part in _LETTERS.get(name, [name])}
    return [part for part in PARTS if part in wanted]


def run(part: str, arguments: Sequence[str]) -> bool:
    """Run a part, its output going where ours goes; whether it succeeded."""
    print(f"\n== {part}", flush=True)
    command = [sys.executable, "-m", f"caption_assets_tests.benchmarks.{PARTS[part]}", *arguments]
    return subprocess.run(command).returncode == 0


def newer_python() -> str:
    """A Python that CaptionFlow can be installed with, where one is to be found."""
    found = (path for name in _NEWER_PYTHONS if (path := shutil.which(name)))
    return next((path for path in found if _works(path)), sys.executable)


def _works(python: str) -> bool:
    """Whether it is more than a shim of a version manager."""
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


if __name__ == "__main__":
    main()
