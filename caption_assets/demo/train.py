"""Trains the demo model from scratch on two CPU cores: `python -m caption_assets.demo.train`.

Every process draws its own scenes, gradients are averaged (gloo), and the learning rate follows the clock: constant
for the first half of `--minutes`, then linearly down. Ctrl-C ends a run with a checkpoint; `--resume` goes on from it,
or, where there is none, from the exported weights. The loss curve is appended to a CSV file beside the checkpoint.
"""

import os
import signal
import socket
import subprocess
import sys

from caption_assets.demo.settings import Settings, parse


def free_port() -> int:
    """A TCP port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    """Start the other processes and train as the first of them."""
    # one thread a process: more of them spin against each other on a busy machine. Read when torch is imported.
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", HF_HUB_OFFLINE="1")
    # Batches have many lengths, and oneDNN would keep code for a thousand of them: gigabytes.
    os.environ.update(ONEDNN_PRIMITIVE_CACHE_CAPACITY="32", LRU_CACHE_CAPACITY="32", MALLOC_ARENA_MAX="2")
    settings = parse()
    others: list[subprocess.Popen[bytes]] = []
    if settings.rank == 0 and settings.processes > 1:
        port = free_port()
        settings = Settings(**{**vars(settings), "port": port})
        for rank in range(1, settings.processes):
            command = [sys.executable, "-m", "caption_assets.demo.train", *sys.argv[1:]]
            others.append(subprocess.Popen([*command, "--rank", str(rank), "--port", str(port)]))
    from caption_assets.demo.trainer import Trainer

    trainer = Trainer(settings)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: trainer.interrupt())
    try:
        trainer.run()
    finally:
        for process in others:
            if sys.exc_info()[0] is not None:
                process.kill()
            process.wait()


if __name__ == "__main__":
    main()
