"""Envoy's Lua scripts, in the LuaJIT that Envoy has too."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delugeserve.serving.front.clusters import SCRIPTS

luajit = pytest.importorskip("lupa.luajit21")


def load(result: str, *scripts: str):
    """Return a local value of some scripts."""
    code = "\n".join((SCRIPTS / f"{script}.lua").read_text() for script in scripts)
    return luajit.LuaRuntime(encoding=None).execute(f"{code}\nreturn {result}".encode())


SHA256 = load("sha256", "sha256")
TOO_DEEP = load("too_deep", "refuse", "guard")
GRPC_MODEL = load("grpc_model", "refuse", "guard")
WITHOUT_DETAILS = load("without_details", "refuse", "guard")


@given(st.binary(max_size=300))
def test_sha256(data):
    assert SHA256(data) == hashlib.sha256(data).hexdigest().encode()


def test_sha256_of_every_padding():
    for length in (*range(130), 4096):
        test_sha256.hypothesis.inner_test(bytes(length))


JSON = st.recursive(
    st.text('a[]{}"\\') | st.integers(),
    lambda values: (
        st.lists(values, max_size=3) | st.dictionaries(st.text("[a"), values, max_size=2)
    ),
    max_leaves=20,
)


def depth(value) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(JSON)
def test_depth_of_json(value):
    text = json.dumps(value).encode()
    assert not TOO_DEEP(text, depth(value))
    if depth(value):
        assert TOO_DEEP(text, depth(value) - 1)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_to_their_end(data):
    assert TOO_DEEP(data, 64) in (True, False)
    GRPC_MODEL(data)
    WITHOUT_DETAILS(data)


@pytest.mark.parametrize(
    ("start", "model"),
    [
        (b"\0\0\0\0\x06\x0a\x04tiny", b"tiny"),
        (b"\0\0\0\0\x06\x0a\x04tin", None),
        (b"\0\0\0\0\x06\x12\x04tiny", None),
        (b"\0\0\0\0\0", None),
        (b"", None),
    ],
)
def test_the_model_of_a_grpc_request(start, model):
    assert GRPC_MODEL(start) == model


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (b"no image%0A%0AAt:%0A  /tmp/m.py(3): execute%0A", b"no image"),
        (b"cannot open /tmp/a/tiny/model.onnx: gone", b"cannot open : gone"),
        (b"Traceback (most recent call last):\n x", b"The server failed."),
        (b"100 images/s are a/b", b"100 images/s are a/b"),
    ],
)
def test_details_of_a_server_are_hidden(message, shown):
    assert WITHOUT_DETAILS(message) == shown


def test_a_script_that_fails_refuses_the_request():
    status = luajit.LuaRuntime(encoding=None).execute(
        (
            (SCRIPTS / "refuse.lua").read_text()
            + """
        local answer
        local handle = {
          headers = function() return {get = function() return nil end} end,
          logErr = function() end,
          respond = function(_, headers) answer = headers[":status"] end,
        }
        guarded(handle, function() error("broken") end)
        return answer
        """
        ).encode()
    )
    assert status == b"500"
