"""Optimisers of the training step: SGD, and Muon for convolutions with SGD for everything else.

Muon (Jordan et al., https://kellerjordan.github.io/posts/muon) replaces the momentum of a weight
matrix by the nearest semi-orthogonal matrix. ``torch.optim.Muon`` takes matrices only; here a
convolution's weight ``[out, in, k, k]`` is the matrix ``[out, in * k * k]``, and weights of the
same shape are orthogonalised together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import torch
from torch import Tensor, nn

from delugeserve.training.recipes import Recipe

_CONV_DIMENSIONS = 4
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


def build_optimiser(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return a recipe's optimiser of a network.

    Biases of BatchNorms and of cross-layer sums are a group of their own if the recipe gives them
    another learning rate.
    """
    convolutions, biases, others = _groups(network, recipe)
    groups: list[dict[str, Any]] = [{"params": others}]
    if biases:
        rate = recipe.learning_rate * recipe.bias_rate
        # The penalty on a weight is rate x decay: it stays that of the other weights.
        decay = recipe.weight_decay / recipe.bias_rate
        groups.append({"params": biases, "lr": rate, "weight_decay": decay})
    settings: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "momentum": recipe.momentum,
        "weight_decay": recipe.weight_decay,
    }
    if not recipe.muon_rate:
        return torch.optim.SGD(groups, nesterov=recipe.momentum > 0, **settings)
    muon = {"muon": True, "lr": recipe.muon_rate, "momentum": recipe.muon_momentum}
    return Muon([{"params": convolutions} | muon, *groups], **settings)


def _groups(network: nn.Module, recipe: Recipe) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    convolutions: list[Tensor] = []
    biases: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        if recipe.muon_rate and parameter.dim() == _CONV_DIMENSIONS:
            convolutions.append(parameter)
        elif recipe.bias_rate != 1 and name.endswith("bias") and "linear" not in name:
            biases.append(parameter)
        else:
            others.append(parameter)
    return convolutions, biases, others


class Muon(torch.optim.Optimizer):
    """Muon for the groups with ``muon=True``, SGD with Nesterov momentum for the others.

    A weight of a Muon group keeps the Frobenius norm ``sqrt(out)``: a BatchNorm follows each
    convolution of a DelugeNet, so that only the direction of its weight matters, and the learning
    rate is the size of a step relative to the weight. Weight decay has no effect there.

    Args:
        groups: parameter groups.
        lr: learning rate of groups without one.
        momentum: momentum of groups without one.
        weight_decay: L2 penalty of groups without one.
    """

    def __init__(
        self, groups: Iterable[Any], *, lr: float, momentum: float, weight_decay: float
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "muon": False}
        super().__init__(groups, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Do one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            (self._muon_step if group["muon"] else self._sgd_step)(group)
        return loss

    def _muon_step(self, group: dict[str, Any]) -> None:
        for weights in _by_shape(p for p in group["params"] if p.grad is not None):
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            buffers = [self._buffer(weight) for weight in weights]
            torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
            nesterov = torch._foreach_lerp(gradients, buffers, group["momentum"])
            updates = orthogonalise(torch.stack([g.flatten(1) for g in nesterov]))
            out = weights[0].shape[0]
            norms = torch._foreach_norm(weights)
            torch._foreach_mul_(weights, [out**0.5 / norm for norm in norms])
            steps = (group["lr"] * updates).unbind()
            shaped = [u.view_as(w) for u, w in zip(steps, weights, strict=True)]
            torch._foreach_sub_(weights, shaped)

    def _sgd_step(self, group: dict[str, Any]) -> None:
        # Not torch.optim.sgd, whose learning rate cannot be a tensor within a CUDA graph.
        weights = [p for p in group["params"] if p.grad is not None]
        if not weights:
            return
        found = [weight.grad for weight in weights if weight.grad is not None]
        gradients = torch._foreach_add(found, weights, alpha=group["weight_decay"])
        buffers = [self._buffer(weight) for weight in weights]
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        steps = torch._foreach_add(gradients, buffers, alpha=group["momentum"])
        torch._foreach_mul_(steps, group["lr"])
        torch._foreach_sub_(weights, steps)

    def _buffer(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer: Tensor = state["momentum_buffer"]
        return buffer


def orthogonalise(matrices: Tensor) -> Tensor:
    """Map matrices ``[B, M, N]`` to nearly semi-orthogonal ones, by Newton-Schulz iteration.

    Singular values end between about 0.7 and 1.2. The quintic's coefficients are Jordan's.

    Returns:
        float32 ``[B, M, N]``.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    # Tensor cores; a CPU gains nothing from so small matrices in bf16.
    x = x.bfloat16() if x.is_cuda else x.float()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x if wide else x.mT
    return result.float()


def _by_shape(weights: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    groups: defaultdict[torch.Size, list[Tensor]] = defaultdict(list)
    for weight in weights:
        groups[weight.shape].append(weight)
    yield from groups.values()
