"""A bad line between Label Studio and this service: webhooks are lost, doubled and late; everything else passes."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests


class LossyProxy:
    """Listens on a free port, forwards to `target`. Of the webhooks, shares `drop` and `double` are lost and doubled.

    A lost one is answered as if all were well: nobody learns of it. A doubled one comes a second time up to two
    seconds later, so that events also arrive out of order.
    """

    def __init__(self, target: str, *, drop: float, double: float, seed: int = 0) -> None:
        self.target, self.drop, self.double = target, drop, double
        self.counts: Counter[str] = Counter()
        self._rng = random.Random(seed)
        self._late: list[threading.Timer] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for timer in self._late:
            timer.join()

    def pass_on(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """Forward one request; 502 where the service does not answer."""
        fate = self._fate() if "/webhook" in path else "other"
        self.counts[fate] += 1
        if fate == "dropped":
            return 200, b"{}"
        if fate == "doubled":
            timer = threading.Timer(self._rng.uniform(0.0, 2.0), self._send, (method, path, headers, body))
            self._late.append(timer)
            timer.start()
        status, answer = self._send(method, path, headers, body)
        self.counts["unanswered"] += status == 502
        return status, answer

    def _fate(self) -> str:
        draw = self._rng.random()
        return "dropped" if draw < self.drop else "doubled" if draw < self.drop + self.double else "passed"

    def _send(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        try:
            answer = requests.request(method, self.target + path, headers=headers, data=body, timeout=30)
        except requests.RequestException:
            return 502, b'{"error": "nobody there"}'
        return answer.status_code, answer.content

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                kept = {k: v for k, v in self.headers.items() if k.lower() in {"content-type", "authorization"}}
                status, answer = proxy.pass_on(self.command, self.path, kept, body)
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                with suppress(ConnectionError):  # whoever asked has given up
                    self.end_headers()
                    self.wfile.write(answer)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_: object) -> None:
                """Quiet."""

        return Handler


@contextmanager
def lossy_proxy(target: str, *, drop: float, double: float) -> Iterator[LossyProxy]:
    proxy = LossyProxy(target, drop=drop, double=double)
    try:
        yield proxy
    finally:
        proxy.close()
