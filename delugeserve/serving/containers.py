"""The container that serves a repository: its image, chosen from the models, and its command."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from delugeserve._version import __version__
from delugeserve.artifacts.manifest import find_manifest
from delugeserve.artifacts.plans import read_plan
from delugeserve.artifacts.repository import StoredModel
from delugeserve.errors import PlanError, UsageError
from delugeserve.runtimes import BACKENDS
from delugeserve.runtimes.base import PYTHON_RUNTIME
from delugeserve.runtimes.tensorrt import PLAN
from delugeserve.serving.front.security import Security
from delugeserve.serving.ports import LOOPBACK, is_loopback, resolve_host

Launcher = Literal["docker", "podman"]

TRITON_IMAGE = "nvcr.io/nvidia/tritonserver"
SUPPORT_MATRIX = (
    "https://docs.nvidia.com/deeplearning/frameworks/support-matrix/index.html"  # of all containers
)
DEFAULT_RELEASE = "24.10"
"""Release of NVIDIA's image for models without a plan: that of the wheel's server, in which the
native ONNX Runtime backend was tested."""

TENSORRT_RELEASES: Mapping[str, str] = MappingProxyType(
    {
        "10.4.0.26": "24.09",
        "10.5.0.18": "24.10",
        "10.6.0.26": "24.11",
        "10.7.0.23": "24.12",
        "10.8.0.43": "25.02",
        "10.9.0.34": "25.04",
        "10.10.0.31": "25.05",
        "10.11.0.33": "25.06",
        "10.13.2.6": "25.08",
        "10.13.3.9": "25.10",
        "10.14.1.48": "25.12",
    }
)
"""Newest known release of NVIDIA's Triton image with a version of TensorRT.

