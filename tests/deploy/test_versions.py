"""Versions are the same wherever deploy/ states them."""

from __future__ import annotations

import re

from deployment import COMPOSE, DEPLOY, KSERVE, KUBERNETES, load

from delugeserve._version import __version__
from delugeserve.serving.containers import TENSORRT_RELEASES

NVIDIA = (DEPLOY / "docker" / "nvidia.Dockerfile").read_text()


def test_our_images_have_the_version_of_the_package():
    stated = {
        "kubernetes": load(KUBERNETES / "base" / "kustomization.yaml")["images"][0]["newTag"],
        "gpu": load(KUBERNETES / "overlays" / "gpu" / "kustomization.yaml")["images"][0]["newTag"],
        "kserve": load(KSERVE / "servingruntime.yaml")["spec"]["containers"][0]["image"],
        "compose": load(COMPOSE / "compose.yaml")["services"]["delugeserve"]["image"],
        "dockerfile": (DEPLOY / "docker" / "Dockerfile").read_text(),
        "nvidia": NVIDIA,
    }
    found = {name: re.findall(r"(\d+\.\d+\.\d+)(?:-triton[\d.]+)?(?: |$)", text.splitlines()[-1])
             if name not in ("dockerfile", "nvidia")
             else re.findall(r"-t delugeserve:(\d+\.\d+\.\d+)", text)
             for name, text in stated.items()}  # fmt: skip
    assert all(versions == [__version__] for versions in found.values()), found


def test_gpu_files_name_one_release_of_triton():
    overlay = load(KUBERNETES / "overlays" / "gpu" / "kustomization.yaml")["images"][0]["newTag"]
    compose = load(COMPOSE / "gpu.yaml")["services"]["delugeserve"]
    triton = load(KSERVE / "inferenceservice-triton.yaml")["spec"]["predictor"]["model"]
    (release,) = re.findall(r"^ARG TRITON_TAG=([\d.]+)-py3$", NVIDIA, re.MULTILINE)
    assert overlay.endswith(f"-triton{release}")
    assert compose["build"]["args"]["TRITON_TAG"] == f"{release}-py3"
    assert triton["runtimeVersion"] == f"{release}-py3"
    assert release in TENSORRT_RELEASES.values()
