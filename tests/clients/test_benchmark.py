import pytest

from delugeserve_client.benchmark import measure


@pytest.mark.parametrize(
    "arguments",
    [
        {"concurrency": [0]},
        {"concurrency": []},
        {"batch_sizes": [1, -1]},
        {"batch_sizes": []},
        {"duration": 0},
        {"warmup": -1},
    ],
)
def test_numbers_out_of_range(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=name):
        measure("127.0.0.1:1", "net", **arguments)
