#!/usr/bin/env python3
"""Releases under load, and how long a freeze lasts: the figures of docs/benchmarks.md, Releases.

    python3 benches/compare/release.py                            all of it, at the sizes that are promised
    python3 benches/compare/release.py --releases 2 --data 16 --changed 1 --freeze 64,16     a quick look

Three parts, each checked, each printed as one JSON line:

  releases   the example (Flask, Redis) is released forth and back while --people keep asking over connections that they keep: half
             of the requests count in Redis. On another tenant a WebSocket and an event stream stay open, and a slow upload goes on.
             Failed requests, lost or double counts, and what became of the other tenant's connections.
  hold       one release with --data MiB in the volume and --changed MiB of it written since the last copy: the longest hold, beside
             the time that the target takes to start, and beside the same work by hand: docker pause, rsync, docker start, and a
             reload of HAProxy, where those are there.
  freeze     `sync --force` of --freeze MiB in 200 files with 40 MB of pages changed since the last copy, on a loop-mounted xfs,
             at each of the sizes given; then `snapshot create --force` of the same.

Needs root, Docker, the example's image (examples/flask-redis/image.sh), mkfs.xfs; rsync and haproxy for the row by hand.
"""

import argparse
import base64
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
IMAGE = "mcloud-example/flask-redis:1"
MIB = 1 << 20
DOMAIN, OTHER = "bench.test", "other.test"

# A service with a volume whose page tells how many files it sees, and one that talks without an end.
DATA_YML = f"""web:
    image: {IMAGE}
    cmd: trap exit TERM; python3 -m http.server 5000 --directory /data & wait
    data: [/data]
    web: 5000
    wait: 60
    health: {{path: /page}}
"""
OTHER_YML = f"""web:
    image: {IMAGE}
    cmd: python3 -u /app/other.py
    volumes: {{.: /app}}
    web: 5000
    wait: 30
    health: {{path: /up}}
"""
OTHER_PY = r'''
import base64, hashlib, socketserver, time
class Talk(socketserver.StreamRequestHandler):
    def handle(self):
        first = self.rfile.readline().decode()
        headers = {}
        while (line := self.rfile.readline().decode().strip()):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        path = first.split()[1] if len(first.split()) > 1 else "/"
        say = lambda text: (self.wfile.write(text.encode()), self.wfile.flush())
        if path == "/socket":
            key = headers["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
            say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {accept}\r\n\r\n")
            while (byte := self.rfile.read(1)):
                self.wfile.write(byte); self.wfile.flush()
        elif path == "/events":
            say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            number = 0
            while True:
                say(f"data: {number}\n\n"); number += 1; time.sleep(0.05)
        elif path == "/upload":
            got, length = 0, int(headers["content-length"])
            while got < length:
                got += len(self.rfile.read1(length - got))
            say(f"HTTP/1.1 200 OK\r\nContent-Length: {len(str(got))}\r\nConnection: close\r\n\r\n{got}")
        else:
            say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nup")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
Server(("0.0.0.0", 5000), Talk).serve_forever()
'''


