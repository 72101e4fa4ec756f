"""The registry of models: every DelugeNet by name, as numbers, without torch.

Sources: Kuen et al., "DelugeNets", arXiv 1611.05552, section 4 (architectures) and tables 1 to 3
(published figures); normalisation constants are the data sets' usual ones.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from delugeserve.errors import UnknownNameError

Stem = Literal["cifar", "imagenet"]
Shortcut = Literal["1x1", "3x3"]

_LARGEST_IN_MEMORY = 64  # pixels across


@dataclass(frozen=True)
class DatasetSpec:
    """What a network must know of the images it classifies.

    Attributes:
        name: ``cifar10``, ``cifar100`` or ``imagenet``.
        title: the name to print.
        num_classes: the number of classes.
        image_size: height and width of the network's input, in pixels.
        resize_size: length that an image's shorter side is brought to before the centre crop.
        mean: per-channel mean of RGB in [0, 1].
        std: per-channel standard deviation of RGB in [0, 1].
    """

    name: str
    title: str
    num_classes: int
    image_size: int
    resize_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def fits_memory(self) -> bool:
        """Whether its images are small enough to lie in memory; others are read as needed."""
        return self.image_size <= _LARGEST_IN_MEMORY

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes' names, in the order of their indices."""
        text = importlib.resources.files("delugeserve.data").joinpath(f"classes/{self.name}.txt")
        return tuple(text.read_text(encoding="utf-8").splitlines())


@dataclass(frozen=True)
class Published:
    """What the paper reports of a model (its parameters in millions, its errors in percent)."""

    params_m: float
    gflops: float | None
    top1_error: float
    top5_error: float | None = None


@dataclass(frozen=True)
class ModelSpec:
    """One DelugeNet, as numbers.

    Attributes:
        name: the registry's name.
        stem: which layers come before the first block.
        widths: base width of each block; a block's outputs have twice as many channels.
        layers: number of composite layers of each block.
        dataset: what it classifies.
        published: the paper's figures, if the model is the paper's.
        baseline: None for a DelugeNet. Otherwise the model is a ResNet-like baseline of the paper's
            table 2, and this is the convolution between two blocks.
    """

    name: str
    stem: Stem
    widths: tuple[int, ...]
    layers: tuple[int, ...]
    dataset: DatasetSpec
    published: Published | None = None
    baseline: Shortcut | None = None

    @property
    def depth(self) -> int:
        """Layers on the path from image to logits: three a composite layer, stem and classifier."""
        return 3 * sum(self.layers) + 2

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one image as the network sees it: ``(3, H, W)``."""
        return (3, self.dataset.image_size, self.dataset.image_size)

    @property
    def architecture(self) -> tuple[object, ...]:
        """The numbers that two models must share for one's weights to fit the other."""
        dataset = self.dataset
        shape = (self.stem, self.widths, self.layers, self.baseline)
        return (*shape, dataset.num_classes, dataset.image_size)

    @property
    def weights(self) -> Path | None:
        """The trained checkpoint that ships with the package, if there is one."""
        path = Path(__file__).parent / "weights" / f"{self.name}.safetensors"
        return path if path.is_file() else None


CIFAR10 = DatasetSpec(
    "cifar10", "CIFAR-10", 10, 32, 32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
)
CIFAR100 = DatasetSpec(
    "cifar100", "CIFAR-100", 100, 32, 32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
)
IMAGENET = DatasetSpec(
    "imagenet", "ImageNet", 1000, 224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
)

DATASETS: Mapping[str, DatasetSpec] = MappingProxyType(
    {dataset.name: dataset for dataset in (CIFAR10, CIFAR100, IMAGENET)}
)

_NARROW, _USUAL, _WIDE = (16, 32, 64), (32, 64, 128), (56, 112, 224)
_LAYERS_38, _LAYERS_146, _LAYERS_218 = (2, 4, 6), (8, 16, 24), (12, 24, 36)


