"""DelugeNet-92 against ResNet-101 and ResNet-152 in the same engine.

    python benchmarks/resnets.py [--rounds 15] [--precision fp32]

Needs the extra `export`.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from torch import Tensor, nn

from delugeserve import BACKENDS, find_model, fold
from delugeserve.artifacts.interface import INPUT, LOGITS, PROBABILITIES
from delugeserve.networks.classifier import normalise
from delugeserve.networks.flops import count
from delugeserve.zoo import IMAGENET
from delugeserve_export.graph import build_graph
from delugeserve_export.samples import sample_images
from delugeserve_export.source import untrained_source

METHOD = """All three are untrained, as weights do not change the speed. The ResNets are resnet101
and resnet152 of timm and torchvision (He et al., 2015, with the stride in the 3x3 convolution),
with initial normalisation statistics, exported by torch.onnx.export with the same uint8 input, and
folded by the engine. OpenVINO computes in bf16 where the processor supports it natively, else in
fp32, or in --precision. In a round, a contestant runs one batch to warm up, then whole batches
until its time is up, at least two."""

# Blocks per stage; GFLOPs (two per multiply-add) of the convolutions and the linear layer.
RESNETS = {"resnet101": ((3, 4, 23, 3), 15.7), "resnet152": ((3, 8, 36, 3), 23.1)}
OURS = "delugenet92"


class Bottleneck(nn.Module):
    """Conv1x1, Conv3x3, Conv1x1 with a shortcut (He et al., 2015, figure 5)."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = 4 * width
        self.residual = nn.Sequential(
            *_conv_norm(in_channels, width, 1),
            nn.ReLU(),
            *_conv_norm(width, width, 3, stride),
            nn.ReLU(),
            *_conv_norm(width, out_channels, 1),
        )
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Sequential(
            *(() if same else _conv_norm(in_channels, out_channels, 1, stride))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, 4 * width, H / stride, W / stride]``."""
        return torch.relu(self.residual(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Maps uint8 images ``[N, 224, 224, 3]`` to logits and probabilities."""

    def __init__(self, blocks: tuple[int, ...]) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        in_channels = 64
        for stage, number in enumerate(blocks):
            width = 64 << stage
            for block in range(number):
                stride = 2 if stage and not block else 1
                stages.append(Bottleneck(in_channels, width, stride))
                in_channels = 4 * width
        self.features = nn.Sequential(
            *_conv_norm(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *stages
        )
        self.linear = nn.Linear(in_channels, IMAGENET.num_classes)
        self.register_buffer("mean", torch.tensor(IMAGENET.mean))
        self.register_buffer("std", torch.tensor(IMAGENET.std))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map uint8 ``[N, 224, 224, 3]`` to logits and probabilities ``[N, classes]``."""
        x = self.features(normalise(image, self.mean, self.std))
        logits = self.linear(x.mean(dim=(2, 3)))
        return logits, logits.softmax(dim=1)


def _conv_norm(
    in_channels: int, out_channels: int, size: int, stride: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


def export_resnet(name: str, folder: Path) -> bytes:
    torch.manual_seed(0)
    network = ResNet(RESNETS[name][0]).eval()
    path = folder / f"{name}.onnx"
    # The tracing exporter is faster than the newer one; the engine folds the BatchNorms.
    torch.onnx.export(
        network,
        (torch.zeros(2, 224, 224, 3, dtype=torch.uint8),),
        path,
        dynamo=False,
        input_names=[INPUT],
        output_names=[LOGITS, PROBABILITIES],
        dynamic_axes={name: {0: "N"} for name in (INPUT, LOGITS, PROBABILITIES)},
    )
    return path.read_bytes()


def load_engines(images: np.ndarray, folder: Path, precision: Any) -> dict[str, Any]:
    backend = BACKENDS["openvino"]
    spec = find_model(OURS)
    folded = fold(untrained_source(spec, images).network)
    graphs = {OURS: build_graph(folded, spec.task, sum_form=backend.sum_form)}
    graphs |= {name: export_resnet(name, folder) for name in RESNETS}
    engines = {}
    for name, graph in graphs.items():
        place = folder / name
        place.mkdir()
        engines[name] = backend.load(backend.build(graph, place), precision)
    return engines


def main() -> None:
    parser = common.options(__doc__, rounds=15, seconds=0.7)
    parser.add_argument(
        "--precision", choices=("bf16", "fp32"), default=BACKENDS["openvino"].best_precision()
    )
    chosen = common.start(parser, METHOD)
    gflops = {OURS: count(find_model(OURS)).flops / 1e9}
    gflops |= {name: figure for name, (_, figure) in RESNETS.items()}
    images, _ = sample_images(IMAGENET, 8)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        engines = load_engines(images, Path(folder), chosen.precision)
        for batch in (1, 8):
            contestants = {
                name: partial(common.milliseconds, infer, images[:batch], chosen.seconds)
                for name, infer in engines.items()
            }
            samples = common.interleave(f"batch {batch}", contestants, chosen.rounds)
            rows = [
                (
                    name,
                    f"{gflops[name]:.1f}",
                    common.spread(samples[name]),
                    common.ratio(samples, OURS, name),
                    f"{gflops[OURS] / gflops[name]:.2f}",
                )
                for name in engines
            ]
            columns = ("", "GFLOPs", "ms per batch", f"time of {OURS}, ratio", "FLOPs, ratio")
            common.show(f"OpenVINO {chosen.precision}, batch {batch}", columns, rows)
            results.append(
                {"batch": batch, "precision": chosen.precision, "unit": "ms", "samples": samples}
            )
    common.finish(chosen, results)


if __name__ == "__main__":
    main()
