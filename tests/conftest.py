"""Fixtures of all tests, their tiers, and the folder for temporary files of one run.

A test belongs to the fast tier unless it has one of these marks:

- ``slow``: it trains, compiles or exports for seconds.
- ``system``: it starts a Triton Inference Server.
- ``data``: it reads the CIFAR-10 images.

``make test-fast`` runs the fast tier, ``make test`` everything. Tests in ``tests/system`` and tests
that use the fixture ``cifar10_dir`` get their mark here; for whole modules of slow tests there is
``SLOW``. A slow test in a module of fast ones has ``@pytest.mark.slow``.
"""

from __future__ import annotations

import colorsys
import dataclasses
import io
import json
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray
from PIL import Image

from delugeserve import cli
from delugeserve.artifacts.manifest import Manifest
from delugeserve.artifacts.preprocessing import preprocessing_of
from delugeserve.artifacts.records import (
    EvidenceRecord,
    Origin,
    PlanDetails,
    Profile,
    SumFormChoice,
    Verification,
)
from delugeserve.zoo import CIFAR10, MODELS, Architecture

WriteTinyCifar = Callable[..., Path]
WriteTinyImagenet = Callable[..., Path]


# Modules of slow tests, relative to this folder; test_tiers.py checks that they exist.
SLOW = (
    "benchmarks/peers/test_servers.py",
    "benchmarks/test_benchmarks.py",
    "delugeserve/cli/test_benchmark_engines.py",
    "delugeserve/cli/test_evaluate.py",
    "delugeserve/cli/test_export.py",
    "delugeserve/cli/test_export_plans.py",
    "delugeserve/cli/test_verify.py",
    "delugeserve/load/test_accuracy.py",
    "delugeserve/load/test_run.py",
    "delugeserve/networks/test_native.py",
    "delugeserve/runtimes/test_tensorrt.py",
    "delugeserve/serving/front/test_access.py",
    "delugeserve/serving/front/test_front.py",
    "delugeserve/serving/front/test_guard.py",
    "delugeserve/serving/front/test_observing.py",
    "delugeserve/studies/test_connectivity.py",
    "delugeserve/studies/test_profiling.py",
    "delugeserve/training/test_best_run.py",
    "delugeserve/training/test_distributed.py",
    "delugeserve/training/test_imagenet.py",
    "delugeserve/training/test_run.py",
    "delugeserve/weights/test_shipped_weights.py",
    "export/test_int8.py",
    "export/test_pipeline.py",
    "packaging/test_wheel.py",
)
HERE = Path(__file__).parent

