"""Training steps of DelugeNets and of a plain ResNet of equal FLOPs, in images/s.

    python benchmarks/training_speed.py [--models delugenet38,wide_delugenet38] [--rounds 9]
    python benchmarks/training_speed.py --forms eager/fused/compiled --batch-size 256 --threads 1

Needs the extra `train`. `--forms compiled` needs minutes to compile each network.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from delugeserve.networks.build import build_network
from delugeserve.networks.delugenet import DelugeNet
from delugeserve.networks.flops import count
from delugeserve.networks.fused import best_kernels
from delugeserve.system import hardware
from delugeserve.system.memory import keep_freed_memory
from delugeserve.training.config import resolve_precision
from delugeserve.zoo import ModelSpec, find_model

METHOD = """A step is forward, backward and SGD with Nesterov momentum, on images in memory, in the
precision that `delugeserve train` chooses here: bf16 is autocast. Forms: 'eager'; 'eager,
contiguous' without channels-last memory; 'fused' as with --fuse-sums, for which batch norms and
sums have kernels of their own; 'compiled' as with --compile. Each is measured with the optimiser
that `train` uses ('fused' SGD on a CPU). The ResNet has basic blocks in three stages (He et al.,
section 4.2), of about as many FLOPs as the DelugeNet. In a round, every contestant makes one
step that is not timed, then steps until its time is up, at least two. A matrix product of the same
precision, timed in each round, gives the fraction of its rate that a step's FLOPs reach: three
times those of the forward pass. Processor time is that of all threads: on a busy machine it says
more than images/s."""

FORMS = ("eager", "eager, contiguous", "fused", "compiled")
SIDE = 1536  # of the matrices


class BasicBlock(nn.Module):
    """Conv3x3, BN, ReLU, Conv3x3, BN and a shortcut, then ReLU (He et al., 2015)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, channels, H / stride, W / stride]``."""
        return torch.relu(self.residual(x) + self.shortcut(x))


class ResNet(nn.Sequential):
    """The ResNet for CIFAR of He et al., section 4.2.

    Args:
        width: channels of the first stage.
        blocks: basic blocks of each of the three stages.
        num_classes: number of logits.
    """

    def __init__(self, width: int, blocks: int, num_classes: int) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(3, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
        for stage in range(3):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(BasicBlock(channels, width << stage, stride))
                channels = width << stage
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)
        )


def resnet_flops(width: int, blocks: int, size: int, num_classes: int) -> int:
    """Count the FLOPs of a ResNet's convolutions and linear layer, for one image."""
    found = 0

    def record(module: Any, _: Any, result: Tensor) -> None:
        nonlocal found
        found += 2 * module.weight[0].numel() * result.numel()

    with torch.device("meta"):
        network = ResNet(width, blocks, num_classes).eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(record)
        network(torch.zeros(1, 3, size, size))
    return found


def equal_resnet(spec: ModelSpec) -> tuple[int, int, int]:
    """Return width, blocks and FLOPs of the ResNet that is closest to a model in FLOPs."""
    goal, task = count(spec).flops, spec.task
    widths = (spec.architecture.widths[0], 2 * spec.architecture.widths[0])
    sizes = [
        (width, blocks, resnet_flops(width, blocks, task.image_size, task.num_classes))
        for width in widths
        for blocks in range(2, 10)
    ]
    return min(sizes, key=lambda found: abs(found[2] - goal))


def optimiser_of(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True
    )


def step_of(network: nn.Module, form: str, spec: ModelSpec, batch: int, precision: str) -> Any:
    """Return a function that makes one training step."""
    layout = torch.contiguous_format if "contiguous" in form else torch.channels_last
    network.to(memory_format=layout)  # type: ignore[call-overload]
    if form == "fused" and isinstance(network, DelugeNet):
        network.fuse_sums(best_kernels())
    if form == "compiled":
        network.compile()
    optimiser = optimiser_of(network)
    images = torch.randn(batch, *spec.input_shape).to(memory_format=layout)
    labels = torch.arange(batch) % spec.task.num_classes

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def time_steps(step: Callable[[], Any], seconds: float, times: list[float]) -> float:
    """Return the mean seconds of a step, and add its processor time to ``times``."""
    step()
    number, start, used = 0, time.perf_counter(), time.process_time()
    while number < 2 or time.perf_counter() - start < seconds:
        step()
        number += 1
    times.append((time.process_time() - used) / number)
    return (time.perf_counter() - start) / number


