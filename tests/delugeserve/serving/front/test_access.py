"""TLS, client certificates, API keys and tokens of a running front."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import shutil
import ssl
import subprocess
import time
from pathlib import Path

import grpc
import pytest
import trustme
from fake_replica import wait_until

from delugeserve.errors import UsageError
from delugeserve.serving.front.keys import add_key, remove_keys
from delugeserve.serving.front.security import Jwt, Security
from delugeserve_client import (
    AsyncClassifier,
    AuthenticationFailed,
    Classifier,
    Credentials,
    RetryPolicy,
    WrongProtocol,
)

INFER = "/v2/models/tiny/infer"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def issue(authority: trustme.CA, folder: Path, name: str = "server") -> Path:
    made = authority.issue_cert("localhost", common_name=name)
    made.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    made.private_key_pem.write_to_path(folder / f"{name}.key")
    return folder / f"{name}.pem"


@pytest.fixture(scope="module")
def secured(start, authority, tmp_path_factory):
    """A front with TLS and client certificates; its settings and files."""
    folder = tmp_path_factory.mktemp("tls")
    issue(authority, folder)
    issue(authority, folder, "alice")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    security = Security(folder / "server.pem", folder / "server.key", folder / "ca.pem")
    return start(security=security), folder


def https(setup, folder, client: str | None = "alice", path: str = INFER):
    context = ssl.create_default_context(cafile=folder / "ca.pem")
    if client:
        context.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    port = setup.front.settings.http_port
    connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
    try:
        connection.request("POST", path, b"{}")
        certificate = connection.sock.getpeercert()
        return connection.getresponse().status, certificate["serialNumber"]
    finally:
        connection.close()


def test_tls_and_client_certificates(secured):
    setup, folder = secured
    assert https(setup, folder)[0] == 200
    assert "CN=alice" in setup.active.seen[-1][1]["x-client-id"]
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        https(setup, folder, client=None)
    with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
        setup.http("POST", INFER, b"{}")


def test_a_certificate_of_another_authority_is_refused(secured):
    setup, folder = secured
    issue(trustme.CA(), folder, "mallory")
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        https(setup, folder, client="mallory")


def test_grpc_with_tls(secured):
    setup, folder = secured
    credentials = grpc.ssl_channel_credentials(
        (folder / "ca.pem").read_bytes(),
        (folder / "alice.key").read_bytes(),
        (folder / "alice.pem").read_bytes(),
    )
    target = f"localhost:{setup.front.settings.grpc_port}"
    with grpc.secure_channel(target, credentials) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert infer(b"", timeout=60) == b"a"
    assert "CN=alice" in setup.active.seen[-1][1]["x-client-id"]


def test_a_renewed_certificate_is_taken_without_a_restart(secured, authority, tmp_path):
    setup, folder = secured
    before = https(setup, folder)[1]
    issue(authority, tmp_path)
    # In two steps, as a careless copy does it: in between the two do not belong together.
    shutil.copy(tmp_path / "server.pem", folder / "server.pem")
    time.sleep(1.2)
    assert https(setup, folder)[1] == before
    shutil.copy(tmp_path / "server.key", folder / "server.key")
    wait_until(lambda: https(setup, folder)[1] != before)
    assert https(setup, folder)[0] == 200


@pytest.fixture(scope="module")
def keyed(start, tmp_path_factory):
    """A front with API keys: the setup, the file of keys, and a key of ``alice``."""
    path = tmp_path_factory.mktemp("keys") / "keys.txt"
    key = add_key(path, "alice")
    return start(security=Security(keys=path)), path, key


def infer_with(setup, **headers) -> int:
    return setup.http("POST", INFER, b"{}", **headers)[0]


def test_api_keys(keyed):
    setup, _, key = keyed
    assert infer_with(setup, authorization=f"Bearer {key}") == 200
    assert infer_with(setup, authorization=f"bearer {key}", x_client_id="root") == 200
    assert infer_with(setup, x_api_key=key) == 200
    headers = setup.active.seen[-1][1]
    assert headers["x-client-id"] == "alice"
    assert not [name for name, value in headers.items() if key in value]
    for wrong in ("", "x", key[:-1], key + "x", "x" * 300, f"{key}, {key}"):
        assert infer_with(setup, x_api_key=wrong) == 401
    for wrong in (key, f"Basic {key}", f"Bearer  {key} x", "Bearer"):
        assert infer_with(setup, authorization=wrong) == 401
    status, headers, body = setup.http("POST", INFER, b"{}")
    assert status == 401
    assert headers["www-authenticate"] == "Bearer"
    assert json.loads(body) == {"error": "An API key is required."}


def test_api_keys_over_grpc(keyed):
    setup, _, key = keyed
    assert setup.infer(metadata=[("authorization", f"Bearer {key}")]) == b"a"
    assert setup.active.seen[-1][1]["x-client-id"] == "alice"
    for metadata in ((), [("x-api-key", "wrong")]):
        with pytest.raises(grpc.RpcError) as caught:
            setup.infer(metadata=metadata)
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_health_needs_no_key(keyed):
    setup, _, _ = keyed
    assert setup.http("GET", "/v2/health/ready")[0] == 200
    assert setup.infer(method="/grpc.health.v1.Health/Check") == b"\x08\x01"
    assert setup.http("GET", "/v2/models/tiny")[0] == 401
    # A path that becomes another one is judged by what it becomes.
    assert setup.http("GET", "/v2/health/ready/../../models/tiny")[0] == 401


def test_a_change_of_the_keys_needs_no_restart(keyed):
    setup, path, _ = keyed
    key = add_key(path, "bob")
    wait_until(lambda: infer_with(setup, x_api_key=key) == 200)
    remove_keys(path, "bob")
    wait_until(lambda: infer_with(setup, x_api_key=key) == 401)


def test_no_key_is_in_a_log_or_a_command_line(keyed):
    setup, _, key = keyed
    infer_with(setup, x_api_key=key)
    processes = "".join(
        entry.read_text(errors="replace") for entry in Path("/proc").glob("[0-9]*/cmdline")
    )
    assert key not in processes
    assert key not in setup.front.log_tail(1000)


def test_a_missing_file_of_keys_lets_nobody_in(start, tmp_path):
    path = tmp_path / "keys.txt"
    key = add_key(path, "alice")
    setup = start(security=Security(keys=path))
    assert infer_with(setup, x_api_key=key) == 200
    path.unlink()
    wait_until(lambda: infer_with(setup, x_api_key=key) == 401)


def test_json_web_tokens(start, tmp_path):
    private = tmp_path / "key.pem"
    subprocess.run(["openssl", "genrsa", "-out", private, "2048"], check=True, capture_output=True)
    modulus = subprocess.run(
        ["openssl", "rsa", "-in", private, "-noout", "-modulus"], check=True, capture_output=True
    ).stdout.partition(b"=")[2]
    number = base64.urlsafe_b64encode(bytes.fromhex(modulus.decode().strip())).rstrip(b"=")
    jwks = tmp_path / "jwks.json"
    jwks.write_text(
        json.dumps({"keys": [{"kty": "RSA", "alg": "RS256", "n": number.decode(), "e": "AQAB"}]})
    )

    def token(**claims) -> str:
        parts = [{"alg": "RS256", "typ": "JWT"}, claims]
        text = b".".join(
            base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in parts
        )
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", private],
            input=text,
            check=True,
            capture_output=True,
        ).stdout
        return (text + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()

    setup = start(security=Security(jwt=Jwt("https://id.example", jwks, "models")))
    later = time.time() + 600
    good = {"iss": "https://id.example", "aud": "models", "sub": "alice", "exp": later}
    assert infer_with(setup, authorization=f"Bearer {token(**good)}", x_client_id="root") == 200
    assert setup.active.seen[-1][1]["x-client-id"] == "alice"
    assert "authorization" not in setup.active.seen[-1][1]
    for claims in ({"aud": "other"}, {"exp": time.time() - 600}, {"iss": "other"}):
        bad = token(**(good | claims))
        assert infer_with(setup, authorization=f"Bearer {bad}") in (401, 403)
    assert infer_with(setup) == 401
    with pytest.raises(grpc.RpcError) as caught:
        setup.infer()
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert setup.http("GET", "/v2/health/ready")[0] == 200


def test_other_machines_are_not_served_without_tls_and_keys(start):
    with pytest.raises(UsageError):
        start(address="0.0.0.0")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_our_own_client(secured, keyed, monkeypatch, protocol):
    """The stand-in describes no model, so what succeeds ends with an answer that is not one."""
    setup, folder = secured
    plain, _, key = keyed

    def ask(front, scheme: str, credentials: Credentials) -> type[Exception]:
        port = front.front.settings.grpc_port
        if protocol == "http":
            port = front.front.settings.http_port
        url = f"{scheme}localhost:{port}"
        try:
            Classifier(
                url,
                "tiny",
                protocol=None if scheme else protocol,
                timeout=60,
                credentials=credentials,
                retry=RetryPolicy(attempts=1),
            )
        except Exception as error:
            return type(error)
        raise AssertionError

    tls = {"grpc": "grpcs://", "http": "https://"}[protocol]
    certificate = Credentials(None, folder / "ca.pem", folder / "alice.pem", folder / "alice.key")
    before = len(setup.active.seen)
    ask(setup, tls, certificate)
    assert len(setup.active.seen) == before + 1  # it got through
    assert ask(setup, tls, Credentials()) is AuthenticationFailed
    assert ask(setup, "", certificate) is WrongProtocol
    assert ask(setup, tls, Credentials(ca=folder / "absent.pem")) is AuthenticationFailed
    before = len(plain.active.seen)
    monkeypatch.setenv("DELUGESERVE_API_KEY", key)
    ask(plain, "", Credentials.from_environment())
    assert len(plain.active.seen) == before + 1
    assert key not in repr(Credentials.from_environment())
    assert ask(plain, "", Credentials()) is AuthenticationFailed
    assert ask(plain, tls, Credentials()) is AuthenticationFailed


def test_our_own_client_for_asyncio(secured, keyed):
    setup, folder = secured
    plain, _, key = keyed

    async def ask(front, scheme: str, credentials: Credentials) -> type[Exception]:
        url = f"{scheme}localhost:{front.front.settings.grpc_port}"
        classifier = AsyncClassifier(url, "tiny", credentials=credentials)
        try:
            await classifier.connect()
        except Exception as error:
            return type(error)
        finally:
            await classifier.close()
        raise AssertionError

    certificate = Credentials(None, folder / "ca.pem", folder / "alice.pem", folder / "alice.key")
    for front, scheme, accepted in (
        (setup, "grpcs://", certificate),
        (plain, "", Credentials(key)),
    ):
        before = len(front.active.seen)
        asyncio.run(ask(front, scheme, accepted))
        assert len(front.active.seen) == before + 1  # it got through
        assert asyncio.run(ask(front, scheme, Credentials())) is AuthenticationFailed
