"""The training loop behind `caption_assets.demo.train`."""

import os
import time
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, distributed
from torch.nn import functional

from caption_assets.demo.data import PATCH_CLASSES, Batch, BatchMaker, batches
from caption_assets.demo.export import export, load_weights
from caption_assets.demo.network import DemoNetwork, NetworkConfig
from caption_assets.demo.optimizer import Muon
from caption_assets.demo.progress import Progress
from caption_assets.demo.settings import Settings
from caption_assets.demo.tokenizer import load_tokenizer, train_tokenizer

WARM_UP_STEPS: Final = 100
CONSTANT_SHARE: Final = 0.5
LAST_RATE: Final = 0.01
CHECKPOINT_SECONDS: Final = 300.0
OBJECT_WEIGHT, GROUND_WEIGHT, BOX_WEIGHT = 0.5, 0.3, 2.0


def rate_factor(step: int, share: float) -> float:
    """Learning rate as a share of the highest, at a step and a share (0-1) of the time."""
    decay = 1.0 if share < CONSTANT_SHARE else (1.0 - share) / (1.0 - CONSTANT_SHARE)
    return min(1.0, (step + 1) / WARM_UP_STEPS) * max(LAST_RATE, decay)


class Trainer:
    """One process of a run: network, optimisers, data, clock."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.settings = settings
        self.rank, self.world = settings.rank, settings.processes
        if self.world > 1:
            address = f"tcp://127.0.0.1:{settings.port}"
            distributed.init_process_group("gloo", init_method=address, rank=self.rank, world_size=self.world)
        self.tokenizer = self._tokenizer()
        self.network = DemoNetwork(NetworkConfig(patch_classes=PATCH_CLASSES))
        matrices = {
            name: parameter
            for name, parameter in self.network.named_parameters()
            if parameter.ndim == 2 and ".layers." in name
        }
        rest = [parameter for name, parameter in self.network.named_parameters() if name not in matrices]
        self.muon = Muon(matrices.values(), settings.rate)
        self.adam = torch.optim.AdamW(rest, lr=settings.rate, betas=(0.9, 0.98), weight_decay=0.0)
        self.maker = BatchMaker(self.tokenizer, settings.pictures, settings.syntheses, settings.silent)
        self.step = 0
        self.elapsed = 0.0
        self.interrupted = False
        if settings.resume:
            self._resume()

    @property
    def checkpoint(self) -> Path:
        """The file a run is resumed from."""
        return self.settings.work / "checkpoint.pt"

    def _tokenizer(self) -> Any:
        if self.settings.resume and (self.settings.out / "tokenizer.json").exists():
            return load_tokenizer(self.settings.out)
        # every process trains the same one: the corpus is seeded
        return train_tokenizer()

    def _resume(self) -> None:
        if not self.checkpoint.exists():
            load_weights(self.network, self.settings.out)
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])
        self.step, self.elapsed = state["step"], state["elapsed"]

    def save(self) -> None:
        """Write the checkpoint beside the old one, then replace it."""
        self.settings.work.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.network.state_dict(),
            "muon": self.muon.state_dict(),
            "adam": self.adam.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
        }
        scratch = self.checkpoint.with_suffix(".new")
        torch.save(state, scratch)
        os.replace(scratch, self.checkpoint)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise, and its parts."""
        with torch.autocast("cpu", torch.bfloat16):
            hidden, patches = self.network(batch.pixels, batch.tokens, batch.positions, batch.mask, batch.image_rows)
            scores = self.network.logits(hidden[:, :-1][batch.targets[:, 1:]])
        text = functional.cross_entropy(scores.float(), batch.tokens[:, 1:][batch.targets[:, 1:]])
        patches = patches.float()
        shown = batch.patch_boxes[..., 0] >= 0
        # averaged apart: most patches show the background, and the few others hold what is hard, the shapes
        objects, ground = (
            functional.cross_entropy(patches[where][:, :PATCH_CLASSES], batch.patch_classes[where])
            if bool(where.any())
            else patches.sum() * 0.0
            for where in (shown, ~shown)
        )
        boxes = (
            functional.smooth_l1_loss(patches[..., PATCH_CLASSES:][shown], batch.patch_boxes[shown], beta=0.05)
            if bool(shown.any())
            else patches.sum() * 0.0
        )
        parts = {"text": text.detach(), "patches": objects.detach(), "boxes": boxes.detach()}
        return text + OBJECT_WEIGHT * objects + GROUND_WEIGHT * ground + BOX_WEIGHT * boxes, parts

    def _average_gradients(self) -> None:
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.network.parameters()]
        if self.world > 1:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            distributed.all_reduce(flat)
            flat.div_(self.world)
            start = 0
            for gradient in gradients:
                gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
                start += gradient.numel()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)

    def _update(self, share: float) -> None:
        factor = rate_factor(self.step, share)
        self.muon.rate = self.settings.rate * factor
        for group in self.adam.param_groups:
            group["lr"] = self.settings.rate * factor
        self._average_gradients()
        self.muon.step()
        self.adam.step()
        self.muon.zero_grad()
        self.adam.zero_grad(set_to_none=True)

    def _agree(self, elapsed: float) -> tuple[float, bool]:
        """The first process' clock, and its wish to stop, are everybody's."""
        shared = torch.tensor([elapsed, float(self.interrupted)], dtype=torch.float64)
        if self.world > 1:
            distributed.broadcast(shared, 0)
        return float(shared[0]), bool(shared[1])

    def interrupt(self) -> None:
        """End the run after the current step, with a checkpoint; the first process' word counts."""
        self.interrupted = True

    def run(self) -> None:
        """Train until the time is up, then export."""
        settings = self.settings
        start = time.monotonic() - self.elapsed
        saved = exported = self.elapsed
        stream = batches(self.maker, self.rank, self.step)
        with Progress(settings, self.step, self.elapsed) as progress:
            while True:
                self.elapsed, stopped = self._agree(time.monotonic() - start)
                share = self.elapsed / 60 / settings.minutes
                if stopped or share >= 1:
                    break
                drawing = time.monotonic()
                batch = next(stream)
                drawing = time.monotonic() - drawing
                loss, parts = self.loss(batch)
                loss.backward()  # type: ignore[no-untyped-call]
                self._update(share)
                self.step += 1
                if self.rank:
                    continue
                losses = {name: float(value) for name, value in parts.items()}
                progress.advance(self.step, self.elapsed, losses, drawing)
                if self.elapsed - saved > CHECKPOINT_SECONDS:
                    self.save()
                    saved = self.elapsed
                if self.elapsed - exported > settings.export_minutes * 60:
                    export(self.network, self.tokenizer, settings.out)
                    exported = self.elapsed
        if self.rank == 0:
            self.save()
            if not stopped:
                export(self.network, self.tokenizer, settings.out)
        if self.world > 1:
            distributed.barrier()
            distributed.destroy_process_group()
