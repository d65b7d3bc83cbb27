"""What a seed needs of the machine: file systems on loop devices, daemons, a client, and mcloud run as its users run it.

All of it lives in a mount and a process namespace of the program's own (`soak.py` sees to that), so nothing of it outlives the program,
however that ends.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time

import trees

KINDS = ("ext4", "ext4-128", "xfs", "btrfs", "tmpfs", "overlay-tmpfs", "overlay-ext4")
IMAGE_MIB = 640
# Longer than any command may take.
PATIENCE_S = 150


class Wrong(Exception):
    """A broken promise: its kind in a word, and what was found."""

    def __init__(self, kind, text):
        super().__init__(f"{kind}: {text}")
        self.kind = kind


def sh(*words):
    out = subprocess.run(words, capture_output=True, check=False)
    if out.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {out.stderr.decode(errors='replace')}")


class Disk:
    """A file system of one kind, mounted. `lower` are the folders that an overlay has from the start."""

    def __init__(self, place, kind, rng, lower=()):
        self.kind, self.place, self.mounts = kind, place, []
        os.makedirs(place)
        self.root = os.path.join(place, "root")
        base, _, below = kind.partition("-")
        if base == "overlay":
            self._overlay(below, rng, lower)
        else:
            self._plain(kind, self.root)

    def _mount(self, at, *words):
        os.makedirs(at, exist_ok=True)
        sh("mount", *words, at)
        self.mounts.append(at)

    def _plain(self, kind, at):
        if kind == "tmpfs":
            self._mount(at, "-t", "tmpfs", "-o", f"size={IMAGE_MIB}m", "tmpfs")
            return
        image = os.path.join(self.place, os.path.basename(at) + ".image")
        with open(image, "wb") as file:
            file.truncate(IMAGE_MIB << 20)
        make = {
            "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0"], "ext4-128": ["mkfs.ext4", "-q", "-F", "-m", "0", "-I", "128"],
            "xfs": ["mkfs.xfs", "-q", "-f"], "btrfs": ["mkfs.btrfs", "-q", "-f"],
        }
        sh(*make[kind], image)
        self._mount(at, "-o", "loop,discard", image)

    def _overlay(self, below, rng, lower):
        """The lower layer on a file system of one kind, the upper one on it as well or in memory."""
        self._plain(below, os.path.join(self.place, "below"))
        under = os.path.join(self.place, "below", "lower")
        os.mkdir(under)
        for name in lower:
            folder = os.path.join(under, name)
            os.mkdir(folder)
            trees.grow(os.fsencode(folder), rng, trees.Shape(rng))
        above = os.path.join(self.place, "below")
        if rng.random() < 0.3:
            above = os.path.join(self.place, "above")
            self._plain("tmpfs", above)
        for name in ("upper", "work"):
            os.mkdir(os.path.join(above, name))
        self._mount(self.root, "-t", "overlay", "-o", f"lowerdir={under},upperdir={above}/upper,workdir={above}/work", "overlay")

    def drop(self):
        for at in reversed(self.mounts):
            subprocess.run(["umount", "-l", at], capture_output=True, check=False)
        shutil.rmtree(self.place, ignore_errors=True)


class Outcome:
    """How a command ended and what it said."""

    def __init__(self, words, code, events, errors):
        self.words, self.code, self.events, self.errors = words, code, events, errors

    def last(self):
        return self.events[-1] if self.events else {}

    def left_out(self):
        return [event for event in self.events if event.get("event") == "left_out"]

    def plan(self):
        return next((event for event in self.events if event.get("event") == "plan"), {})

    def __str__(self):
        lines = [f"`mcloud {' '.join(self.words)}` ended with {self.code}"]
        lines += ["  " + json.dumps(event)[:600] for event in self.events if event.get("event") != "progress"][-14:]
        return "\n".join(lines + ["  | " + line for line in self.errors.splitlines()[-12:]])


class Client:
    """Somebody who runs mcloud, with nothing of this machine's user in the environment."""

    def __init__(self, binary, home, mcloud_home, log, wire):
        self.binary, self.home, self.log = binary, home, log
        os.makedirs(home, exist_ok=True)
        self.env = {
            "PATH": os.environ["PATH"], "HOME": home, "MCLOUD_HOME": mcloud_home,
            "MCLOUD_CONFIG_DIR": os.path.join(home, "config"), "XDG_CACHE_HOME": os.path.join(home, "cache"),
        }
        if wire:
            self.env["MCLOUD_WIRE"] = "always"  # no way around the wire on one machine

    def start(self, words):
        return Running(self, words)

    def run(self, *words):
        return self.start(words).finish()

    def ok(self, *words):
        outcome = self.run(*words)
        if outcome.code != 0:
            raise Wrong("exit", str(outcome))
        return outcome


class Running:
    """A command under way."""

    def __init__(self, client, words):
        self.client, self.words, self.began = client, list(words), time.monotonic()
        self.out, self.err = (open(os.path.join(client.home, name), "w+b") for name in ("out", "err"))
        self.child = subprocess.Popen(
            [client.binary, "--json", *words], env=client.env, cwd=client.home, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err
        )

    def signal(self, number):
        if self.child.poll() is None:
            self.child.send_signal(number)

    def finish(self):
        try:
            code = self.child.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
            code = "no end"
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        events = []
        for line in texts[0].splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                events.append(json.loads(line))
        outcome = Outcome(self.words, code, events, texts[1])
        outcome.seconds = time.monotonic() - self.began
        self.client.log(f"    mcloud {' '.join(self.words)}: {code}")
        if code == "no end" or "panicked at" in texts[1]:
            raise Wrong("hang" if code == "no end" else "panic", str(outcome))
        return outcome


