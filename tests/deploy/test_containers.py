"""The Dockerfiles and the compose files."""

from __future__ import annotations

import ast
import json
import re

import pytest
import yaml
from deployment import COMPOSE, DOCKERFILES, ROOT, command_line, instructions, load

from delugeserve._version import __version__
from delugeserve.serving.containers import TENSORRT_RELEASES

KNOWN = {
    "ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK",
    "ENTRYPOINT", "CMD",
}  # fmt: skip


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
class TestDockerfile:
    def test_it_parses(self, dockerfile):
        found = instructions(dockerfile)
        assert {name for name, _ in found} <= KNOWN
        assert found[0][0] == "ARG"
        assert command_line(dockerfile)[:2] == ["delugeserve", "serve"]

    def test_the_image_that_it_starts_from_is_pinned(self, dockerfile):
        arguments = dict(
            value.split("=", 1) for name, value in instructions(dockerfile) if name == "ARG"
        )
        for name, value in instructions(dockerfile):
            if name == "FROM":
                image = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], value.split()[0])
                assert re.search(r":\d+\.\d+[\w.-]*$", image), image

    def test_what_it_copies_is_in_the_context(self, dockerfile):
        allowed = {
            line[1:]
            for line in (ROOT / ".dockerignore").read_text().splitlines()
            if line.startswith("!")
        }
        for name, value in instructions(dockerfile):
            if name == "COPY" and "--from" not in value:
                *sources, _ = value.split()
                assert {source.rstrip("/") for source in sources} <= allowed
                assert all((ROOT / source).exists() for source in sources)

    def test_it_does_not_run_as_root(self, dockerfile):
        names = [name for name, _ in instructions(dockerfile)]
        assert dict(instructions(dockerfile))["USER"] == "10001:10001"
        assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")

    def test_the_extra_exists(self, dockerfile):
        tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
        extras = settings["project"]["optional-dependencies"]
        text = dockerfile.read_text()
        named = set(re.findall(r"'\.\[([\w-]+)\]'", text))
        named |= {
            one for group in re.findall(r"EXTRAS=([\w,-]+)", text) for one in group.split(",")
        }
        assert named
        assert named <= extras.keys()

    def test_the_health_check_asks_for_an_inference_and_no_proxy(self, dockerfile):
        check = dict(instructions(dockerfile))["HEALTHCHECK"]
        _, option, code = json.loads(check[check.index("CMD") + 3 :])
        ast.parse(code)
        assert option == "-c"
        assert "/readyz" in code
        assert "ProxyHandler({})" in code


def merge(base, extra):
    """Merge compose files, as far as these need it: mappings merge, the later value wins."""
    if isinstance(base, dict) and isinstance(extra, dict):
        return {
            key: merge(base[key], extra[key]) if key in base and key in extra
            else (extra if key in extra else base)[key]
            for key in base.keys() | extra.keys()
        }  # fmt: skip
    return extra


@pytest.fixture(params=["compose.yaml", "compose.yaml+gpu.yaml"])
def compose(request):
    """A compose file, alone and with the one for GPUs."""
    merged = {}
    for name in request.param.split("+"):
        merged = merge(merged, load(COMPOSE / name))
    return merged


def test_compose_follows_its_schema(compose):
    jsonschema = pytest.importorskip("jsonschema", reason="needs the extra 'dev'")
    schema = json.loads((ROOT / "tests" / "deploy" / "compose-spec.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(compose, schema, jsonschema.Draft202012Validator)
    broken = yaml.safe_load(yaml.safe_dump(compose))
    broken["services"]["delugeserve"]["read_onyl"] = True
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema, jsonschema.Draft202012Validator)


def test_compose_is_locked_down(compose):
    service = compose["services"]["delugeserve"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"] == "10001:10001"
    assert all(volume["read_only"] for volume in service["volumes"])
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert any(re.match(r"/tmp:.*\bexec\b", one) for one in service["tmpfs"])


def test_compose_builds_what_it_runs(compose):
    service = compose["services"]["delugeserve"]
    dockerfile = ROOT / service["build"]["dockerfile"]
    assert (COMPOSE / service["build"]["context"]).resolve() == ROOT
    assert ["delugeserve", *service["command"]] == command_line(dockerfile)
    exposed = dict(instructions(dockerfile))["EXPOSE"].split()
    assert {port.rsplit(":")[-1] for port in service["ports"]} == set(exposed)


def test_our_images_have_this_version_everywhere(compose):
    image = compose["services"]["delugeserve"]["image"]
    assert re.fullmatch(rf"delugeserve:{re.escape(__version__)}(-triton\d\d\.\d\d)?", image)
    arguments = compose["services"]["delugeserve"]["build"].get("args")
    if arguments:
        release = arguments["TRITON_TAG"].removesuffix("-py3")
        assert image.endswith(f"-triton{release}")
        assert release in TENSORRT_RELEASES.values()
