"""Which addresses are served to whom, and which certificates and keys can be used."""

from __future__ import annotations

import hashlib
import itertools
import subprocess

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.errors import UnknownNameError, UsageError
from delugeserve.serving.front.keys import PREFIX, add_key, read_keys, remove_keys
from delugeserve.serving.front.security import Jwt, Security


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A certificate, its key, another key, and the authority's certificate."""
    folder = tmp_path_factory.mktemp("security")
    authority = trustme.CA()
    for name in ("server", "other"):
        made = authority.issue_cert("localhost")
        made.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        made.private_key_pem.write_to_path(folder / f"{name}.key")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "jwks.json").write_text('{"keys":[]}')
    add_key(folder / "keys.txt", "alice")
    return folder


def test_who_may_reach_which_address(files):
    tls = {"certificate": files / "server.pem", "private_key": files / "server.key"}
    who = ({}, {"keys": files / "keys.txt"}, {"jwt": Jwt("me", files / "jwks.json")})
    for encrypted, known in itertools.product((False, True), who):
        security = Security(**(tls if encrypted else {}), **known)
        for address in ("127.0.0.1", "::1"):
            security.check(address)
        for address in ("0.0.0.0", "::", "10.0.0.7"):
            if encrypted and known:
                security.check(address)
            else:
                with pytest.raises(UsageError) as caught:
                    security.check(address)
                assert ("--tls-certificate" in caught.value.remedy) == (not encrypted)
                assert ("--keys" in caught.value.remedy) == (not known)
            Security(insecure=True).check(address)
    Security(**tls, client_ca=files / "ca.pem").check("0.0.0.0")


@pytest.mark.parametrize(
    "settings",
    [
        {"certificate": "server.pem"},
        {"private_key": "server.key"},
        {"client_ca": "ca.pem"},
        {"certificate": "server.pem", "private_key": "other.key"},
        {"certificate": "server.pem", "private_key": "keys.txt"},
        {"certificate": "absent.pem", "private_key": "server.key"},
        {"certificate": "server.pem", "private_key": "server.key", "client_ca": "keys.txt"},
        {"certificate": "server.pem", "private_key": "server.key", "client_ca": "absent"},
        {"keys": "absent"},
        {"keys": "server.pem"},
    ],
    ids=str,
)
def test_files_that_cannot_be_used(files, settings):
    with pytest.raises(UsageError):
        Security(**{name: files / file for name, file in settings.items()}).check("127.0.0.1")


def test_a_private_key_with_a_password(files, tmp_path):
    locked = tmp_path / "locked.key"
    subprocess.run(
        [
            "openssl",
            "pkey",
            "-in",
            files / "server.key",
            "-aes256",
            "-passout",
            "pass:x",
            "-out",
            locked,
        ],
        check=True,
    )
    with pytest.raises(UsageError, match="password"):
        Security(certificate=files / "server.pem", private_key=locked).check("127.0.0.1")


def test_keys_and_tokens_exclude_each_other(files):
    security = Security(keys=files / "keys.txt", jwt=Jwt("me", files / "jwks.json"))
    with pytest.raises(UsageError):
        security.check("127.0.0.1")


def test_a_key_is_kept_as_its_digest(tmp_path):
    path = tmp_path / "keys.txt"
    first, second = add_key(path, "alice"), add_key(path, "alice")
    third = add_key(path, "bob")
    assert len({first, second, third}) == 3
    assert all(key.startswith(PREFIX) and len(key) > 40 for key in (first, second, third))
    assert not [key for key in (first, second, third) if key in path.read_text()]
    assert [(key.name, key.digest) for key in read_keys(path)] == [
        (name, hashlib.sha256(key.encode()).hexdigest())
        for name, key in (("alice", first), ("alice", second), ("bob", third))
    ]
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    assert remove_keys(path, "alice") == 2
    assert [key.name for key in read_keys(path)] == ["bob"]
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(UnknownNameError) as caught:
        remove_keys(path, "bobb")
    assert caught.value.nearest == "bob"


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "ä", "x" * 65, "a#/"])
def test_names_that_are_refused(tmp_path, name):
    with pytest.raises(UsageError):
        add_key(tmp_path / "keys.txt", name)
    assert not (tmp_path / "keys.txt").exists()


def test_a_file_of_sha256sum_is_read(tmp_path):
    digest = hashlib.sha256(b"secret").hexdigest()
    (tmp_path / "keys.txt").write_text(f"# mine\n\n{digest}  alice\n{digest} *bob\n")
    assert [key.name for key in read_keys(tmp_path / "keys.txt")] == ["alice", "bob"]


@given(st.text("0123456789abcdef #*\n\r xyz", max_size=80))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_text(text)
    try:
        keys = read_keys(path)
    except UsageError:
        return
    assert all(len(key.digest) == 64 for key in keys)
