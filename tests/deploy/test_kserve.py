"""KServe's manifests: their fields, and that they agree with each other and with Kubernetes.

The fields are those of KServe's definitions of ServingRuntime (v1alpha1) and InferenceService
(v1beta1): https://kserve.github.io/website/docs/reference/crd-api
"""

from __future__ import annotations

import re

import pytest
from deployment import KSERVE, KUBERNETES, load

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs the extra 'dev'")

RUNTIME = load(KSERVE / "servingruntime.yaml")
SERVICES = [load(path) for path in sorted(KSERVE.glob("inferenceservice*.yaml"))]
(CONTAINER,) = RUNTIME["spec"]["containers"]
SERVER = load(KUBERNETES / "base" / "server.yaml")["spec"]["template"]["spec"]


def test_the_runtime_has_the_fields_that_kserve_knows():
    assert RUNTIME["apiVersion"] == "serving.kserve.io/v1alpha1"
    spec = dict(RUNTIME["spec"])
    assert spec.pop("supportedModelFormats")[0].keys() <= {
        "name", "version", "autoSelect", "priority",
    }  # fmt: skip
    assert set(spec.pop("protocolVersions")) <= {"v1", "v2", "grpc-v1", "grpc-v2"}
    assert CONTAINER["name"] == "kserve-container"
    assert len(CONTAINER["ports"]) == 1  # KServe routes to one
    # The rest is a pod's, without the metadata.
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x", "annotations": spec.pop("annotations")},
        "spec": spec,
    }
    kubernetes_validate.validate(pod, "1.37", strict=True)


@pytest.mark.parametrize("service", SERVICES, ids=lambda one: one["metadata"]["name"])
def test_a_service_has_the_fields_that_kserve_knows(service):
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert service["spec"].keys() == {"predictor"}
    predictor = service["spec"]["predictor"]
    assert predictor.keys() <= {"minReplicas", "maxReplicas", "serviceAccountName", "model"}
    assert 0 < predictor["minReplicas"] <= predictor["maxReplicas"]
    model = predictor["model"]
    assert model.keys() <= {
        "modelFormat", "protocolVersion", "runtime", "runtimeVersion", "storageUri", "args",
    }  # fmt: skip
    assert model["modelFormat"].keys() <= {"name", "version"}
    assert re.match(r"(s3|gs|pvc)://", model["storageUri"])


def test_a_service_names_a_runtime_that_has_its_format():
    ours, triton = SERVICES[1], SERVICES[0]
    if ours["spec"]["predictor"]["model"]["runtime"] != RUNTIME["metadata"]["name"]:
        ours, triton = triton, ours
    model = ours["spec"]["predictor"]["model"]
    assert model["runtime"] == RUNTIME["metadata"]["name"]
    (known,) = RUNTIME["spec"]["supportedModelFormats"]
    assert model["modelFormat"] == {"name": known["name"], "version": known["version"]}
    assert model["protocolVersion"] in RUNTIME["spec"]["protocolVersions"]
    assert triton["spec"]["predictor"]["model"]["runtime"] == "kserve-tritonserver"


def test_ports_are_those_that_kserve_routes_to():
    arguments = CONTAINER["args"]
    http = int(arguments[arguments.index("--http-port") + 1])
    assert http == CONTAINER["ports"][0]["containerPort"] == 8080
    assert arguments[arguments.index("--grpc-port") + 1] == "9000"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["httpGet"]["port"] == http


def test_it_is_run_as_kubernetes_runs_it():
    (server,) = SERVER["containers"]
    for field in ("lifecycle", "resources"):
        assert CONTAINER[field] == server[field]
    for name in ("startup", "readiness", "liveness"):
        ours, theirs = (one[f"{name}Probe"] for one in (CONTAINER, server))
        assert ours["httpGet"]["path"] == theirs["httpGet"]["path"]
        assert {**ours, "httpGet": 0} == {**theirs, "httpGet": 0}
    assert server["securityContext"].items() <= CONTAINER["securityContext"].items()
    for field in ("runAsNonRoot", "runAsUser", "seccompProfile"):
        assert CONTAINER["securityContext"][field] == SERVER["securityContext"][field]
    volumes = [volume for volume in SERVER["volumes"] if volume["name"] != "models"]
    assert RUNTIME["spec"]["volumes"] == volumes
    repository, image = load(KUBERNETES / "base" / "kustomization.yaml")["images"][0], CONTAINER
    assert image["image"] == f"{repository['newName']}:{repository['newTag']}"
