"""A sender to Triton's HTTP endpoint."""

from __future__ import annotations

import re
from collections.abc import Sequence

from delugeserve.load.senders.http1 import HttpSender
from delugeserve.load.target import Target, describe_model
from delugeserve_client.served import PROBABILITIES
from delugeserve_client.triton import build_request, import_triton

_JSON_SIZE = re.compile(rb"\r\ninference-header-content-length: *(\d+)", re.IGNORECASE)


class TritonHttpSender(HttpSender):
    """Sends pixels to Triton's HTTP endpoint, in its binary form.

    Raises:
        ClientError: the server cannot be asked.
    """

    def __init__(self, target: Target) -> None:
        self._served = describe_model(target.url, target.model, target.timeout, target.credentials)
        self._module = import_triton("http")
        super().__init__(target)

    def path(self, sample_ids: Sequence[int]) -> str:  # noqa: D102
        version = f"/versions/{self._served.version}" if self._served.version else ""
        return f"/v2/models/{self._served.name}{version}/infer"

    def _infer_body(self, sample_ids: Sequence[int]) -> tuple[bytes, int]:
        batch = self.target.images[list(sample_ids)]
        request = build_request(
            self._module, self._served, batch, {PROBABILITIES: 0}, self.target.timeout
        )
        body, json_size = self._module.InferenceServerClient.generate_request_body(
            request["inputs"], outputs=request["outputs"], timeout=request["timeout"]
        )
        return bytes(body), json_size

    def body(self, sample_ids: Sequence[int]) -> bytes:  # noqa: D102
        return self._infer_body(sample_ids)[0]

    def headers(self, sample_ids: Sequence[int]) -> dict[str, str]:  # noqa: D102
        json_size = self._infer_body(sample_ids)[1]
        return {
            **super().headers(sample_ids),
            "Inference-Header-Content-Length": str(json_size),
        }

    def read(self, head: bytes, body: bytes) -> bytes:  # noqa: D102
        match = _JSON_SIZE.search(head)
        if match is None:
            raise ValueError("the answer has no Inference-Header-Content-Length")
        return body[int(match[1]) :]