24.09 was read from a published environment of such an image, 25.10 from that of another image of
NVIDIA's with the same CUDA; the other rows have not been checked against :data:`SUPPORT_MATRIX`. An
image states its version in ``TRT_VERSION``, which the server compares with the plan's, so that a
wrong row ends in an error and not in wrong answers.
"""

# Backends of NVIDIA's image that serve our artefacts unchanged; it has no tensorrt_rtx, and its
# OpenVINO backend refuses ours.
_NATIVE = ("onnxruntime", "tensorrt")
# Backends of the model that decodes images: ours needs Pillow, NVIDIA's image has the other.
_DECODER, _DECODER_ON_GPU = "python", "dali"
_MOUNT = "/models"
_EXIT_TIMEOUT = 60  # seconds for requests in flight
_PORTS: Mapping[str, int] = MappingProxyType({"grpc": 8001, "http": 8000, "metrics": 8002})


@dataclass(frozen=True)
class ContainerImage:
    """An image that can serve some models.

    Attributes:
        name: repository and tag.
        reason: one clause that says why it was chosen.
        gpu: the models need a GPU.
        supervised: its entry point is ``delugeserve``; otherwise it is NVIDIA's image as it is.
        external_server: ``delugeserve`` in it runs NVIDIA's tritonserver, not the wheel's.
        build: arguments of ``docker build`` for it, in a checkout; empty for an image to pull.
    """

    name: str
    reason: str
    gpu: bool = False
    supervised: bool = True
    external_server: bool = False
    build: tuple[str, ...] = ()


@dataclass(frozen=True)
class ContainerCommand:
    """The commands that serve a repository in a container.

    Attributes:
        image: the image.
        build: the command that builds it; empty for an image to pull.
        run: the command that serves.
    """

    image: ContainerImage
    build: tuple[str, ...]
    run: tuple[str, ...]


def choose_image(models: Sequence[StoredModel], image: str | None = None) -> ContainerImage:
    """Choose the image for some models.

    NVIDIA's image is taken as it is if its own backends serve every model. An image of ours is the
    wheel's server for models on the CPU, and NVIDIA's with our backends where there is a plan.

    Args:
        models: the models to serve.
        image: an image with the same entry point to take instead.

    Raises:
        PlanError: no known image has the TensorRT of a plan, or the plans need different ones.
    """
    backends = {model.backend for model in models if model.backend}
    ours = sorted(
        name for name in backends if name == _DECODER or (name in BACKENDS and name not in _NATIVE)
    )
    if any(model.runtime == PYTHON_RUNTIME and model.backend in _NATIVE for model in models):
        ours.append(PYTHON_RUNTIME)
    foreign = backends - BACKENDS.keys() - {_DECODER}
    gpu = any(
        name == _DECODER_ON_GPU or (name in BACKENDS and BACKENDS[name].on_gpu) for name in backends
    )
    version = _tensorrt_version(models)
    if image:
        return ContainerImage(
            image, "as requested", gpu, bool(ours), external_server=bool(gpu or foreign)
        )
    if version and version not in TENSORRT_RELEASES:
        raise PlanError(
            f"No image is known to have TensorRT {version}, which built the plan.",
            f"Find an image that has it ({SUPPORT_MATRIX}), and give it with --image.",
            required=version,
            found=", ".join(TENSORRT_RELEASES),
        )
    release = TENSORRT_RELEASES[version] if version else DEFAULT_RELEASE
    why = f"TensorRT {version} built the plan" if version else ""
    if not ours:
        return ContainerImage(
            f"{TRITON_IMAGE}:{release}-py3",
            why or f"its {', '.join(sorted(backends))} backend serves these models as they are",
            gpu,
            supervised=False,
        )
    needs = (
        "the decoder of images needs Pillow"
        if ours == [_DECODER]
        else f"{', '.join(ours)} needs a Python-based backend of ours"
    )
    if not gpu and not foreign:
        name = f"delugeserve:{__version__}"
        return ContainerImage(
            name, needs, build=("-f", "deploy/docker/Dockerfile", "-t", name, ".")
        )
    name = f"delugeserve:{__version__}-triton{release}"
    arguments = [f"--build-arg=TRITON_TAG={release}-py3"]
    if "tensorrt_rtx" in backends:
        arguments.append("--build-arg=EXTRAS=container,tensorrt-rtx")
    return ContainerImage(
        name,
        "; ".join(filter(None, (why, needs))),
        gpu,
        external_server=True,
        build=("-f", "deploy/docker/nvidia.Dockerfile", *arguments, "-t", name, "."),
    )


def container_command(
    launcher: Launcher,
    repository: Path,
    models: Sequence[StoredModel],
    *,
    host: str = "127.0.0.1",
    ports: Mapping[str, int | None] = _PORTS,
    selected: bool = False,
    image: str | None = None,
    security: Security | None = None,
) -> ContainerCommand:
    """Return the commands that build an image and serve a repository in it.

    Args:
        launcher: the program that runs containers.
        repository: the model repository.
        models: the models to serve, with their companions.
        host: the address to publish the ports on; that of the metrics is always published on
            loopback, because they ask nobody for a key.
        ports: port on the host for ``grpc``, ``http`` and ``metrics``; 0 lets the launcher choose,
            None leaves it out.
        selected: ``models`` are not the whole repository.
        image: an image with the same entry point to run instead of the chosen one.
        security: TLS and authentication; None for neither.

    Raises:
        PlanError: no known image has the TensorRT of a plan, or the plans need different ones.
        UsageError: other machines could reach the server unguarded, or the image has no guard.
    """
    chosen = choose_image(models, image)
    security = security or Security()
    address = resolve_host(host, ipv6=True)
    security.check(address)
    guarded = security.authenticates or security.certificate is not None
    if not chosen.supervised and (guarded or not is_loopback(address)):
        raise UsageError(
            f"The image {chosen.name} has neither TLS nor authentication.",
            "Serve on this machine only: leave out --host and the options for access.",
        )
    folder = repository.resolve()
    own = [one.name for one in models if not one.companion_of] if selected else []
    if chosen.supervised or not selected:
        mounts = [_mount(folder, _MOUNT)]
    else:  # Triton's own way to choose models would open its API for loading others
        mounts = [_mount(folder / one.name, f"{_MOUNT}/{one.name}") for one in models]
    return ContainerCommand(
        chosen,
        (launcher, "build", *chosen.build) if chosen.build else (),
        (
            launcher,
            "run",
            *_isolation(launcher),
            *_gpu(launcher, gpu=chosen.gpu),
            *mounts,
            *(_mount(file.resolve(), target) for file, target in _guard_files(security).values()),
            *_publish(address, ports),
            chosen.name,
            *(_serve(chosen, ports, own, security) if chosen.supervised else _triton(ports)),
        ),
    )


def _tensorrt_version(models: Sequence[StoredModel]) -> str | None:
    """Return the TensorRT version that the plans need; None if no plan states one."""
    versions: dict[str, StoredModel] = {}
    for model in models:
        if model.backend == "tensorrt" and (version := _plan_version(model)):
            versions.setdefault(version, model)
    if not versions:
        return None
    (version, model), *others = versions.items()
    if others:
        found = ", ".join(f"{one} ('{model.name}')" for one, model in versions.items())
        raise PlanError(
            f"The plans need different versions of TensorRT: {found}.",
            "Serve them in a container each, with --model, or export them again with one version.",
            required=version,
            found=others[0][0],
        )
    return version


def _plan_version(model: StoredModel) -> str | None:
    manifest = find_manifest(model.folder, model.version)
    if manifest and manifest.engine:
        return manifest.engine.version
    path = model.folder / str(model.version) / PLAN
    return read_plan(path).version if path.is_file() else None


def _isolation(launcher: Launcher) -> list[str]:
    """Return what keeps the container from everything that it does not need."""
    options = [
        "--rm",
        "--init",
        "--read-only",
        "--tmpfs=/tmp:exec,mode=1777",  # programs run from the private folders there
        "--shm-size=1g",  # requests travel to the models' processes through it
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges",
        "--pids-limit=1024",
        f"--stop-timeout={_EXIT_TIMEOUT + 10}",
    ]
    user = os.getuid()
    if user:  # who can read the repository
        keep = ["--userns=keep-id"] if launcher == "podman" else []
        options += [*keep, f"--user={user}:{os.getgid()}"]
    return options


def _gpu(launcher: Launcher, *, gpu: bool) -> list[str]:
    if not gpu:
        return []
    return ["--gpus=all"] if launcher == "docker" else ["--device=nvidia.com/gpu=all"]


def _mount(source: Path, target: str) -> str:
    """Return a read-only bind mount; a path with a comma is quoted, as in a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(
        ["type=bind", f"source={source}", f"target={target}", "readonly"]
    )
    return f"--mount={text.getvalue()}"


