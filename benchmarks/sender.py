"""Sends one request over and over at a steady rate; a process of its own, so that nothing but the answer is measured.

    python benchmarks/sender.py URL BODY RATE SECONDS THREADS

Prints [[seconds from due to answered, status], ...] as JSON. Each request has a connection of its own, as Label Studio's.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit


def main(argv: list[str]) -> int:
    url, body = argv[:2]
    rate, seconds, threads = map(int, argv[2:])
    address = urlsplit(url)
    begin = time.perf_counter() + 0.2

    def send(number: int) -> tuple[float, int]:
        due = begin + number / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        connection.request("POST", f"{address.path}?{address.query}", body, {"Content-Type": "application/json"})
        status = connection.getresponse().status
        connection.close()
        return time.perf_counter() - due, status

    with ThreadPoolExecutor(threads) as pool:
        print(json.dumps(list(pool.map(send, range(rate * seconds)))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
