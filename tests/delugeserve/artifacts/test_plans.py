"""What is read from the header of TensorRT plans."""

import pytest

from delugeserve.artifacts.plans import read_plan
from delugeserve.errors import SubjectError

# The first bytes of a plan that TensorRT-RTX 1.7.1.116 built, and of one as trtexec reads it.
RTX_PLAN = bytes.fromhex("7674727400000000 0200000000000000 9440040000000000 01070174 76747274")
TENSORRT_PLAN = b"ftrt" + bytes(20) + bytes([10, 13, 3, 9])


@pytest.mark.parametrize(
    ("head", "builder", "version"),
    [(RTX_PLAN, "TensorRT-RTX", "1.7.1.116"), (TENSORRT_PLAN, "TensorRT", "10.13.3.9")],
)
def test_builder_and_version(tmp_path, head, builder, version):
    path = tmp_path / "model.plan"
    path.write_bytes(head + bytes(1000))
    found = read_plan(path)
    assert (found.builder, found.version) == (builder, version)
    assert found.bytes == len(head) + 1000
    assert found.manifest is None


@pytest.mark.parametrize("content", [b"", b"ftrt", b"not a plan" * 10, bytes(100)])
def test_garbage_is_refused(tmp_path, content):
    path = tmp_path / "garbage.plan"
    path.write_bytes(content)
    with pytest.raises(SubjectError) as caught:
        read_plan(path)
    assert caught.value.subject == str(path)
