"""A trained network that teaches the one in training (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delugeserve.artifacts.references import resolve_checkpoint
from delugeserve.errors import CheckpointError
from delugeserve.networks.build import Network
from delugeserve.networks.checkpoint import load_checkpoint
from delugeserve.zoo import Task

TEMPERATURE = 2.0
"""Divides the logits of both networks, so that small probabilities count as well."""


class Teacher(nn.Module):
    """A frozen network and its distillation loss.

    Args:
        network: maps normalised images to logits; it is switched to evaluation mode.
        trained: the task that it was trained for.
        task: the task of the network in training, which gives the normalisation of the images.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: Network, trained: Task, task: Task) -> None:
        super().__init__()
        self.network = network
        network.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        mean, std = torch.tensor(task.mean), torch.tensor(task.std)
        theirs, their_std = torch.tensor(trained.mean), torch.tensor(trained.std)
        self.register_buffer("scale", (std / their_std).view(-1, 1, 1))
        self.register_buffer("shift", ((mean - theirs) / their_std).view(-1, 1, 1))

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Return the divergence of the network in training from the teacher.

        Args:
            images: ``[N, 3, H, W]``, normalised for the network in training.
            logits: its logits ``[N, K]``, float32.

        Returns:
            The mean Kullback-Leibler divergence at :data:`TEMPERATURE`, times its square, so that
            gradients have the size of the cross-entropy's.
        """
        with torch.no_grad():
            taught = self.network(images * self.scale + self.shift).float()
        return TEMPERATURE**2 * F.kl_div(
            (logits / TEMPERATURE).log_softmax(1),
            (taught / TEMPERATURE).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )


def check_teacher(reference: str, task: Task) -> Path:
    """Return the teacher's checkpoint, if it can teach a task.

    Args:
        reference: a checkpoint, a run folder, or a model with shipped weights.
        task: the task of the network in training.

    Raises:
        InvalidReferenceError: there is no such checkpoint.
        CheckpointError: it is damaged, or has other classes.
    """
    path = resolve_checkpoint(reference)
    load_teacher(path, task)
    return path


def load_teacher(path: Path, task: Task) -> Teacher:
    """Load a teacher from its checkpoint.

    Raises:
        CheckpointError: it is missing or damaged, or has other classes.
    """
    checkpoint = load_checkpoint(path)
    if checkpoint.class_names != task.class_names:
        raise CheckpointError(
            f"The teacher {path} has other classes than the data.",
            "Give a --teacher that was trained on the same classes, or leave it out.",
            path,
            expected=task.class_names,
            found=checkpoint.class_names,
        )
    return Teacher(checkpoint.build(), checkpoint.spec.task, task)
