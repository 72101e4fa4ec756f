import json

from delugeserve_client.address import Address
from delugeserve_client.triton import channel_arguments


def test_channel_arguments_restate_the_message_sizes():
    arguments = dict(channel_arguments(Address("localhost:8001", "grpc")))
    assert arguments["grpc.max_send_message_length"] == 2**31 - 1
    assert arguments["grpc.max_receive_message_length"] == 2**31 - 1
    policy = json.loads(arguments["grpc.service_config"])["methodConfig"][0]["retryPolicy"]
    assert policy["retryableStatusCodes"] == ["UNAVAILABLE"]
