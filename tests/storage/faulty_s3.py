"""An S3 store that refuses on command, for what a healthy server cannot show: 403 on one request, 500 half-way."""

import threading
from collections.abc import Callable
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Refuse = Callable[[str, str], int]
"""(method, path with query) to the status to refuse with, `RESET`, or 0."""
RESET = -1
"""The connection ends without an answer."""


class FaultyS3:
    """Serves objects, by "/bucket/key", to GET and HEAD."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.refuse: Refuse = lambda method, path: 0
        self.refused: list[str] = []
        """Methods of the requests that were refused: that the fault fired."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                status = store.refuse(self.command, self.path)
                data = store.objects.get(unquote(urlsplit(self.path).path))
                if status:
                    store.refused.append(self.command)
                if status == RESET:
                    self.close_connection = True
                elif status:
                    self._answer(status, _error("AccessDenied" if status == 403 else "InternalError"))
                elif data is None:
                    self._answer(404, _error("NoSuchKey"))
                elif range_ := self.headers.get("Range"):
                    first, last = (int(number) for number in range_.removeprefix("bytes=").split("-"))
                    span = f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
                    self._answer(206, data[first : last + 1], {"Content-Range": span})
                else:
                    self._answer(200, data, {"ETag": f'"{md5(data).hexdigest()}"'})

            do_HEAD = do_GET  # noqa: N815

            def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


def _error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code></Error>".encode()
