"""Parameters and FLOPs of a model, computed from its specification without torch.

FLOPs are those of one image, in two counts:

- the usual one: two per multiply-add of convolutions, cross-layer sums and the Linear layer;
  ResNet-101 has 15.7 GFLOPs by this count. BatchNorm, ReLU and pooling are not counted;
- the paper's (tables 1 to 3): also two for each element that a BatchNorm computes and one for each
  of a ReLU. A cross-layer sum of L inputs is L BatchNorms and L - 1 additions there, the plain sum
  of a baseline is nothing. The paper does not define its count; this one gives all of its figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from delugeserve.zoo import Architecture, ModelSpec


@dataclass(frozen=True)
class Complexity:
    """The size of a model.

    Attributes:
        params: number of trainable parameters.
        flops: floating-point operations per image, by the usual count.
        paper_flops: the same by the paper's count.
        sum_params: how many of the parameters are cross-layer weights and biases.
    """

    params: int
    flops: int
    paper_flops: int
    sum_params: int = 0

    def __add__(self, other: Complexity) -> Complexity:
        return Complexity(
            self.params + other.params,
            self.flops + other.flops,
            self.paper_flops + other.paper_flops,
            self.sum_params + other.sum_params,
        )


def count(spec: ModelSpec) -> Complexity:
    """Count the trainable parameters of a model and its FLOPs per image."""
    size, architecture = spec.task.image_size, spec.architecture
    widths = architecture.widths
    if architecture.stem == "cifar":
        total, channels = _conv(3, widths[0], 3, size), widths[0]
    else:
        channels = 2 * widths[0]
        total = _conv(3, 64, 7, size // 2) + _norm_relu(64, size // 2)
        size //= 4
        total += _conv(64, channels, 1, size)
    num_outputs = 0
    for index, (width, layers) in enumerate(zip(widths, architecture.layers, strict=True)):
        if index > 0:
            total += _transition(architecture, num_outputs, channels, 2 * width, size)
            size //= 2
            channels = 2 * width
        num_outputs = int(channels == 2 * width)
        for _ in range(layers):
            if num_outputs > 1:
                total += _cross_layer_sum(architecture, num_outputs, channels, size)
            total += _norm_relu(channels, size) + _conv(channels, width, 1, size)
            total += _norm_relu(width, size) + _conv(width, width, 3, size)
            total += _norm_relu(width, size) + _conv(width, 2 * width, 1, size)
            channels = 2 * width
            num_outputs += 1
    total += _cross_layer_sum(architecture, num_outputs, channels, size)
    total += _norm_relu(channels, size)
    return total + _linear(channels, spec.task.num_classes)


def _transition(
    architecture: Architecture, num_inputs: int, in_channels: int, out_channels: int, in_size: int
) -> Complexity:
    sum_ = _cross_layer_sum(architecture, num_inputs, in_channels, in_size)
    if architecture.baseline == "1x1":
        return sum_ + _conv(in_channels, out_channels, 1, in_size // 2)
    return sum_ + _norm(in_channels, in_size) + _conv(in_channels, out_channels, 3, in_size // 2)


def _cross_layer_sum(
    architecture: Architecture, num_inputs: int, channels: int, size: int
) -> Complexity:
    if architecture.baseline:
        return Complexity(0, 0, 0)  # a plain sum has no weights and no multiplications
    weights, elements = num_inputs * channels, channels * size**2
    return Complexity(
        2 * weights, 2 * num_inputs * elements, (3 * num_inputs - 1) * elements, 2 * weights
    )


def _conv(in_channels: int, out_channels: int, kernel: int, out_size: int) -> Complexity:
    weights = in_channels * out_channels * kernel**2
    flops = 2 * weights * out_size**2
    return Complexity(weights, flops, flops)


def _linear(in_features: int, out_features: int) -> Complexity:
    flops = 2 * in_features * out_features
    return Complexity(in_features * out_features + out_features, flops, flops)


def _norm(channels: int, size: int) -> Complexity:
    return Complexity(2 * channels, 0, 2 * channels * size**2)


def _norm_relu(channels: int, size: int) -> Complexity:
    return _norm(channels, size) + Complexity(0, 0, channels * size**2)
