"""A load of so many requests per second, until it is ended.

    python load.py http|redis|sql PORT_OR_COMMAND RATE

It ends with an error if the server does not answer.
"""

from __future__ import annotations

import http.client
import random
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

KEYS = 1000


def paced(rate: float) -> Iterator[int]:
    """Numbers from 0, so many per second. After a stop, what was missed is not made up for."""
    at, number = time.monotonic(), 0
    while True:
        yield number
        number += 1
        at = max(at + 1 / rate, time.monotonic() - 1)
        time.sleep(max(0.0, at - time.monotonic()))


def http_requests(port: int, rate: float) -> None:
    """Each connection has up to ten requests."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for number in paced(rate):
        if number % 10 == 0:
            connection.close()
        connection.request("GET", f"/page-{random.randrange(20)}?{'x' * random.randrange(200)}")
        response = connection.getresponse()
        response.read()
        if response.status >= 500:
            sys.exit(f"the server said {response.status}")


def redis_commands(port: int, rate: float) -> None:
    """Values of different sizes that expire, lists that are trimmed; and now and then another
    connection."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    for number in paced(rate):
        if number % 100 == 99:
            connection.close()
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        key = f"key:{random.randrange(KEYS)}"
        value = "v" * random.randrange(10, 500)
        words = [
            ["SET", key, value, "EX", "20"],
            ["GET", key],
            ["LPUSH", f"list:{number // 5 % 10}", value],
            ["LTRIM", f"list:{number // 5 % 10}", "0", "50"],
            ["HSET", f"hash:{number // 5 % 10}", f"field{random.randrange(50)}", value],
        ][number % 5]
        text = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        connection.sendall(text.encode())
        answer = connection.recv(65536)
        if not answer or answer.startswith(b"-"):
            sys.exit(f"the server said {answer!r}")


def statements(command: str, rate: float) -> None:
    """Statements for a client that reads them from its standard input."""
    client = subprocess.Popen(
        shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    assert client.stdin is not None
    for number in paced(rate):
        key = random.randrange(KEYS)
        text = "x" * random.randrange(10, 300)
        client.stdin.write(
            [
                f"REPLACE INTO things VALUES ({key}, '{text}');\n",
                f"SELECT * FROM things WHERE id = {key};\n",
                "SELECT COUNT(*), MAX(LENGTH(text)) FROM things GROUP BY id % 10;\n",
                f"DELETE FROM things WHERE id = {key};\n",
            ][number % 4]
        )
        client.stdin.flush()
        if client.poll() is not None:
            sys.exit(f"the client ended with {client.returncode}")


def main() -> None:
    kind, where, rate = sys.argv[1], sys.argv[2], float(sys.argv[3])
    if kind == "sql":
        statements(where, rate)
    elif kind == "redis":
        redis_commands(int(where), rate)
    else:
        http_requests(int(where), rate)


if __name__ == "__main__":
    main()