def _publish(address: str, ports: Mapping[str, int | None]) -> list[str]:
    shown = f"[{address}]" if ":" in address else address
    places = {**dict.fromkeys(ports, shown), "metrics": LOOPBACK}
    return [
        f"--publish={places[endpoint]}:{port or ''}:{_PORTS[endpoint]}"
        for endpoint, port in ports.items()
        if port is not None
    ]


def _guard_files(security: Security) -> dict[str, tuple[Path, str]]:
    """Return the files of TLS and authentication: on this machine and in the container."""
    files = {
        "tls-certificate": security.certificate,
        "tls-key": security.private_key,
        "client-ca": security.client_ca,
        "keys": security.keys,
        "jwt-keys": security.jwt.jwks if security.jwt else None,
    }
    return {name: (file, f"/etc/delugeserve/{name}") for name, file in files.items() if file}


def _serve(
    image: ContainerImage,
    ports: Mapping[str, int | None],
    selected: Sequence[str],
    security: Security,
) -> list[str]:
    """Return the arguments of ``delugeserve``; only the published ports reach the container."""
    arguments = ["serve", f"--repository={_MOUNT}", "--host=0.0.0.0"]
    arguments += [f"--{name}={target}" for name, (_, target) in _guard_files(security).items()]
    if security.jwt:
        arguments.append(f"--jwt-issuer={security.jwt.issuer}")
        if security.jwt.audience:
            arguments.append(f"--jwt-audience={security.jwt.audience}")
    if not (security.certificate and security.authenticates):
        arguments.append("--insecure")  # the host decides who reaches the published ports
    if ports.get("http") is None:
        arguments.append("--no-http")
    if ports.get("metrics") is not None:
        arguments.append("--metrics-host=0.0.0.0")
    arguments += [f"--model={name}" for name in selected]
    if image.external_server:
        arguments.append("--tritonserver=/opt/tritonserver/bin/tritonserver")
    return arguments


def _triton(ports: Mapping[str, int | None]) -> list[str]:
    """Return the command line of Triton itself."""
    arguments = [
        "tritonserver",
        f"--model-repository={_MOUNT}",
        f"--exit-timeout-secs={_EXIT_TIMEOUT}",
    ]
    return arguments + [
        f"--allow-{name}=false" for name in ("http", "metrics") if ports.get(name) is None
    ]
