"""A bad object store: a proxy in front of a good one that answers some requests with a fault of one's choice.

    with FaultProxy("http://127.0.0.1:5000") as proxy:
        rule = proxy.add(status(503), "GET", "/catalogue.csv", times=3)
        ...                                     # Send requests to proxy.url.
        assert rule.fired == 3

Requests are forwarded as they are, Host and Range included; signatures are the store's affair.
"""

import http.client
import os
import re
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import NamedTuple, Self
from urllib.parse import urlsplit

ERRORS = {403: "AccessDenied", 404: "NoSuchUpload", 429: "TooManyRequests", 500: "InternalError", 503: "SlowDown"}
_OF_THE_CONNECTION = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class Answer(NamedTuple):
    """An answer of the store."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


class Exchange(BaseHTTPRequestHandler):
    """One request and what is done with it."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def forward(self) -> Answer:
        """Let the store do what is asked, and return its answer without sending it."""
        connection = http.client.HTTPConnection(self.server.proxy.store, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in ("connection", "expect"):
                connection.putheader(name, value)
        connection.endheaders(self.body)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        length = answer.headers["Content-Length"] if self.command == "HEAD" else str(len(body))
        headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OF_THE_CONNECTION]
        return Answer(answer.status, [*headers, ("Content-Length", length or "0")], body)

    def send(self, answer: Answer, n_bytes: int | None = None) -> None:
        """Answer with the headers and the first `n_bytes` of the body."""
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        head, self._headers_buffer = b"".join(self._headers_buffer), []  # type: ignore[has-type]
        self.wfile.write(head + b"\r\n" + answer.body[:n_bytes])

    def hang_up(self, reset: bool) -> None:
        """End the connection, by RST or FIN."""
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())

    def take(self) -> None:
        """Read a request and let the first rule that applies deal with it."""
        self.body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        fault = self.server.proxy.fault_for(self.command, self.path)
        with suppress(ConnectionError):  # A client that has given up.
            fault(self) if fault else self.send(self.forward())

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = take  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        pass


Fault = Callable[[Exchange], None]


def status(code: int) -> Fault:
    """Answer with an error, the request not forwarded."""
    text = f"<Error><Code>{ERRORS[code]}</Code><Message>{ERRORS[code]} by the proxy</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]

    def fault(exchange: Exchange) -> None:
        exchange.send(Answer(code, headers, text), 0 if exchange.command == "HEAD" else None)

    return fault


def hang(exchange: Exchange) -> None:
    """Answer nothing until the proxy is healed."""
    exchange.server.proxy.healed.wait(60)
    exchange.hang_up(reset=False)


def reset(exchange: Exchange) -> None:
    """Reset the connection, the request not forwarded."""
    exchange.hang_up(reset=True)


def reset_after(exchange: Exchange) -> None:
    """Let the store do what is asked, then reset the connection without an answer."""
    exchange.forward()
    exchange.hang_up(reset=True)


def drip(pieces: int, pause_s: float) -> Fault:
    """Answer rightly, but in pieces with pauses between them."""

    def fault(exchange: Exchange) -> None:
        answer = exchange.forward()
        step = max(1, -(-len(answer.body) // pieces))
        exchange.send(answer, 0)
        for start in range(0, len(answer.body), step):
            exchange.server.proxy.healed.wait(pause_s)
            exchange.wfile.write(answer.body[start : start + step])

    return fault


def truncated(n_bytes: int) -> Fault:
    """Promise the whole body, send its beginning, and end the connection."""

    def fault(exchange: Exchange) -> None:
        exchange.send(exchange.forward(), n_bytes)
        exchange.hang_up(reset=False)

    return fault


def altered(change: Callable[[bytes], bytes]) -> Fault:
    """Answer with a changed body, of whatever length."""

    def fault(exchange: Exchange) -> None:
        answer = exchange.forward()
        body = change(answer.body)
        headers = [(name, value) for name, value in answer.headers if name != "Content-Length"]
        exchange.send(Answer(answer.status, [*headers, ("Content-Length", str(len(body)))], body))

    return fault


def flipped(place: int) -> Fault:
    """Answer with one bit of one byte of the body flipped."""
    return altered(lambda body: body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :])


@dataclass
class Rule:
    """Which requests meet which fault."""

    fault: Fault
    method: str
    """Regular expression of the whole method."""
    path: str
    """Regular expression of a part of the path with its query."""
    times: int | None
    """None is without end."""
    seen: int = 0
    """Requests that the rule describes, whether the fault fired or was used up."""
    fired: int = 0


class FaultProxy:
    """The proxy; it runs for the length of a `with` block."""

    def __init__(self, store_url: str) -> None:
        self.store = urlsplit(store_url).netloc
        self.healed = threading.Event()
        self.n_requests = 0
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), Exchange)
        self._server.proxy = self

    @property
    def url(self) -> str:
        """Where to send requests."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def add(self, fault: Fault, method: str = ".*", path: str = "", times: int | None = 1) -> Rule:
        """Let the next `times` requests meet a fault; the first rule that applies and is not used up counts."""
        rule = Rule(fault, method, path, times)
        with self._lock:
            self.healed.clear()
            self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """Forget all rules; who hangs is let go."""
        with self._lock:
            self._rules = []
            self.healed.set()

    def fault_for(self, method: str, path: str) -> Fault | None:
        """Count a request and return the fault it meets."""
        with self._lock:
            self.n_requests += 1
            found = [rule for rule in self._rules if re.fullmatch(rule.method, method) and re.search(rule.path, path)]
            for rule in found:
                rule.seen += 1
            for rule in found:
                if rule.times is None or rule.fired < rule.times:
                    rule.fired += 1
                    return rule.fault
        return None

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64
    proxy: FaultProxy

    def handle_error(self, request: object, client_address: object) -> None:
        pass
