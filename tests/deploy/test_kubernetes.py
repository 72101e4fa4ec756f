"""The manifests of deploy/kubernetes are valid, agree with each other, and are locked down."""

from __future__ import annotations

import re

import pytest
from deployment import KUBERNETES, containers, load, load_all, walk

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="needs the extra 'dev'")

# The oldest Kubernetes with `preStop: sleep`, and the newest that is known.
VERSIONS = ("1.30", "1.37")
CUSTOM = {"ScaledObject"}  # not Kubernetes' own
SOURCES = [
    path
    for path in sorted(KUBERNETES.rglob("*.yaml"))
    if not {"kustomization.yaml", "envoy.yaml", "adapter-values.yaml"} & {path.name}
    and isinstance(load_all(path)[0], dict)  # not a patch
]


def validate(one, version):
    if one["kind"] not in CUSTOM:
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(KUBERNETES)))
def test_every_source_is_valid(path, version):
    for one in load_all(path):
        validate(one, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_rendered_object_is_valid(rendered, version):
    for one in rendered:
        validate(one, version)


def test_a_misspelt_field_would_be_found():
    deployment = load(KUBERNETES / "base" / "server.yaml")
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(deployment, VERSIONS[-1])


def test_every_pod_is_locked_down(templates):
    assert templates.keys() == {"delugeserve-server", "delugeserve-front"}
    for template in templates.values():
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        for container in containers(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()


def test_only_the_copier_writes_models(templates):
    for template in templates.values():
        for container in template["spec"]["containers"]:
            for mount in container["volumeMounts"]:
                if mount["name"] not in ("tmp", "shm"):
                    assert mount["readOnly"] is True, mount


def test_every_mounted_volume_exists_and_is_used(templates):
    for template in templates.values():
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        mounted = {
            mount["name"]
            for container in containers(template)
            for mount in container["volumeMounts"]
        }
        assert mounted == volumes


def test_probes_are_by_inference(templates):
    (server,) = templates["delugeserve-server"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe"):
        assert server[probe]["httpGet"] == {"path": "/readyz", "port": "http"}
    # A server that is only slow must not be killed.
    assert server["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}


def test_pods_have_time_to_drain(templates):
    for template in templates.values():
        (container,) = template["spec"]["containers"]
        hook = container["lifecycle"]["preStop"]
        words = hook["exec"]["command"][-1] if "exec" in hook else ""
        pause = hook["sleep"]["seconds"] if "sleep" in hook else int(words.split()[-1])
        assert pause >= 10
        assert template["spec"]["terminationGracePeriodSeconds"] >= pause + 30


def test_selectors_match_pods(objects, templates):
    pods = [template["metadata"]["labels"] for template in templates.values()]
    matched = 0
    for (kind, _), one in objects.items():
        selector = {
            "Service": lambda spec: spec["selector"],
            "Deployment": lambda spec: spec["selector"]["matchLabels"],
            "PodDisruptionBudget": lambda spec: spec["selector"]["matchLabels"],
            "NetworkPolicy": lambda spec: spec["podSelector"]["matchLabels"],
        }.get(kind)
        if selector is None:
            continue
        labels = selector(one["spec"])
        assert labels.keys() == {"app.kubernetes.io/name", "app.kubernetes.io/component"}
        assert sum(labels.items() <= pod.items() for pod in pods) == 1, one["metadata"]["name"]
        matched += 1
    assert matched >= 8


def test_peers_of_network_policies_are_pods_of_ours(objects, templates):
    pods = [template["metadata"]["labels"] for template in templates.values()]
    for (kind, _), one in objects.items():
        if kind != "NetworkPolicy":
            continue
        for rule in (*one["spec"].get("ingress", ()), *one["spec"].get("egress", ())):
            for peer in (*rule.get("from", ()), *rule.get("to", ())):
                if "podSelector" in peer and "namespaceSelector" not in peer:
                    labels = peer["podSelector"]["matchLabels"]
                    assert any(labels.items() <= pod.items() for pod in pods)


def test_named_ports_exist(objects, templates):
    """Services, probes and network policies name ports of the pods that they select."""
    for (kind, _), one in objects.items():
        if kind == "Service":
            labels, ports = one["spec"]["selector"], one["spec"]["ports"]
            named = {port["targetPort"] for port in ports}
        elif kind == "NetworkPolicy":
            labels = one["spec"]["podSelector"]["matchLabels"]
            rules = one["spec"].get("ingress", ())
            named = {port["port"] for rule in rules for port in rule["ports"]}
        else:
            continue
        (template,) = [
            template
            for template in templates.values()
            if labels.items() <= template["metadata"]["labels"].items()
        ]
        known = {
            port["name"]
            for container in containers(template)
            for port in container.get("ports", ())
        }
        assert named <= known
    for template in templates.values():
        for container in template["spec"]["containers"]:
            known = {port["name"] for port in container["ports"]}
            probes = (
                container.get(f"{name}Probe") for name in ("startup", "readiness", "liveness")
            )
            for probe in filter(None, probes):
                assert (probe.get("httpGet") or probe["tcpSocket"])["port"] in known


def test_scrape_annotations_name_the_metrics_port(templates):
    template = templates["delugeserve-server"]
    ports = {
        one["name"]: one["containerPort"] for one in template["spec"]["containers"][0]["ports"]
    }
    assert template["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])


def test_configuration_that_changes_starts_new_pods(objects, templates):
    """The names of generated ConfigMaps end in a hash of their content."""
    generated = {name for kind, name in objects if kind == "ConfigMap"}
    assert all(re.fullmatch(r"delugeserve-\w+-[0-9a-z]{10}", name) for name in generated)
    used = {
        value
        for template in templates.values()
        for value in walk(template)
        if isinstance(value, str) and value in generated
    }
    assert used == generated


def test_images_are_pinned(templates):
    for template in templates.values():
        for container in containers(template):
            image, _, tag = container["image"].rpartition(":")
            assert image
            assert re.match(r"v?\d+\.\d+", tag), container["image"]


def test_a_model_source_is_an_object_store_or_a_claim(objects, templates):
    spec = templates["delugeserve-server"]["spec"]
    (models,) = [volume for volume in spec["volumes"] if volume["name"] == "models"]
    if "initContainers" in spec:
        assert models.keys() == {"name", "emptyDir"}
        assert ("NetworkPolicy", "delugeserve-models") in objects
    else:
        assert models["persistentVolumeClaim"]["readOnly"] is True


def test_an_autoscaler_owns_the_number_of_pods(objects):
    deployment = objects["Deployment", "delugeserve-server"]
    scaled = any(kind in ("ScaledObject", "HorizontalPodAutoscaler") for kind, _ in objects)
    assert ("replicas" in deployment["spec"]) != scaled


def test_gpu_pods_ask_for_a_gpu(objects, templates):
    (server,) = templates["delugeserve-server"]["spec"]["containers"]
    on_gpu = "-triton" in server["image"]
    assert ("nvidia.com/gpu" in server["resources"]["limits"]) == on_gpu
    assert ("--tritonserver" in server["args"]) == on_gpu
