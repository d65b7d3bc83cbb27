#!/usr/bin/env python3
"""The proxy beside HAProxy (Debian's package): small responses of one nginx, over connections that are kept, loaded by wrk.

Both get the same cores and the same load, in turns, within one run. Prints a table; with --bars it ends with 1 when
mcloud serves less than 0.7 times the requests of HAProxy.
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
BAR = 0.7
HOST = "bench.test"

NGINX = """
daemon off; worker_processes {workers}; pid {dir}/nginx.pid; error_log {dir}/nginx.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
  server {{ listen {address}:{port} reuseport backlog=4096; location / {{ return 200 "hello from the upstream\\n"; }} }}
}}
"""

HAPROXY = """
global
  nbthread {threads}
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  option forwardfor
  http-reuse always
frontend in
  bind 127.0.0.1:{port}
  use_backend web if {{ hdr(host) -i {host} }}
backend web
  server one {address}:{upstream}
"""


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_for(address, port):
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            socket.create_connection((address, port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    sys.exit(f"nobody listens at {address}:{port}")


class Mcloud:
    """A daemon with one tenant whose service is the upstream: a container that does nothing stands for it, since the
    daemon reaches services by their containers' addresses."""

    name = "mcloud"

    def __init__(self, binary, folder):
        self.home, self.binary = folder / "home", str(binary)
        self.env = dict(os.environ, MCLOUD_HOME=str(self.home), MCLOUD_CONFIG_DIR=str(folder / "config"))
        free = "127.0.0.1:0"
        words = ["server", "--home", str(self.home), "--listen", free, "--http", free, "--https", free, "--admin", free]
        self.process = subprocess.Popen([self.binary, *words], env=self.env, stdout=subprocess.PIPE, text=True,
                                        stderr=open(folder / "mcloud.log", "w"))
        line = self.process.stdout.readline()
        self.port = int(re.search(r"http=127.0.0.1:(\d+)", line).group(1))

    def run(self, *words):
        done = subprocess.run([self.binary, *words], env=self.env, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"mcloud {' '.join(words)}: {done.stderr}")

    def publish(self, folder, image, port):
        config = folder / "mcloud.yml"
        config.write_text(f"web:\n    image: {image}\n    cmd: sleep 86400\n    web: {port}\n")
        self.tenant = f"bench{os.getpid()}"
        self.run("init", self.tenant, str(config))
        self.run("start", self.tenant)
        self.run("publish", self.tenant, HOST)
        routes = subprocess.run([self.binary, "--json", "routes"], env=self.env, capture_output=True, text=True).stdout
        return json.loads(routes.splitlines()[0])["upstream"].rsplit(":", 1)[0]

    def container(self):
        listed = subprocess.run(["docker", "inspect", "-f", "{{.State.Pid}}", f"web.{self.tenant}"],
                                capture_output=True, text=True, check=True)
        return int(listed.stdout)

    def stop(self):
        subprocess.run([self.binary, "remove", self.tenant, "--scrub-data"], env=self.env, capture_output=True)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def load(port, seconds, connections):
    """Requests a second and the 99th percentile in ms. Any answer but 200 ends the bench."""
    said = subprocess.run(
        ["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "--latency", "-H", f"Host: {HOST}", f"http://127.0.0.1:{port}/"],
        capture_output=True, text=True, check=True,
    ).stdout
    if "Non-2xx" in said or "Socket errors" in said:
        sys.exit(f"requests failed:\n{said}")
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", said).group(1))
    amount, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", said).groups()
    return rate, float(amount) * {"us": 0.001, "ms": 1, "s": 1000}[unit]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=5, help="turns (median)")
    parser.add_argument("--seconds", type=int, default=5, help="of load, each turn")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--mcloud", default=REPO / "target/release/mcloud", help="the binary")
    parser.add_argument("--image", default="mcloud-example/flask-redis:1", help="of the container that stands for the service")
    parser.add_argument("--bars", action="store_true", help="exit 1 when the figure is not reached")
    parser.add_argument("--json", help="write the samples there")
    options = parser.parse_args()
    for program in ("wrk", "haproxy", "nginx", "docker", "nsenter"):
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            sys.exit(f"{program} is missing: `make packages` installs it")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if not subprocess.run(["docker", "image", "inspect", options.image], capture_output=True).returncode == 0:
        subprocess.run([str(REPO / "examples/flask-redis/image.sh")], check=True)
    folder = Path(tempfile.mkdtemp(prefix="mcloud-bench-proxy-", dir="/dev/shm"))
    children, mcloud = [], None
    try:
        cores = len(os.sched_getaffinity(0))
        mcloud = Mcloud(options.mcloud, folder)
        upstream = 8080
        address = mcloud.publish(folder, options.image, upstream)
        # nginx in the container's network: the same upstream, at the same address, for both.
        config = folder / "nginx.conf"
        config.write_text(NGINX.format(dir=folder, workers=cores, address=address, port=upstream))
        nginx = ["nsenter", "-t", str(mcloud.container()), "-n", "nginx", "-c", str(config), "-e", str(folder / "nginx.log")]
        children.append(subprocess.Popen(nginx))
        wait_for(address, upstream)
        port = free_port()
        config = folder / "haproxy.cfg"
        config.write_text(HAPROXY.format(threads=cores, port=port, host=HOST, address=address, upstream=upstream))
        children.append(subprocess.Popen(["haproxy", "-q", "-f", str(config)]))
        wait_for("127.0.0.1", port)
        contenders = {"mcloud": mcloud.port, "haproxy": port}
        samples = {name: [] for name in contenders}
        for turn in range(options.n + 1):
            for name, at in contenders.items():
                sample = load(at, 1 if turn == 0 else options.seconds, options.connections)
                print(f"{name:8} {sample[0]:10.0f} requests/s  p99 {sample[1]:.2f} ms", file=sys.stderr, flush=True)
                if turn:
                    samples[name].append(sample)
    finally:
        for child in children:
            child.terminate()
            child.wait()
        if mcloud:
            mcloud.stop()
        shutil.rmtree(folder, ignore_errors=True)
    rate = {name: statistics.median(sample[0] for sample in all) for name, all in samples.items()}
    late = {name: statistics.median(sample[1] for sample in all) for name, all in samples.items()}
    ratio = rate["mcloud"] / rate["haproxy"]
    print("| small responses, kept connections | requests/s | p99 |\n| --- | --- | --- |")
    for name in contenders:
        print(f"| {name} | {rate[name]:.0f} | {late[name]:.2f} ms |")
    print(f"\nmcloud ÷ HAProxy: {ratio:.2f} (bar ≥ {BAR}: {'yes' if ratio >= BAR else '**no**'})")
    if options.json:
        Path(options.json).write_text(json.dumps(samples))
    if options.bars and ratio < BAR:
        sys.exit(1)


if __name__ == "__main__":
    main()