def contestants(
    spec: ModelSpec, forms: Sequence[str], batch: int, precision: str
) -> Iterator[tuple[str, float, Callable[[], None]]]:
    """Yield title, FLOPs of a step and the step of the networks to compare."""
    flops = 3 * batch * count(spec).flops
    for form in forms:
        network = build_network(spec, seed=0)
        yield f"{spec.name}, {form}", flops, step_of(network, form, spec, batch, precision)
    width, blocks, per_image = equal_resnet(spec)
    for form in forms:
        if form != "fused":
            resnet = ResNet(width, blocks, spec.task.num_classes)
            title = f"ResNet-{6 * blocks + 2} of {width} channels, {form}"
            step = step_of(resnet, form, spec, batch, precision)
            yield title, 3.0 * batch * per_image, step


@keep_freed_memory()
def measure(spec: ModelSpec, chosen: Any) -> dict[str, Any]:
    batch = 8 if chosen.quick else chosen.batch_size
    precision = resolve_precision("auto")
    side = 256 if chosen.quick else SIDE
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side).to(dtype) for _ in range(2))
    flops: dict[str, float] = {"matrix product": 2.0 * side**3}
    steps: dict[str, Callable[[], Any]] = {"matrix product": lambda: a @ b}
    for title, number, step in contestants(spec, chosen.forms, batch, precision):
        flops[title], steps[title] = number, step
    used: dict[str, list[float]] = {title: [] for title in steps}
    runs = {
        title: partial(time_steps, step, chosen.seconds, used[title])
        for title, step in steps.items()
    }
    samples = common.interleave(f"{spec.name}, {precision}", runs, chosen.rounds)
    base, *titles = steps
    rates = {t: [flops[t] / s for s in samples[t]] for t in steps}
    first = titles[0]
    rows = [
        (
            title,
            f"{flops[title] / batch / 3e6:,.0f}",
            common.spread([batch / s for s in samples[title]], ",.0f"),
            common.ratio({k: [1 / s for s in v] for k, v in samples.items()}, title, first),
            common.spread([batch / s for s in used[title]], ",.0f"),
            common.ratio({k: [1 / s for s in v] for k, v in used.items()}, title, first),
            common.ratio(rates, title, base),
        )
        for title in titles
    ]
    columns = ("", "MFLOPs an image", "images/s", f"over {first}", "images per processor second")
    columns += ("over the same", "of the matrix rate")
    common.show(f"{spec.name}, {precision}, batch {batch}", columns, rows)
    return {
        "model": spec.name,
        "batch": batch,
        "precision": precision,
        "unit": "s",
        "samples": samples,
        "processor_seconds": used,
        "flops": flops,
    }


def main() -> None:
    models = ["delugenet38", "wide_delugenet38"]
    parser = common.options(__doc__, models=models, rounds=9, seconds=2.0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--threads", type=int, default=hardware.usable_cores())
    parser.add_argument(
        "--forms",
        type=lambda text: [form.strip() for form in text.split("/")],
        default=["eager", "fused"],
        metavar="FORM/FORM",
        help=f"of {' / '.join(FORMS)}; default: eager/fused",
    )
    chosen = common.start(parser, METHOD)
    unknown = set(chosen.forms) - set(FORMS)
    if unknown:
        parser.error(f"--forms: unknown {', '.join(unknown)}; choose from {' / '.join(FORMS)}")
    torch.set_num_threads(chosen.threads)
    common.finish(chosen, [measure(find_model(name), chosen) for name in chosen.models])


if __name__ == "__main__":
    main()
