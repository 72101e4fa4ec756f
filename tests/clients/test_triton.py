import numpy as np
import pytest

from delugeserve_client.address import Address
from delugeserve_client.preprocessing import Preprocessing
from delugeserve_client.served import ServedModel
from delugeserve_client.triton import build_request, channel_arguments, import_triton


def test_channel_arguments_restate_the_message_sizes():
    arguments = dict(channel_arguments(Address("localhost:8001", "grpc")))
    assert arguments["grpc.max_send_message_length"] == 2**31 - 1
    assert arguments["grpc.max_receive_message_length"] == 2**31 - 1
    # The client repeats failed attempts itself, within its deadline and its budget.
    assert arguments["grpc.enable_retries"] == 0
    assert "grpc.service_config" not in arguments


@pytest.mark.parametrize(
    ("seconds", "microseconds"), [(30.0, 30_000_000), (0.1, 100_000), (None, None), (np.inf, None)]
)
def test_a_request_states_its_deadline(seconds, microseconds):
    model = ServedModel("m", "", ("1",), "image", {"probabilities": 2}, 4, Preprocessing(2, 2, 2))
    batch = np.zeros((1, 2, 2, 3), np.uint8)
    for protocol in ("grpc", "http"):
        found = build_request(import_triton(protocol), model, batch, {"probabilities": 0}, seconds)
        assert found["timeout"] == microseconds
