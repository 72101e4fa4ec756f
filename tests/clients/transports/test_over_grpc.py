import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from delugeserve_client.transports.messages import Form, Request, image_request
from delugeserve_client.transports.over_grpc import encode


@given(
    st.binary(max_size=2000),
    st.floats(1e-6, 1e6) | st.just(math.inf),
    st.integers(0, 1000),
    st.sampled_from(["", "return"]),
)
def test_requests_are_what_protobuf_would_write(content, timeout, classes, on_error):
    form = Form("net", "3", "image", "UINT8", (len(content), 1), (("scores", classes),), on_error)
    parts = (content[:7], memoryview(content)[7:])
    found = service_pb2.ModelInferRequest.FromString(encode(Request(form, parts), timeout))
    wanted = service_pb2.ModelInferRequest(model_name="net", model_version="3")
    wanted.inputs.add(name="image", datatype="UINT8", shape=(len(content), 1))
    output = wanted.outputs.add(name="scores")
    if classes:
        output.parameters["classification"].int64_param = classes
    if on_error:
        wanted.parameters["on_error"].string_param = on_error
    if math.isfinite(timeout):
        wanted.parameters["timeout"].int64_param = max(1, int(timeout * 1e6))
    wanted.raw_input_contents.append(content)
    assert found == wanted


@pytest.mark.parametrize("images", [[b""], [b"a\0", b"longer than that"]])
def test_encoded_images_are_what_tritonclient_would_send(images):
    import numpy as np
    from tritonclient.utils import serialize_byte_tensor

    request = image_request("m", "", "image", images, {"probabilities": 3, "error": 0})
    expected = serialize_byte_tensor(np.array([[image] for image in images], object)).item()
    assert b"".join(request.parts) == expected
    assert request.nbytes == len(expected)
