#!/usr/bin/env python3
"""`mcloud start` side by side with Debian's `docker-compose up -d`: the example's two services, from no containers until the first page.

    python3 benches/compare/start.py                 five times each, the table printed
    python3 benches/compare/start.py -n 2 --bars     exit 1 when the bar is not reached

Both have the same image, commands, folders and network of their own, and take turns. The clock starts with the command and ends
when the page, which counts in Redis, is served with status 200; the command has to have ended by then, too. What was started is
taken away again after each turn, and the data with it.
"""

import argparse
import atexit
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
EXAMPLE = REPO / "examples/flask-redis"
IMAGE = "mcloud-example/flask-redis:1"
BAR = 1.2
PATIENCE = 60

COMPOSE = f"""
version: "2.4"
services:
  redis:
    image: {IMAGE}
    command: redis-server --bind 0.0.0.0 --protected-mode no --dir /data --appendonly yes
    volumes: ["./data:/data"]
  web:
    image: {IMAGE}
    command: sh /usr/src/app/run.sh
    volumes: ["./code:/usr/src/app"]
    working_dir: /usr/src/app
    environment: {{TITLE: "mcloud"}}
    depends_on: [redis]
"""


class Docker(http.client.HTTPConnection):
    """The engine's own interface, so that looking costs both sides the same few milliseconds."""

    def __init__(self):
        super().__init__("docker")

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect("/var/run/docker.sock")

    def address(self, container):
        self.request("GET", f"/containers/{container}/json")
        found = json.loads(self.getresponse().read())
        networks = found.get("NetworkSettings", {}).get("Networks", {})
        return next((network["IPAddress"] for network in networks.values() if network["IPAddress"]), None)


def page(address):
    """The page, or None as long as there is none."""
    try:
        asked = http.client.HTTPConnection(address, 5000, timeout=5)
        asked.request("GET", "/")
        answer = asked.getresponse()
        text = answer.read().decode()
        return text if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None


def started(command, container, env=None, cwd=None):
    """Seconds from the command to the first page; and to the end of the command alone."""
    docker = Docker()
    began = time.monotonic()
    done = subprocess.run(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    ended = time.monotonic() - began
    while time.monotonic() - began < PATIENCE:
        address = docker.address(container)
        text = address and page(address)
        if text:
            if not text.endswith("1 views\n"):
                sys.exit(f"{container} has another's data: {text}")
            return time.monotonic() - began, ended
        time.sleep(0.005)
    sys.exit(f"{container} never served its page")


class Compose:
    name = "docker-compose"

    def __init__(self, work, keep_binary=None):
        self.dir = work / f"compose{os.getpid()}"
        self.dir.mkdir()
        (self.dir / "docker-compose.yml").write_text(COMPOSE)
        shutil.copytree(EXAMPLE, self.dir / "code")

    def run(self):
        project = self.dir.name
        return started(["docker-compose", "up", "-d"], f"{project}_web_1", cwd=self.dir)

    def down(self):
        subprocess.run(["docker-compose", "down", "-t", "0"], cwd=self.dir, check=True, capture_output=True)
        shutil.rmtree(self.dir / "data", ignore_errors=True)

    close = down


class Mcloud:
    name = "mcloud"

    def __init__(self, work, binary):
        self.binary, home = binary, work / "home"
        self.tenant = f"bench{os.getpid()}"
        free = "127.0.0.1:0"
        self.env = {**os.environ, "MCLOUD_HOME": str(home), "MCLOUD_CONFIG_DIR": str(work / "client")}
        words = [binary, "server", "--listen", free, "--http", free, "--https", free, "--admin", free]
        self.daemon = subprocess.Popen(words, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if not self.daemon.stdout.readline().startswith("ready "):
            sys.exit("the daemon does not start")
        self.mcloud("init", self.tenant, EXAMPLE / "mcloud.yml")
        self.mcloud("sync", EXAMPLE, f"{self.tenant}@me", "--yes")

    def mcloud(self, *words):
        subprocess.run([self.binary, *words], env=self.env, check=True, capture_output=True)

    def run(self):
        return started([self.binary, "start", self.tenant], f"web.{self.tenant}", env=self.env)

    def down(self):
        self.mcloud("destroy", self.tenant, "--scrub-data")

    def close(self):
        self.mcloud("remove", self.tenant, "--scrub-data")
        self.daemon.terminate()
        self.daemon.wait()


def document(path, text):
    """Puts the table between its two marks; what people wrote around it stays."""
    begin, end = "<!-- start -->", "<!-- /start -->"
    old = path.read_text()
    if begin not in old:
        old += f"\n## Starting a tenant\n\n{begin}\n{end}\n"
    head, _, rest = old.partition(begin)
    path.write_text(f"{head}{begin}\n{text}\n{end}{rest.partition(end)[2]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=5, help="repetitions (median)")
    parser.add_argument("--mcloud", default=REPO / "target/release/mcloud", help="the binary")
    parser.add_argument("--write", type=Path, help="the document to put the table into, between its marks")
    parser.add_argument("--bars", action="store_true", help="exit 1 when the bar is not reached")
    options = parser.parse_args()
    subprocess.run([EXAMPLE / "image.sh"], check=True, stdout=subprocess.DEVNULL)
    work = Path(tempfile.mkdtemp(prefix="mcloud-bench-", dir="/var/tmp"))
    atexit.register(shutil.rmtree, work, ignore_errors=True)
    contenders = []
    for make in (Mcloud, Compose):
        contender = make(work, options.mcloud)
        atexit.register(contender.close)
        contenders.append(contender)
    samples = {contender.name: [] for contender in contenders}
    # The first turn fills caches and is not counted.
    for turn in range(options.n + 1):
        for contender in contenders:
            whole, command = contender.run()
            contender.down()
            if turn:
                samples[contender.name].append(whole)
            print(f"{contender.name:15} {whole:6.2f} s to the page, {command:6.2f} s the command", file=sys.stderr, flush=True)
    ours, theirs = (statistics.median(samples[name]) for name in ("mcloud", "docker-compose"))
    ratio = ours / theirs
    reached = "yes" if ratio <= BAR else "**no**"
    table = (
        "| work | mcloud | others | bar | reached |\n| --- | --- | --- | --- | --- |\n"
        f"| start of two services until the first page | {ours:.2f} s | docker-compose {theirs:.2f} s "
        f"| time / docker-compose ≤ {BAR} | {ratio:.2f} {reached} |"
    )
    print(table)
    if options.write:
        document(options.write, f"Median of {options.n}, images present, data on a disk.\n\n{table}")
    if options.bars and ratio > BAR:
        sys.exit(1)


if __name__ == "__main__":
    main()
