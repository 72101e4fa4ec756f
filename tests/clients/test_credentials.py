import socket
import ssl
import threading
from datetime import datetime, timezone

import grpc
import pytest
import trustme

from delugeserve_client import AuthenticationFailed, Classifier, Credentials, RetryPolicy
from delugeserve_client.credentials import CERTIFICATE, PRIVATE_KEY


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("alice", "bob"):
        leaf = authority.issue_cert(f"{name}.example")
        leaf.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        leaf.private_key_pem.write_to_path(folder / f"{name}.key")
        leaf.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.both")
    (folder / "junk").write_text("not a PEM file\n")
    return folder


@pytest.mark.parametrize(
    ("ca", "certificate", "private_key"),
    [
        ("ca.pem", None, None),
        ("ca.pem", "alice.pem", "alice.key"),
        ("ca.pem", "alice.both", None),
    ],
)
def test_good_files(files, ca, certificate, private_key):
    names = {"ca": ca, "certificate": certificate, "private_key": private_key}
    credentials = Credentials(**{key: str(files / name) for key, name in names.items() if name})
    assert credentials.tls_context()
    assert credentials.grpc_credentials(grpc)


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
@pytest.mark.parametrize(
    ("ca", "certificate", "private_key", "at_fault", "remedy"),
    [
        ("junk", None, None, "junk", CERTIFICATE),
        ("missing", None, None, "missing", CERTIFICATE),
        ("ca.pem", "junk", "alice.key", "junk", CERTIFICATE),
        ("ca.pem", "alice.pem", None, "alice.pem", PRIVATE_KEY),  # gRPC would abort the process
        ("ca.pem", "alice.pem", "junk", "junk", PRIVATE_KEY),
        ("ca.pem", "alice.pem", "bob.key", "bob.key", PRIVATE_KEY),
        ("ca.pem", None, "alice.key", "alice.key", CERTIFICATE),
    ],
)
def test_bad_files(files, scheme, ca, certificate, private_key, at_fault, remedy):
    names = {"ca": ca, "certificate": certificate, "private_key": private_key}
    credentials = Credentials(**{key: files / name for key, name in names.items() if name})
    with pytest.raises(AuthenticationFailed) as caught:
        Classifier(f"{scheme}://127.0.0.1:1", "m", credentials=credentials)
    assert str(files / at_fault) in caught.value.problem
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
def test_an_expired_certificate(scheme, tmp_path):
    authority, then = trustme.CA(), datetime(2020, 1, 1, tzinfo=timezone.utc)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_after=then).configure_cert(context)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept():
            while True:
                try:
                    connection, _ = server.accept()
                    context.wrap_socket(connection, server_side=True).close()
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        url = f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(AuthenticationFailed, match="expired") as caught:
            Classifier(
                url,
                "m",
                credentials=Credentials(ca=tmp_path / "ca.pem"),
                retry=RetryPolicy(attempts=1),
            )
        assert caught.value.url == url
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("key", ["a\nb", "é"])
def test_keys_that_no_header_can_carry(key, monkeypatch):
    with pytest.raises(AuthenticationFailed) as caught:
        Credentials(api_key=key)
    assert key not in str(caught.value)
    monkeypatch.setenv("DELUGESERVE_API_KEY", key)
    with pytest.raises(AuthenticationFailed):
        Classifier("localhost:1")