class Daemon:
    """A running `mcloud server` with a home of its own."""

    def __init__(self, binary, home, log):
        self.binary, self.home, self.log, self.listen = binary, home, log, "127.0.0.1:0"
        self.child = None
        self.start()

    def start(self):
        free = "127.0.0.1:0"
        words = [self.binary, "server", "--home", self.home, "--listen", self.listen, "--http", free, "--https", free, "--admin", free]
        # No services here, so no Docker: what it does meanwhile must not decide about a tree.
        words += ["--docker", "unix:///nonexistent/docker.sock"]
        environment = {"PATH": os.environ["PATH"], "HOME": self.home + ".env", "XDG_CACHE_HOME": self.home + ".env/cache"}
        os.makedirs(self.home + ".env", exist_ok=True)
        with open(self.home + ".log", "ab") as log:
            self.child = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        line = self.child.stdout.readline().decode()
        if not line.startswith("ready "):
            self.kill()
            raise Wrong("daemon", f"mcloud server said {line!r}: {self.said()}")
        self.listen = next(word for word in line.split() if word.startswith("listen=")).split("=", 1)[1]

    def kill(self, number=signal.SIGKILL):
        if self.child and self.child.poll() is None:
            self.child.send_signal(number)
            try:
                self.child.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
                raise Wrong("daemon", "it does not stop") from None
        if self.child and self.child.stdout:
            self.child.stdout.close()

    def again(self):
        self.kill()
        self.start()

    def said(self):
        with open(self.home + ".log", "rb") as log:
            return log.read()[-3000:].decode(errors="replace")


class Node:
    """A tree that takes part: a folder, or a tenant's root volume."""

    def __init__(self, name, disk, folder, daemon=None):
        self.name, self.disk, self.folder, self.daemon = name, disk, os.fsencode(folder), daemon
        self.state = None  # its portrait when it was last looked at and nobody touched it since

    @property
    def ref(self):
        return f"{self.name}@{self.daemon.listen}" if self.daemon else os.fsdecode(self.folder)

    @property
    def coarse(self):
        """Whether its file system cannot hold every time."""
        return self.disk.kind == "ext4-128"


class World:
    """The file systems, nodes, daemons and the client of one seed."""

    def __init__(self, place, binary, seed, log, only_fs=(), only_nodes=()):
        self.place, self.log, self.binary = place, log, binary
        self.disks, self.daemons, self.nodes = [], [], []
        os.makedirs(place)
        rng = random.Random(f"{seed} world")
        kinds = list(only_fs or KINDS)
        # The source, one or two folders, tenants of host 1, one of host 2.
        names = rng.choice((["t"], ["t", "v"], ["v"], ["t", "v", "w"], ["t", "v", "x"], ["v", "x"], ["v", "w", "x"]))
        names = ["s"] + [name for name in names if not only_nodes or name in only_nodes]
        if len(names) == 1:
            names.append(rng.choice(sorted(only_nodes)))
        places = {name: rng.randrange(1, 3) for name in names[1:]} | {"s": rng.choice((0, 0, 0, 1))}
        try:
            chosen = [rng.choice(kinds) for _ in range(3)]
            for number in sorted(set(places.values())):
                inside = [name for name in names if places[name] == number]
                disk = Disk(os.path.join(place, f"disk{number}"), chosen[number], rng, inside)
                self.disks.append(disk)
                for name in inside:
                    os.makedirs(os.path.join(disk.root, name), exist_ok=True)
                    self.nodes.append(Node(name, disk, os.path.join(disk.root, name)))
            self._daemons(rng, names)
        except BaseException:
            self.drop()
            raise
        self.nodes.sort(key=lambda node: names.index(node.name))

    def _daemons(self, rng, names):
        hosts = {"v": 0, "w": 0, "x": 1}
        wanted = max((hosts[name] + 1 for name in names if name in hosts), default=0)
        for number in range(wanted):
            self.daemons.append(Daemon(self.binary, os.path.join(self.place, f"host{number + 1}"), self.log))
        home = self.daemons[0].home if self.daemons else os.path.join(self.place, "none")
        self.client = Client(self.binary, os.path.join(self.place, "client"), home, self.log, rng.random() < 0.7)
        for node in self.nodes:
            if node.name in hosts:
                node.daemon = self.daemons[hosts[node.name]]
                local = Client(self.binary, os.path.join(self.place, "local" + node.name), node.daemon.home, self.log, False)
                local.ok("-h", node.daemon.listen, "init", node.name, "--path", os.fsdecode(node.folder))
        if wanted == 2:
            self._enrol()

    def _enrol(self):
        far = self.daemons[1]
        local = Client(self.binary, os.path.join(self.place, "local2"), far.home, self.log, False)
        out = subprocess.run(
            [self.binary, "-h", far.listen, "invite", "--role", "admin"], env=local.env, capture_output=True, check=True, text=True
        )
        line = next(line for line in out.stdout.splitlines() if line.strip().startswith("mcloud login "))
        self.client.ok(*line.split()[1:])

    def describe(self):
        return ", ".join(f"{node.name} on {node.disk.kind}" + (" (tenant)" if node.daemon else "") for node in self.nodes)

    def drop(self):
        for daemon in self.daemons:
            with contextlib.suppress(Wrong):
                daemon.kill()
        for disk in self.disks:
            disk.drop()
        shutil.rmtree(self.place, ignore_errors=True)
