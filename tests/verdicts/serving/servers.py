"""The servers: how each is started and loaded. All of them listen on loopback, or on a socket in
the folder of the trial, and keep their data in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.processes import await_until, descendants, listens, run_to_end, running, unused_port

LOAD = Path(__file__).parent / "load.py"


@dataclass(frozen=True)
class Place:
    """Where a trial runs. `preload` is the environment of the server."""

    folder: Path
    env: Mapping[str, str]
    leaks_in_script: bool

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def write(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.write_text(text, encoding="utf-8")
        return file


@dataclass(frozen=True)
class Loaded:
    """A server under load: the processes to trace, and the load."""

    pids: list[int]
    load: subprocess.Popen[bytes]


@dataclass(frozen=True)
class Server:
    """Starts a server and its load, and gives the processes to trace."""

    name: str
    needs: tuple[str, ...]
    package: str
    start: Callable[[Place, ExitStack], Loaded]
    script_leak: str = ""
    """A function on the stack of the leak of a script, if it can have one."""

    @property
    def missing(self) -> list[str]:
        return [need for need in self.needs if shutil.which(need) is None]

    @contextmanager
    def loaded(self, place: Place) -> Iterator[Loaded]:
        with ExitStack() as stack:
            yield self.start(place, stack)


def _load(
    stack: ExitStack, place: Place, kind: str, where: str | int, rate: int
) -> subprocess.Popen[bytes]:
    words: list[str | Path] = [sys.executable, LOAD, kind, str(where), str(rate)]
    return stack.enter_context(running(words, place.folder / "load.log"))


def _redis(place: Place, stack: ExitStack) -> Loaded:
    port = unused_port()
    options = f"--port {port} --bind 127.0.0.1 --save --appendonly no --maxclients 100".split()
    options[options.index("--save") + 1 : options.index("--save") + 1] = [""]
    words: list[str | Path] = ["redis-server", *options, "--dir", place.folder]
    server = stack.enter_context(running(words, place.log, env=place.env, user="nobody"))
    await_until(lambda: listens(port), server, place.log)
    return Loaded([server.pid], _load(stack, place, "redis", port, 100))


NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/server.log;
events {{ worker_connections 64; }}
http {{
  access_log {folder}/access.log;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  gzip on;
  gzip_types *;
  server {{
    listen 127.0.0.1:{port};
    root {folder}/site;
    location /page- {{ try_files /page =404; }}
  }}
}}
"""


def _nginx(place: Place, stack: ExitStack) -> Loaded:
    port = unused_port()
    (place.folder / "site").mkdir()
    place.write("site/page", "a page of some text\n" * 400)
    file = place.write("nginx.conf", NGINX.format(folder=place.folder, port=port))
    words: list[str | Path] = ["nginx", "-c", file, "-e", place.folder / "server.log"]
    server = stack.enter_context(running(words, place.log, env=place.env))
    await_until(lambda: listens(port) and bool(descendants(server.pid)), server, place.log)
    return Loaded(descendants(server.pid), _load(stack, place, "http", port, 100))


PYTHON = """\
import http.server, json
kept = []
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if LEAKS:
            kept.append(bytearray(2000))
        body = json.dumps({{"path": self.path, "numbers": list(range(200))}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
LEAKS = {leaks}
http.server.ThreadingHTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


def _python(place: Place, stack: ExitStack) -> Loaded:
    port = unused_port()
    file = place.write("server.py", PYTHON.format(port=port, leaks=place.leaks_in_script))
    words: list[str | Path] = ["/usr/bin/python3", file]
    server = stack.enter_context(running(words, place.log, env=place.env, user="nobody"))
    await_until(lambda: listens(port), server, place.log)
    return Loaded([server.pid], _load(stack, place, "http", port, 50))


NODE = """\
const kept = [];
require("http").createServer((request, response) => {{
  if ({leaks}) kept.push(Buffer.alloc(20000));
  const body = JSON.stringify({{path: request.url, numbers: Array.from(Array(200).keys())}});
  response.end(body);
}}).listen({port}, "127.0.0.1");
"""


def _node(place: Place, stack: ExitStack) -> Loaded:
    port = unused_port()
    leaks = "true" if place.leaks_in_script else "false"
    file = place.write("server.js", NODE.format(port=port, leaks=leaks))
    server = stack.enter_context(running(["node", file], place.log, env=place.env, user="nobody"))
    await_until(lambda: listens(port), server, place.log)
    return Loaded([server.pid], _load(stack, place, "http", port, 50))


def _mariadb(place: Place, stack: ExitStack) -> Loaded:
    data, socket_ = place.folder / "data", place.folder / "socket"
    shutil.chown(place.folder, "mysql", "mysql")
    run_to_end(
        [
            *("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}"),
            *("--auth-root-authentication-method=normal", "--skip-test-db"),
        ],
        place.log,
    )
    words = [
        *("mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={socket_}"),
        *("--skip-networking", "--innodb-buffer-pool-size=16M", "--user=mysql"),
        f"--pid-file={place.folder}/pid",
    ]
    server = stack.enter_context(running(words, place.log, env=place.env))
    await_until(socket_.exists, server, place.log)
    client = ["mariadb", "--no-defaults", f"--socket={socket_}", "--user=root"]
    table = "CREATE DATABASE load_; CREATE TABLE load_.things (id INT PRIMARY KEY, text TEXT)"
    run_to_end([*client, "-e", table], place.log)
    return Loaded([server.pid], _load(stack, place, "sql", " ".join([*client, "load_"]), 40))


def _postgres(place: Place, stack: ExitStack) -> Loaded:
    folder = place.folder
    shutil.chown(folder, "postgres", "postgres")
    data = folder / "data"
    run_to_end([_pg("initdb"), "-D", data, "-A", "trust"], folder / "init.log", user="postgres")
    words: list[str | Path] = [
        *(_pg("postgres"), "-D", data, "-k", folder, "-c", "listen_addresses="),
        *("-c", "shared_buffers=16MB", "-c", "fsync=off"),
    ]
    server = stack.enter_context(running(words, place.log, env=place.env, user="postgres"))
    await_until(lambda: "ready to accept" in place.log.read_text(), server, place.log)
    bench: list[str | Path] = [_pg("pgbench"), "-h", folder, "-U", "postgres"]
    run_to_end([*bench, "-i", "-q", "postgres"], folder / "init.log", user="postgres")
    words = [*bench, "-c", "2", "-R", "30", "-T", "86400", "postgres"]
    load = stack.enter_context(running(words, folder / "load.log", user="postgres"))
    await_until(lambda: len(_backends(server.pid)) >= 2, server, place.log)
    return Loaded([server.pid, *descendants(server.pid)], load)


def _backends(pid: int) -> list[int]:
    return [
        child
        for child in descendants(pid)
        if b"postgres postgres" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def _pg(name: str) -> str:
    """The path of a program of Debian's newest postgresql."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else name


SERVERS = (
    Server("redis", ("redis-server",), "redis-server", _redis),
    Server("nginx", ("nginx",), "nginx-light", _nginx),
    Server("python3", ("/usr/bin/python3",), "python3", _python, "PyByteArray_Resize"),
    Server("node", ("node",), "nodejs", _node, "Allocate"),
    Server("mariadb", ("mariadbd", "mariadb", "mariadb-install-db"), "mariadb-server", _mariadb),
    Server("postgres", (_pg("postgres"), _pg("pgbench")), "postgresql", _postgres),
)
