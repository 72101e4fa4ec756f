"""Kubernetes' objects, rendered."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from deployment import KUBERNETES

# What people apply: a base or an overlay, with components.
VARIANTS = {
    "base": ("base", ()),
    "gpu": ("overlays/gpu", ()),
    "base-s3-keda": ("base", ("models-s3", "keda")),
    "base-gcs-hpa": ("base", ("models-gcs", "hpa")),
    "gpu-s3-keda": ("overlays/gpu", ("models-s3", "keda")),
}


@pytest.fixture(scope="session", params=VARIANTS)
def rendered(request, tmp_path_factory):
    """The objects of one variant, as kustomize renders them."""
    programs = {"kubectl": ["kubectl", "kustomize"], "kustomize": ["kustomize", "build"]}
    program = next((words for name, words in programs.items() if shutil.which(name)), None)
    if program is None:
        pytest.skip("needs kubectl or kustomize")
    base, components = VARIANTS[request.param]
    folder = tmp_path_factory.mktemp("overlay").resolve()
    place = Path(os.path.relpath(KUBERNETES, folder))  # kustomize takes no absolute path
    overlay = {
        "resources": [str(place / base)],
        "components": [str(place / "components" / name) for name in components],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    result = subprocess.run([*program, str(folder)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return [one for one in yaml.safe_load_all(result.stdout) if one]


@pytest.fixture(scope="session")
def objects(rendered):
    """The objects of a variant by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in rendered}


@pytest.fixture(scope="session")
def templates(rendered):
    """The pod templates by the name of their deployment."""
    return {
        one["metadata"]["name"]: one["spec"]["template"]
        for one in rendered
        if one["kind"] == "Deployment"
    }
