"""``delugeserve serve``, as far as it goes without a server."""

import json
import shutil
from types import SimpleNamespace

import pytest

from delugeserve.cli.commands import serve
from delugeserve.cli.render import serving
from delugeserve.serving import ports
from delugeserve.serving.triton.launch import Endpoints


def server(address="127.0.0.1", http=8000):
    return SimpleNamespace(
        host=address,
        endpoints=Endpoints(address, 8001, http, 8002),
        grpc_url="127.0.0.1:8001",
        http_url=f"127.0.0.1:{http}" if http else None,
        metrics_url="http://127.0.0.1:8002/metrics",
        models=["tiny", "small"],
    )


def test_the_addresses_of_the_machine_are_printed(capsys, monkeypatch):
    monkeypatch.setattr(ports, "machine_addresses", lambda address: ("192.0.2.2", "192.0.2.3"))
    serving.announce(server("0.0.0.0", http=None), {"tiny": False}, json=False)
    out, err = capsys.readouterr()
    assert dict(line.split(maxsplit=1) for line in out.splitlines()) == {
        "gRPC": "192.0.2.2:8001 192.0.2.3:8001",
        "HTTP": "off",
        "metrics": "http://127.0.0.1:8002/metrics",
        "models": "tiny (untrained), small",
    }
    # The port is the default one, and the client is on this machine.
    assert "--url" not in err


@pytest.mark.parametrize(
    ("trained", "suggested"),
    [
        ({"tiny": False, "small": True}, "small"),
        ({"tiny": None, "small": True}, "small"),
        ({"tiny": False}, "small"),
        ({"tiny": False, "small": False}, "tiny"),
        ({"tiny": True, "small": True}, "tiny"),
    ],
)
def test_a_trained_model_is_suggested(capsys, trained, suggested):
    serving.announce(server(), trained, json=False)
    assert capsys.readouterr().err.splitlines()[0].endswith(f" --model {suggested}")


def test_manifests_tell_which_models_are_trained(exported, tmp_path):
    stored = shutil.copytree(exported, tmp_path / "stored")
    assert serving.find_trained(stored, ["tiny"]) == {"tiny": True}
    path = stored / "tiny" / "1" / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "trained": False}))
    assert serving.find_trained(stored, ["tiny"]) == {"tiny": False}
    path.unlink()
    assert serving.find_trained(stored, ["tiny"]) == {"tiny": None}


def test_json_has_addresses_for_clients_on_this_machine(capsys):
    serving.announce(server("0.0.0.0"), {}, json=True)
    (line,) = capsys.readouterr().out.splitlines()
    ready = json.loads(line)
    assert ready["grpc"] == "127.0.0.1:8001"
    assert ready["host"] == "0.0.0.0"


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--grpc-port", "70000", "--grpc-port"),
        ("--http-port", "-1", "--http-port"),
        ("--log", "nowhere/server.log", "nowhere"),
        ("--host", "no such host", "no such host"),
        ("--repository", "nowhere", "nowhere"),
    ],
)
def test_mistakes_exit_with_2(run, tmp_path, monkeypatch, option, value, named):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("serve", option, value)
    assert (status, out) == (2, "")
    assert named in err


def test_models_are_completed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "small"):
        (tmp_path / "model_repository" / name).mkdir(parents=True)
        (tmp_path / "model_repository" / name / "config.pbtxt").touch()
    assert serve._complete_model(SimpleNamespace(params={}), "t") == ["tiny"]
    given = SimpleNamespace(params={"repository": "nowhere"})
    assert serve._complete_model(given, "") == []


def test_a_bare_server_has_its_metrics_at_its_own_address(run, exported):
    status, out, err = run(
        "serve", "--repository", exported, "--direct", "--metrics-host", "0.0.0.0"
    )
    assert (status, out) == (2, "")
    assert "--metrics-host" in err


@pytest.mark.parametrize("options", [("--active", "2"), ("--spread", "sockets")])
def test_a_bare_server_is_one_server(run, exported, options):
    status, out, err = run("serve", "--repository", exported, "--direct", *options)
    assert (status, out) == (2, "")
    assert options[0] in err


def test_a_bare_server_is_not_exposed_by_mistake(run, exported):
    status, out, err = run("serve", "--repository", exported, "--direct", "--host", "0.0.0.0")
    assert (status, out) == (2, "")
    assert "--insecure" in err


def test_the_address_of_a_server_with_tls_can_be_pasted(capsys):
    serving.announce(server(), {}, tls=True)
    out, err = capsys.readouterr()
    assert "grpcs://127.0.0.1:8001" in out
    assert "https://127.0.0.1:8000" in out
    assert "--url grpcs://127.0.0.1:8001" in err
    serving.announce(server(), {}, tls=True, json=True)
    assert json.loads(capsys.readouterr().out)["tls"] is True
