import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from delugeserve_client import ImageError
from delugeserve_client.images.urls import download, is_url


class Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        where = {"/redirect": "/image", "/to-file": "file:///etc/passwd", "/loop": "/loop"}
        if self.path in where:
            self.send_response(302)
            self.send_header("Location", where[self.path])
            self.end_headers()
            return
        if self.path == "/stuck":
            self.send_response(200)
            self.end_headers()
            self.server.released.wait(30)
            return
        if self.path == "/drip":  # a byte now and then
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while not self.server.released.wait(0.02):
                    self.wfile.write(b"x")
            return
        self.send_response(200 if self.path.startswith("/image") else 404)
        self.end_headers()
        self.wfile.write(b"x" * 3000)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def site():
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        server.released, server.daemon_threads, server.block_on_close = (
            threading.Event(),
            True,
            False,
        )
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.released.set()
        server.shutdown()


@pytest.mark.parametrize("path", ["/image", "/image?size=2", "/redirect"])
def test_downloads(site, path, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # not for loopback addresses
    assert download(site + path) == b"x" * 3000


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/missing", "status 404"),
        ("/to-file", "status 302"),
        ("/loop", "cannot be downloaded"),
        ("/stuck", "more than 0.2 s"),
        ("/drip", "more than 0.2 s"),
    ],
)
def test_what_cannot_be_downloaded(site, path, says):
    with pytest.raises(ImageError) as caught:
        download(site + path, seconds=0.2)
    assert says in caught.value.problem
    assert caught.value.source == site + path


def test_too_large(site):
    with pytest.raises(ImageError, match="larger than"):
        download(f"{site}/image", largest=2999)


def test_passwords_are_not_shown():
    url = "http://me:secret@127.0.0.1:9/cat.jpg?token=secret"
    with pytest.raises(ImageError) as caught:
        download(url)
    assert "secret" not in caught.value.problem


@pytest.mark.parametrize("text", ["cat.jpg", "ftp://a/cat.jpg", "file:///cat.jpg", b"http://", 3])
def test_what_is_no_url(text):
    assert not is_url(text)
