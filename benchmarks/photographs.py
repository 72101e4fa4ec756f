"""A DelugeNet against a plain ResNet of equal cost, on a few thousand photographs.

    python benchmarks/photographs.py --data FOLDER --output FOLDER [--epochs 45] [--networks resnet]

FOLDER is the data set Clothing: class folders in train, validation and test.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from typing import Any

import common
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from delugeserve import find_model
from delugeserve.evaluation.evaluate import evaluate_batches
from delugeserve.networks.build import build_network
from delugeserve.networks.classifier import network_classifier
from delugeserve.system.progress import NO_PROGRESS
from delugeserve.training import batches
from delugeserve.training.augment import Augment, Mix
from delugeserve.training.config import RunConfig, resolve_precision
from delugeserve.training.distributed import World
from delugeserve.training.module import TrainingModule
from delugeserve.training.recipes import choose_recipe
from delugeserve.training.splits import RunImages, read_images
from delugeserve.training.trainer import build_trainer, quiet_lightning

METHOD = """Both networks see the same images in the same order, augmented alike, with the same
recipe, precision and number of epochs. The ResNet is ResNet-18 (He et al., 2015: a stem of 7x7, two
basic blocks per stage, shortcuts of 1x1 where the shape changes) with all widths divided, so that
its FLOPs are those of the DelugeNet. The recipe was chosen with the DelugeNet in view. Of each run,
the weights of the epoch with the lowest validation error are tested, once."""

MODEL = "delugenet32_clothing"
WIDTH = 24  # of the ResNet's stem and first stage; ResNet-18 has 64


class BasicBlock(nn.Module):
    """Two convolutions of 3x3 with a shortcut (He et al., 2015, figure 2)."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            *_conv_norm(in_channels, width, 3, stride), nn.ReLU(), *_conv_norm(width, width, 3)
        )
        same = stride == 1 and in_channels == width
        self.shortcut = nn.Sequential(*(() if same else _conv_norm(in_channels, width, 1, stride)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, width, H / stride, W / stride]``."""
        return torch.relu(self.residual(x) + self.shortcut(x))


def resnet18(width: int, num_classes: int, *, seed: int) -> nn.Module:
    """Return a ResNet-18 of any width: normalised images ``[N, 3, H, W]`` to logits."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [*_conv_norm(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = width
    for stage in range(4):
        for block in range(2):
            layers.append(BasicBlock(channels, width << stage, 2 if stage and not block else 1))
            channels = width << stage
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    network = nn.Sequential(*layers)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _conv_norm(
    in_channels: int, out_channels: int, size: int, stride: int = 1
) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    conv = nn.Conv2d(in_channels, out_channels, size, stride, size // 2, bias=False)
    return conv, nn.BatchNorm2d(out_channels)


def train(
    network: nn.Module, config: RunConfig, images: RunImages, output: Path, workers: int
) -> dict[str, Any]:
    """Train a network by a recipe, and test the weights of its best epoch."""
    spec, world, reading = config.network(), World(), batches.Reading(workers)
    module = TrainingModule(
        network,
        spec.task,
        config.recipe,
        Augment(spec.task, config.recipe, config.seed, world),
        Mix(config.recipe, spec.task.num_classes, config.seed),
    )
    best: dict[str, Any] = {}

    def keep(trained: nn.Module, epoch: int, error: float) -> None:
        state = copy.deepcopy(trained.state_dict())
        best.update(state=state, epoch=epoch, validation_error=error)
        print(f"  epoch {epoch}: validation error {error:.2f} %", flush=True)

    output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with quiet_lightning():
        trainer = build_trainer(
            config,
            output,
            world,
            NO_PROGRESS,
            Callback(),
            watched=images.watched_split,
            write_best=keep,
        )
        trainer.fit(
            module,
            batches.training_batches(images.train, spec.task, config, world, reading),
            batches.test_batches(images.watched, spec.task, world, reading),
        )
    minutes = (time.perf_counter() - began) / 60
    network.load_state_dict(best.pop("state"))
    tested = evaluate_batches(
        network_classifier(network, spec.task),
        (
            (pixels.numpy(), labels.numpy())
            for pixels, labels in batches.test_batches(images.final, spec.task, world, reading)
        ),
        spec.task.num_classes,
    )
    return best | {"minutes": round(minutes, 1), "test": dataclasses.asdict(tested)}


def cost(network: nn.Module, size: int) -> tuple[int, int]:
    """Return the parameters, and the FLOPs of an image as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size))
    return sum(parameter.numel() for parameter in network.parameters()), counter.get_total_flops()


def main() -> None:
    parser = common.options(str(__doc__), rounds=1)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder of the logs")
    parser.add_argument("--epochs", type=int, help="default: the recipe's")
    parser.add_argument("--networks", default="delugenet,resnet", metavar="NAME,NAME")
    parser.add_argument("--workers", type=int, default=1, help="decoding processes")
    parser.add_argument("--seed", type=int, default=0)
    chosen = common.start(parser, METHOD, ["lightning"])
    spec = find_model(MODEL)
    epochs = 2 if chosen.quick else chosen.epochs
    config = RunConfig(
        model=MODEL,
        recipe=choose_recipe(spec.task, "photos", epochs=epochs),
        seed=chosen.seed,
        precision=resolve_precision("auto"),
        data=chosen.data,
        limit=128 if chosen.quick else None,
        val_fraction=0.1,  # without effect: the data has a validation split
    )
    images = read_images(config, spec.task)
    networks = {
        "delugenet": lambda: build_network(spec, seed=chosen.seed),
        "resnet": lambda: resnet18(WIDTH, spec.task.num_classes, seed=chosen.seed),
    }
    results = []
    for name in chosen.networks.split(","):
        print(f"{name}, {config.recipe.epochs} epochs")
        network = networks[name]()
        params, flops = cost(network, spec.task.image_size)
        found = train(network, config, images, chosen.output / name, chosen.workers)
        results.append({"network": name, "params": params, "flops": flops} | found)
    common.show(
        f"{len(images.final)} test images",
        ("network", "params", "GFLOPs", "epoch", "validation error", "test error", "minutes"),
        [
            (
                one["network"],
                f"{one['params'] / 1e6:.3f}M",
                f"{one['flops'] / 1e9:.3f}",
                str(one["epoch"]),
                f"{one['validation_error']:.2f} %",
                f"{one['test']['top1_error']:.2f} %",
                f"{one['minutes']:.1f}",
            )
            for one in results
        ],
    )
    common.finish(chosen, results)


if __name__ == "__main__":
    main()