# An example may take long on a busy machine, and two runs must not share a database.
settings.register_profile(
    "tests", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")
# Taken from the environment before any test runs: see _own_environment.
DATA = os.environ.get("DELUGESERVE_DATA")
REQUIRE_DATA = os.environ.get("DELUGESERVE_REQUIRE_DATA") == "1"


def pytest_configure(config: pytest.Config) -> None:
    """Give this run a folder of its own for temporary files, its subprocesses included."""
    if hasattr(config, "workerinput"):  # a worker of pytest-xdist inherits the environment
        return
    folder = tempfile.mkdtemp(prefix="ds-")
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    os.environ["TMPDIR"] = folder
    tempfile.tempdir = None
    if getattr(config.option, "numprocesses", None):
        # Each worker has a core; threads of PyTorch would only wait for each other.
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the tiers; in parallel, start what takes longest first."""
    for item in items:
        path = item.path.relative_to(HERE).as_posix() if item.path.is_relative_to(HERE) else ""
        if path in SLOW:
            item.add_marker(pytest.mark.slow)
        if path.startswith("system/"):
            item.add_marker(pytest.mark.system)
        if "cifar10_dir" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.data)
    if hasattr(config, "workerinput"):
        items.sort(key=_rank)  # stable: tests of a module stay together, with their fixtures


def _rank(item: pytest.Item) -> int:
    marks = {mark.name for mark in item.iter_markers()}
    return next((rank for rank, name in enumerate(("data", "system", "slow")) if name in marks), 3)


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Make tests independent of the user's cache and of a data set that the environment names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("DELUGESERVE_DATA", raising=False)
        patch.delenv("DELUGESERVE_REQUIRE_DATA", raising=False)
        yield


@pytest.fixture(autouse=True)
def _plain_logging() -> None:
    """Undo what a command line in this process did to the loggers, in a test or fixture before."""
    for name in ("delugeserve", "delugeserve_export", "delugeserve_client"):
        logging.getLogger(name).handlers = []
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """The folder of the real CIFAR-10 images; without them the test is skipped, or fails in CI."""
    if DATA and Path(DATA).exists():
        return Path(DATA).resolve()
    lack = "needs the CIFAR-10 images: set DELUGESERVE_DATA to a folder that load_images reads"
    if REQUIRE_DATA:
        pytest.fail(lack)
    pytest.skip(lack)


@pytest.fixture(scope="session")
def write_tiny_cifar() -> WriteTinyCifar:
    """The function behind ``tiny_cifar``, for tests that want it larger or more than once."""
    return _write_tiny_cifar


@pytest.fixture
def tiny_cifar(tmp_path: Path) -> Path:
    """A folder with 200 training and 100 test images that a small network learns in seconds."""
    return _write_tiny_cifar(tmp_path / "tiny-cifar")


@pytest.fixture(scope="session")
def write_tiny_imagenet() -> WriteTinyImagenet:
    """Writes JPEGs of two classes and of many sizes, as an image folder or as parquet files."""
    return _write_tiny_imagenet


@pytest.fixture(scope="session")
def exported(tmp_path_factory) -> Path:
    """A repository with one small trained model, ``tiny``: version 1, ONNX Runtime, batch 8."""
    import torch

    from delugeserve.networks.build import build_network
    from delugeserve.networks.checkpoint import Checkpoint, save_checkpoint
    from delugeserve.zoo import CIFAR10, ModelSpec
    from delugeserve_export import export, plan_export

    spec = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (2, 2)), CIFAR10)
    network = build_network(spec, seed=0)
    with torch.no_grad():  # signals of a trained network's size
        for _ in range(5):
            network(torch.randn(32, 3, 32, 32))
        network.head.linear.weight.mul_(10)
    folder = tmp_path_factory.mktemp("exported")
    checkpoint = folder / "tiny.safetensors"
    save_checkpoint(Checkpoint(spec, network.state_dict()), checkpoint)
    repository = folder / "model_repository"
    plan = plan_export(
        spec,
        checkpoint,
        repository=repository,
        backend="onnxruntime",
        precision="fp32",
        max_batch_size=8,
    )
    assert export(plan).published
    return repository


@pytest.fixture(scope="session")
def console_commands() -> Callable[[Path], list[list[str]]]:
    """Returns the commands of a page's console blocks, each split into its words."""

    def commands(page: Path) -> list[list[str]]:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```console\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = "".join(blocks).replace("\\\n", " ").splitlines()
        return [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]

    return commands


@pytest.fixture(scope="session")
def make_manifest() -> Callable[..., Manifest]:
    """A function that returns a valid manifest, with the fields given changed."""
    return _make_manifest


@pytest.fixture(scope="session")
def make_plan_details() -> Callable[..., PlanDetails]:
    """A function that returns valid details of a plan, with the fields given changed."""
    return _make_plan_details


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: arguments to exit status, standard output and error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["delugeserve", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as end:
            status = end.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def _make_manifest(**changes: Any) -> Manifest:
    manifest = Manifest(
        model="net",
        trained=True,
        checkpoint=Origin(file="net.safetensors", sha256="0" * 64),
        network=MODELS["delugenet38"],
        backend="onnxruntime",
        precision="fp32",
        sum_form=SumFormChoice("mul"),
        artefact="model.onnx",
        max_batch_size=8,
        preprocessing=preprocessing_of(CIFAR10).digest,
        quantisation=None,
        verification=Verification("passed", "24 crops of photographs", "a machine"),
        export_verification=None,
        evidence=EvidenceRecord(24),
        engine=None,
        speed={},
        files={},
        environment={},
        seconds={},
        created="2026-01-01T00:00:00+00:00",
    )
    return dataclasses.replace(manifest, **changes)


def _make_plan_details(**changes: Any) -> PlanDetails:
    details = PlanDetails(
        runtime="tensorrt",
        version="10.13.3.9",
        compute_capabilities=("8.9",),
        minimum_compute_capability=None,
        built_on=None,
        profile={"image": Profile((1, 32, 32, 3), (4, 32, 32, 3), (8, 32, 32, 3))},
        precisions={"fp16": 41},
        precisions_of="engine",
    )
    return dataclasses.replace(details, **changes)


def _write_tiny_imagenet(
    folder: Path, layout: str, *, train: int = 60, test: int = 20, seed: int = 0
) -> Path:
    """Write splits ``train`` and ``val``; the layout is ``folder`` or ``parquet``.

    The parquet files are two shards of small row groups, in the hub's layout.
    """
    names = ("night", "noon")  # each class has a brightness of its own
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", test)):
        labels = rng.permutation(np.arange(count) % 2)
        encoded = []
        for label in labels:
            width, height = rng.integers(60, 120, 2)
            pixels = rng.normal(60 + 130 * label, 20, (height, width, 3)).clip(0, 255)
            encoded.append(_encode(pixels.astype(np.uint8), "JPEG"))
        if layout == "folder":
            for row, (label, content) in enumerate(zip(labels, encoded, strict=True)):
                file = folder / split / names[label] / f"{row:03d}.JPEG"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)
        else:
            _write_shards(folder / "data", split, encoded, labels, names)
    return folder


def _write_shards(
    folder: Path,
    split: str,
    encoded: list[bytes],
    labels: NDArray[np.int64],
    names: tuple[str, ...],
) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder.mkdir(parents=True, exist_ok=True)
    features = {"label": {"_type": "ClassLabel", "names": list(names)}}
    text = json.dumps({"info": {"features": features}})
    for shard, rows in enumerate(np.array_split(np.arange(len(labels)), 2)):
        images = [{"bytes": encoded[row], "path": f"{row}.JPEG"} for row in rows]
        table = pyarrow.table({"image": images, "label": labels[rows]})
        table = table.replace_schema_metadata({"huggingface": text})
        file = folder / f"{split}-{shard:05d}-of-00002.parquet"
        parquet.write_table(table, file, row_group_size=7)


def _write_tiny_cifar(folder: Path, *, train: int = 200, test: int = 100, seed: int = 0) -> Path:
    """Write ``train.parquet`` and ``test.parquet`` in the layout of the real data set.

    Each class has a colour of its own, on which noise lies; all classes are equally frequent.
    """
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder.mkdir(parents=True, exist_ok=True)
    names = CIFAR10.class_names
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(names)}}
    image_type = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema(
        [("image", image_type), ("label", pyarrow.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        labels = rng.permutation(np.arange(count) % len(names))
        encoded = [_encode(_colour_image(label, rng)) for label in labels]
        paths = [f"{split}/{names[label]}/{row:04d}.png" for row, label in enumerate(labels)]
        images = [{"bytes": data, "path": path} for data, path in zip(encoded, paths, strict=True)]
        table = pyarrow.table({"image": images, "label": labels}, schema=schema)
        parquet.write_table(table, folder / f"{split}.parquet")
    return folder


def _colour_image(label: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    colour = 255 * np.array(colorsys.hsv_to_rgb(label / 10, 0.7, 0.8))
    noisy = colour + rng.normal(0, 30, (32, 32, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def _encode(image: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()
