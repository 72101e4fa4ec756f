"""HTTP/1.1 as uvicorn speaks it, with a limit for a request's headers."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from delugeserve.serving.gateway.settings import MOST_HEADER_BYTES


class LimitedProtocol(HttpToolsProtocol):
    """Refuses a request whose headers do not end: httptools would collect them for ever."""

    _reading_headers = True
    _requests = 0
    _received = 0

    def data_received(self, data: bytes) -> None:
        """Take what the client has sent: parts of headers, of a body, or of both."""
        requests = self._requests
        super().data_received(data)
        if self._reading_headers and requests == self._requests:  # nothing in it was a body
            self._received += len(data)
            if self._received > MOST_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response("The request's headers are too large.")

    def on_headers_complete(self) -> None:
        """Start the request."""
        self._reading_headers, self._received = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End the request; the next one's headers may follow."""
        self._reading_headers = True
        self._requests += 1
        super().on_message_complete()