def sh(*words, check=True, **more):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **more)
    if check and done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, words))}: {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


class Host:
    """A daemon in a folder of its own, on free ports. Closed, its tenants and containers are gone."""

    def __init__(self, program, folder):
        self.program, self.folder, self.tenants = program, Path(folder), []
        self.folder.mkdir(parents=True, exist_ok=True)
        self.env = dict(os.environ, MCLOUD_HOME=str(self.folder / "home"), MCLOUD_CONFIG_DIR=str(self.folder / "config"))
        self.log = open(self.folder / "log", "w")
        free = "127.0.0.1:0"
        self.daemon = subprocess.Popen(
            [program, "server", "--listen", free, "--http", free, "--https", free, "--admin", free, "--hold", "60"],
            env=self.env, stdout=subprocess.PIPE, stderr=self.log, text=True)
        ready = self.daemon.stdout.readline()
        if not ready.startswith("ready"):
            raise SystemExit(f"the daemon said {ready!r}\n{(self.folder / 'log').read_text()}")
        words = dict(word.split("=", 1) for word in ready.split()[1:])
        self.http = ("127.0.0.1", int(words["http"].rsplit(":", 1)[1]))

    def run(self, *words):
        out = sh(self.program, "--json", *words, env=self.env)
        return json.loads(out.splitlines()[-1])

    def init(self, name, yml):
        file = self.folder / f"{name}.yml"
        file.write_text(yml)
        self.run("init", name, file)
        self.tenants.append(name)

    def volume(self, tenant, service, path):
        return self.folder / "home/tenants" / tenant / "volumes" / service / path

    def close(self):
        for tenant in self.tenants:
            subprocess.run([self.program, "remove", tenant, "--scrub-data"], env=self.env, capture_output=True)
        self.daemon.send_signal(signal.SIGTERM)
        try:
            self.daemon.wait(20)
        except subprocess.TimeoutExpired:
            self.daemon.kill()
        self.log.close()


class People(threading.Thread):
    """One who asks without a pause over a connection that is kept; every other request counts."""

    def __init__(self, address, stop, rate):
        super().__init__(daemon=True)
        self.address, self.stop, self.pause = address, stop, 1 / rate
        self.ok = self.counted = 0
        self.failed, self.longest = [], 0.0

    def run(self):
        connection, number = None, 0
        while not self.stop.is_set():
            number += 1
            path = "/" if number % 2 else "/views"
            began = time.monotonic()
            try:
                connection = connection or http.client.HTTPConnection(*self.address, timeout=90)
                connection.request("GET", path, headers={"Host": DOMAIN})
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    self.failed.append(f"{path}: {answer.status} {body[:80]!r}")
                else:
                    self.ok += 1
                    self.counted += path == "/"
            except OSError as error:
                self.failed.append(f"{path}: {error!r}")
                connection = None
            took = time.monotonic() - began
            self.longest = max(self.longest, took)
            time.sleep(max(0, self.pause - took))


class Others:
    """A WebSocket, an event stream and a slow upload on another tenant; what became of them."""

    def __init__(self, address):
        self.stop, self.broken, self.events, self.echoes = threading.Event(), [], 0, 0
        self.address = address
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.socket, self.stream, self.upload)]
        for thread in self.threads:
            thread.start()

    def open(self, head):
        stream = socket.create_connection(self.address, timeout=60)
        stream.sendall(head.encode())
        return stream

    def guarded(self, what, work):
        try:
            work()
        except OSError as error:
            if not self.stop.is_set():
                self.broken.append(f"{what}: {error!r}")

    def socket(self):
        def work():
            key = base64.b64encode(os.urandom(16)).decode()
            stream = self.open(f"GET /socket HTTP/1.1\r\nHost: {OTHER}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                               f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += stream.recv(1)
            assert head.startswith(b"HTTP/1.1 101"), head
            while not self.stop.is_set():
                stream.sendall(b"x")
                if stream.recv(1) != b"x":
                    raise OSError("the socket was closed")
                self.echoes += 1
                time.sleep(0.05)
        self.guarded("WebSocket", work)

    def stream(self):
        def work():
            stream = self.open(f"GET /events HTTP/1.1\r\nHost: {OTHER}\r\n\r\n")
            while not self.stop.is_set():
                piece = stream.recv(4096)
                if not piece:
                    raise OSError("the stream was closed")
                self.events += piece.count(b"data:")
        self.guarded("event stream", work)

    def upload(self):
        def work():
            while not self.stop.is_set():
                length = 400
                stream = self.open(f"POST /upload HTTP/1.1\r\nHost: {OTHER}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")
                for _ in range(length):
                    stream.sendall(b"u")
                    time.sleep(0.02)
                if not stream.recv(64).startswith(b"HTTP/1.1 200"):
                    raise OSError("the upload was not answered")
        self.guarded("upload", work)

    def close(self):
        self.stop.set()
        for thread in self.threads:
            thread.join(20)


def get(address, host, path):
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request("GET", path, headers={"Host": host})
    return connection.getresponse().read().decode()


def releases(host, options):
    example = REPO / "examples/flask-redis"
    for name in ("bench-a", "bench-b"):
        host.init(name, (example / "mcloud.yml").read_text())
        host.run("sync", example, f"{name}@me", "--yes")
    host.init("bench-other", OTHER_YML)
    code = host.folder / "other"
    code.mkdir()
    (code / "other.py").write_text(OTHER_PY)
    (code / "mcloud.yml").write_text(OTHER_YML)
    host.run("sync", code, "bench-other@me", "--yes")
    host.run("start", "bench-a")
    host.run("start", "bench-other")
    host.run("publish", "bench-a", DOMAIN)
    host.run("publish", "bench-other", OTHER)
    others, stop = Others(host.http), threading.Event()
    before = int(get(host.http, DOMAIN, "/views"))
    people = [People(host.http, stop, options.rate / options.people) for _ in range(options.people)]
    for person in people:
        person.start()
    time.sleep(2)
    began, receipts = time.monotonic(), []
    names = ["bench-a", "bench-b"]
    for _ in range(options.releases):
        receipts.append(host.run("release", *names, DOMAIN))
        names.reverse()
        time.sleep(0.5)
    seconds = time.monotonic() - began
    stop.set()
    for person in people:
        person.join(120)
    others.close()
    counted = int(get(host.http, DOMAIN, "/views")) - before
    expected = sum(person.counted for person in people)
    return {
        "part": "releases",
        "releases": len(receipts),
        "requests": sum(person.ok for person in people),
        "requests_a_second": round(sum(person.ok for person in people) / seconds),
        "failed": sum(len(person.failed) for person in people),
        "first_failures": [text for person in people for text in person.failed][:5],
        "lost_or_double": counted - expected,
        "held": sum(receipt["held_requests"] for receipt in receipts),
        "held_failed": sum(receipt["failed_requests"] for receipt in receipts),
        "longest_hold_ms": max(receipt["longest_hold_ms"] for receipt in receipts),
        "others_broken": others.broken,
        "others": {"echoes": others.echoes, "events": others.events},
    }


def fill(folder, mib, files):
    folder.mkdir(parents=True, exist_ok=True)
    block = random.Random(1).randbytes(MIB)
    share = max(1, mib // files)
    for number in range(files):
        with open(folder / f"f{number:03}", "wb") as file:
            for _ in range(share):
                file.write(block)


def change(folder, total_bytes, seed):
    """Rewrites random 8 KiB pages all over the files."""
    rng, files = random.Random(seed), sorted(path for path in folder.iterdir() if path.name.startswith("f"))
    for _ in range(max(1, total_bytes // 8192)):
        path = rng.choice(files)
        with open(path, "r+b") as file:
            file.seek(rng.randrange(max(1, path.stat().st_size // 8192)) * 8192)
            file.write(rng.randbytes(8192))


def hold(host, options):
    for name in ("hold-a", "hold-b"):
        host.init(name, DATA_YML)
    data = host.volume("hold-a", "web", "data")
    fill(data, options.data, 64)
    (data / "page").write_text("the page")
    host.run("start", "hold-a")
    host.run("publish", "hold-a", DOMAIN + ".hold")
    # The first one copies everything; what is measured has just the change to copy.
    host.run("sync", "hold-a@me", "hold-b@me", "--yes")
    change(data, options.changed * MIB, 2)
    host.run("start", "hold-b")
    host.run("stop", "hold-b")
    began = time.monotonic()
    host.run("start", "hold-b")
    start = time.monotonic() - began
    host.run("stop", "hold-b")
    stop, longest = threading.Event(), []

    def ask():
        while not stop.is_set():
            began = time.monotonic()
            get(host.http, DOMAIN + ".hold", "/page")
            longest.append(time.monotonic() - began)
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    writer_stop = threading.Event()

    def write():
        number = 3
        while not writer_stop.is_set():
            change(data, MIB // 4, number)
            number += 1
            time.sleep(0.2)
    threading.Thread(target=write, daemon=True).start()
    time.sleep(1)
    # What is written while it copies is part of it; a host's process is not frozen, so it stops before the freeze.
    threading.Timer(1.5, writer_stop.set).start()
    receipt = host.run("release", "hold-a", "hold-b", DOMAIN + ".hold")
    stop.set()
    asking.join(60)
    figures = {
        "part": "hold",
        "data_mib": options.data,
        "changed_mib": options.changed,
        "target_start_ms": round(start * 1000),
        "longest_hold_ms": receipt["longest_hold_ms"],
        "longest_request_ms": round(max(longest) * 1000),
        "freeze_ms": receipt["freeze_ms"],
        "bound_ms": round(start * 1000) + 1000,
        "phases": {phase["phase"]: phase["ms"] for phase in receipt["phases"]},
        "by_hand_ms": by_hand(host, data, options),
    }
    return figures


def by_hand(host, data, options):
    """docker pause, rsync, docker start, haproxy reload: how long nobody is served."""
    if not all(map(shutil.which, ("rsync", "haproxy"))):
        return None
    target = host.folder / "by-hand"
    sh("rsync", "-a", "--delete", f"{data}/", f"{target}/")
    names = ["by-hand-a", "by-hand-b"]
    try:
        for name, folder in zip(names, (data, target)):
            sh("docker", "run", "-d", "--name", name, "-v", f"{folder}:/data", IMAGE,
               "python3", "-m", "http.server", "5000", "--directory", "/data")
        sh("docker", "stop", "-t", "1", names[1])
        change(data, options.changed * MIB, 99)
        config, pid = host.folder / "haproxy.cfg", host.folder / "haproxy.pid"
        port = 30000 + os.getpid() % 20000

        def lead_to(name):
            ip = sh("docker", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", name).strip()
            config.write_text("defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
                              f"listen web\n  bind 127.0.0.1:{port}\n  server one {ip}:5000\n")
            old = ["-sf", pid.read_text().split()[0]] if pid.exists() else []
            sh("haproxy", "-D", "-f", config, "-p", pid, *old)
        lead_to(names[0])
        began = time.monotonic()
        sh("docker", "pause", names[0])
        sh("rsync", "-a", "--delete", f"{data}/", f"{target}/")
        sh("docker", "start", names[1])
        while True:
            ip = sh("docker", "inspect", "-f", "{{.NetworkSettings.IPAddress}}", names[1]).strip()
            try:
                if get((ip, 5000), "x", "/page"):
                    break
            except OSError:
                time.sleep(0.02)
        lead_to(names[1])
        while get(("127.0.0.1", port), "x", "/page") != "the page":
            time.sleep(0.01)
        return round((time.monotonic() - began) * 1000)
    finally:
        for name in names:
            subprocess.run(["docker", "rm", "-f", name], capture_output=True)
        if (host.folder / "haproxy.pid").exists():
            os.kill(int((host.folder / "haproxy.pid").read_text().split()[0]), signal.SIGTERM)


def freeze(options, program, scratch, mib, snapshots):
    """The freezes of one size, on a disk of their own: pages that are rewritten after a clone are extents of their own, and a
    clone costs by the extent."""
    disk = Path(tempfile.mkdtemp(dir=scratch))
    image, mounted = disk / "image", disk / "mounted"
    mounted.mkdir()
    with open(image, "wb") as file:
        # The data, its copy or the store, and what the changes leave behind.
        file.truncate((3 * mib + 2048) * MIB)
    sh("mkfs.xfs", "-q", "-m", "reflink=1", image)
    sh("mount", "-o", "loop", image, mounted)
    host = Host(program, mounted / "host")
    if snapshots:
        part, words, field = "freeze of a snapshot", ("snapshot", "create", "freeze-a", "--force"), "freeze_ms"
    else:
        part, words, field = "freeze of a sync", ("sync", "freeze-a@me", "freeze-b@me", "--force"), "paused_ms"
    try:
        yml = f"web:\n    image: {IMAGE}\n    cmd: trap exit TERM; sleep 100000 & wait\n    data: [/data]\n"
        host.init("freeze-a", yml)
        host.init("freeze-b", yml)
        data = host.volume("freeze-a", "web", "data")
        fill(data, mib, 200)
        host.run("start", "freeze-a")
        host.run(*words)
        frozen = []
        for number in range(options.times):
            change(data, 40 * 1000 * 1000, 7 + number)
            done = host.run(*words)
            assert snapshots or done["root_source"] == done["root_target"], done
            frozen.append(done[field])
        return {"part": part, "mib": mib, "files": 200, "freeze_ms": sorted(frozen)[len(frozen) // 2], "all_ms": frozen}
    finally:
        host.close()
        subprocess.run(["umount", "-l", mounted])
        shutil.rmtree(disk, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(REPO / "target/release/mcloud"))
    parser.add_argument("--parts", default="releases,hold,freeze")
    parser.add_argument("--releases", type=int, default=20)
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--rate", type=int, default=300, help="requests a second, all together")
    parser.add_argument("--data", type=int, default=1024, help="MiB in the volume of the hold")
    parser.add_argument("--changed", type=int, default=10, help="MiB of it that change")
    parser.add_argument("--freeze", default="1024,10240", type=lambda text: [int(one) for one in text.split(",")])
    parser.add_argument("--times", type=int, default=3, help="forced copies of each size; the median counts")
    parser.add_argument("--scratch", default="/var/tmp", help="where the disks of the freeze are")
    options = parser.parse_args()
    parts, rows = options.parts.split(","), []
    for part, work in (("releases", releases), ("hold", hold)):
        if part in parts:
            with tempfile.TemporaryDirectory(prefix="mcloud-bench-", dir="/dev/shm") as folder:
                host = Host(options.program, folder)
                try:
                    rows.append(work(host, options))
                finally:
                    host.close()
                print(json.dumps(rows[-1]), flush=True)
    if "freeze" in parts:
        for snapshots in (False, True):
            for mib in options.freeze:
                rows.append(freeze(options, options.program, options.scratch, mib, snapshots))
                print(json.dumps(rows[-1]), flush=True)
    bad = [row for row in rows if row.get("failed") or row.get("lost_or_double") or row.get("others_broken")]
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
