"""The smallest real request of a model, over gRPC: whether a server answers, not only listens."""

from __future__ import annotations

from typing import Any

from delugeserve.artifacts.image_models import probe

_MAX_MESSAGE = 2**31 - 1  # bytes; options of a channel replace tritonclient's own


def connect(url: str) -> Any:
    """Return a gRPC client of a server on this machine."""
    import tritonclient.grpc

    return tritonclient.grpc.InferenceServerClient(
        url,
        channel_args=[
            ("grpc.max_send_message_length", _MAX_MESSAGE),
            ("grpc.max_receive_message_length", _MAX_MESSAGE),
            # http_proxy in the environment is not for servers of this machine.
            ("grpc.enable_http_proxy", 0),
        ],
    )


def smallest_inputs(client: Any, model: str, timeout: float) -> list[Any]:
    """Return inputs for one image, of the shapes in the model's metadata.

    Args:
        client: from :func:`connect`.
        model: name of the model.
        timeout: seconds that the server may take for the metadata.

    Returns:
        Zeros for numbers, a tiny encoded picture for bytes.
    """
    import numpy as np
    import tritonclient.grpc
    from tritonclient.utils import triton_to_np_dtype

    metadata = client.get_model_metadata(model, client_timeout=timeout)
    inputs = []
    for tensor in metadata.inputs:
        values = probe(tensor.datatype, tensor.shape)
        if values is None:
            # A size of -1 is the batch, or any size at all.
            shape = [1 if size < 0 else size for size in tensor.shape]
            values = np.zeros(shape, triton_to_np_dtype(tensor.datatype))
        inputs.append(
            tritonclient.grpc.InferInput(tensor.name, list(values.shape), tensor.datatype)
        )
        inputs[-1].set_data_from_numpy(values)
    return inputs
