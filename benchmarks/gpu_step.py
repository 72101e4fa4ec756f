"""A training step for `gpu_loop.py`, replayed from a CUDA graph where that is possible."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from delugeserve.training.distillation import Teacher
from delugeserve.training.recipes import Recipe


class Step:
    """One training step: forward, backward and optimiser, replayed from a CUDA graph.

    A graph takes the host out of it: a small network would otherwise wait for kernel launches.

    Args:
        network: the network.
        optimiser: with rates in the GPU's memory, if the step is graphed.
        recipe: label smoothing and distillation.
        teacher: None to train with the labels alone.
        device: ``cuda`` or ``cpu``.
        graphed: whether to use a graph; on a CPU there is none.
    """

    WARM_UP = 3

    def __init__(
        self,
        network: Any,
        optimiser: torch.optim.Optimizer,
        recipe: Recipe,
        teacher: Teacher | None,
        device: str,
        graphed: bool,
    ) -> None:
        self.network, self.optimiser, self.recipe = network, optimiser, recipe
        self.teacher, self.device = teacher, device
        self.graphed = graphed and device == "cuda"
        self.steps = 0
        self.graph: Any = None
        self.stream: Any = torch.cuda.Stream() if self.graphed else None

    def __call__(self, images: Tensor, target: Tensor) -> Tensor:
        """Train on a batch, and return its loss.

        Args:
            images: channels-last, of the same shape in all steps of a graph.
            target: classes ``[N]``, or probabilities ``[N, classes]``.
        """
        self.steps += 1
        if not self.graphed:
            return self._run(images, target)
        if self.steps <= self.WARM_UP:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                loss = self._run(images, target)
            torch.cuda.current_stream().wait_stream(self.stream)
            return loss
        if self.graph is None:
            try:
                self._capture(images, target)
            except Exception as error:  # the eager step is right, only slower
                print(f"No CUDA graph: {type(error).__name__}: {error}"[:600], flush=True)
                self.graphed = False
                torch.cuda.synchronize()
                return self._run(images, target)
        self.images.copy_(images)
        self.target.copy_(target)
        self.graph.replay()
        return self.loss

    def _capture(self, images: Tensor, target: Tensor) -> None:
        self.images, self.target = images.clone(), target.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.loss = self._run(self.images, self.target)
        self.graph = graph

    def _run(self, images: Tensor, target: Tensor) -> Tensor:
        self.optimiser.zero_grad(set_to_none=True)
        with self._autocast():
            logits = self.network(images).float()
        loss = F.cross_entropy(logits, target, label_smoothing=self.recipe.label_smoothing)
        share = self.recipe.distillation
        if self.teacher is not None and share:
            with self._autocast():
                taught = self.teacher(images, logits)
            loss = (1 - share) * loss + share * taught
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        # Each weight is cast once in any case, and a cache may not outlive a graph's capture.
        return torch.autocast(self.device, dtype=torch.bfloat16, cache_enabled=False)