def _cifar(
    name: str,
    widths: tuple[int, ...],
    layers: tuple[int, ...],
    cifar10: Published | None = None,
    cifar100: Published | None = None,
) -> Iterator[ModelSpec]:
    """A network for CIFAR-10 and, where the paper trained it on CIFAR-100, for that as well."""
    yield ModelSpec(name, "cifar", widths, layers, CIFAR10, cifar10)
    if cifar100:
        yield ModelSpec(f"{name}_cifar100", "cifar", widths, layers, CIFAR100, cifar100)


def _imagenet(name: str, layers: tuple[int, ...], published: Published) -> ModelSpec:
    return ModelSpec(name, "imagenet", (64, 128, 256, 512), layers, IMAGENET, published)


def _baselines(
    name: str,
    widths: tuple[int, ...],
    layers: tuple[int, ...],
    dataset: DatasetSpec,
    published: Mapping[Shortcut, Published | None],
) -> Iterator[ModelSpec]:
    """The two ResNet-like baselines of one size (table 2)."""
    suffix = "" if dataset is CIFAR10 else f"_{dataset.name}"
    for shortcut, figures in published.items():
        yield ModelSpec(
            f"{name}_{shortcut}{suffix}", "cifar", widths, layers, dataset, figures, shortcut
        )


_MODELS = (
    # Ours, by the paper's rule: small enough to be trained on a CPU.
    *_cifar("delugenet38", _NARROW, _LAYERS_38),
    *_cifar("wide_delugenet38", _USUAL, _LAYERS_38),
    # Tables 1 and 2.
    *_cifar(
        "delugenet146",
        _USUAL,
        _LAYERS_146,
        Published(6.69, 1.43, 3.98),
        Published(6.69, 1.43, 19.72),
    ),
    *_cifar(
        "delugenet218",
        _USUAL,
        _LAYERS_218,
        Published(10.00, 2.13, 3.88),
        Published(10.00, 2.13, 19.31),
    ),
    *_cifar(
        "wide_delugenet146",
        _WIDE,
        _LAYERS_146,
        Published(20.19, 4.31, 3.76),
        Published(20.19, 4.31, 19.02),
    ),
    # Table 3.
    _imagenet("delugenet92", (7, 7, 8, 8), Published(43.4, 11.8, 22.05, 6.03)),
    _imagenet("delugenet104", (7, 8, 9, 10), Published(51.4, 13.2, 21.86, 5.98)),
    _imagenet("delugenet122", (7, 9, 11, 13), Published(63.6, 15.2, 21.53, 5.86)),
    # Table 2's baselines, and those of our own size.
    *_baselines("baseline38", _NARROW, _LAYERS_38, CIFAR10, {"1x1": None, "3x3": None}),
    *_baselines(
        "baseline146",
        _USUAL,
        _LAYERS_146,
        CIFAR100,
        {"1x1": Published(6.15, None, 21.14), "3x3": Published(6.50, None, 20.84)},
    ),
    *_baselines(
        "baseline218",
        _USUAL,
        _LAYERS_218,
        CIFAR100,
        {"1x1": Published(9.26, None, 20.78), "3x3": Published(9.55, None, 20.31)},
    ),
    *_baselines(
        "wide_baseline146",
        _WIDE,
        _LAYERS_146,
        CIFAR100,
        {"1x1": Published(18.76, None, 19.79), "3x3": Published(19.82, None, 19.98)},
    ),
)

MODELS: Mapping[str, ModelSpec] = MappingProxyType({model.name: model for model in _MODELS})


def find_model(name: str) -> ModelSpec:
    """Look a model up by name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise UnknownNameError("model", name, MODELS) from None


def find_baselines(spec: ModelSpec) -> tuple[ModelSpec, ...]:
    """The ResNet-like baselines of a DelugeNet: of the same size, for the same data set."""
    size = (spec.stem, spec.widths, spec.layers, spec.dataset)
    return tuple(
        other
        for other in MODELS.values()
        if not spec.baseline
        and other.baseline
        and (other.stem, other.widths, other.layers, other.dataset) == size
    )
