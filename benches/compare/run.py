#!/usr/bin/env python3
"""mcloud side by side with rsync, `cp -a` and bare quinn: the same work, in the same run, in memory.

    python3 benches/compare/run.py                         every row, five times, docs/benchmarks.md written
    python3 benches/compare/run.py --rows K1,K2 -n 3       some rows; nothing written unless --write
    python3 benches/compare/run.py --list                  what the rows are
    python3 benches/compare/run.py --rows K1 --only mcloud just our side, while optimising

Contenders take turns within a row, and a row's figure is the median. Every target lies in the memory file system
(--shm), is checked once a row against its source, and is removed when its row ends. Bytes on the wire are counted by the kernel on the
loopback interface, not by the contenders. rsync runs as `rsync -a --delete` to a plain daemon: it does not look for hard links, ACLs or
xattrs and syncs nothing to disk, which is the faster for it; mcloud does all of these.
"""

import argparse
import atexit
import json
import os
import random
import shutil
import signal
import socket
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent))
import data  # noqa: E402
from data import GIB, MIB  # noqa: E402

REPO = Path(__file__).resolve().parents[2]


# ---------------------------------------------------------------- one measured command


class Sample:
    """One run of one contender: how long, what it put on the wire, its peak memory, what it said of itself."""

    def __init__(self, seconds, wire=0, rss_client=0, rss_server=0, done=None):
        self.seconds, self.wire, self.done = seconds, wire, done or {}
        self.rss_client, self.rss_server = rss_client, rss_server


def loopback_bytes():
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == "lo":
            return int(rest.split()[8])
    return 0


def measured(command, env=None, server_pid=None):
    """Runs `command` to its end and samples it; a failure ends the bench, with what the command said."""
    if server_pid:
        Path(f"/proc/{server_pid}/clear_refs").write_text("5")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        wire = loopback_bytes()
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=env)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.monotonic() - began
        wire = loopback_bytes() - wire
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        said, complaint = out.read().decode(errors="replace"), err.read().decode(errors="replace")
    if child.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: exit {child.returncode}\n{said[-2000:]}\n{complaint[-2000:]}")
    done = {}
    for line in said.splitlines():
        if line.startswith("{"):
            event = json.loads(line)
            if event.get("event") == "done":
                done = event
    return Sample(seconds, wire, usage.ru_maxrss * 1024, peak_rss(server_pid), done)


def peak_rss(pid):
    if not pid:
        return 0
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


# ---------------------------------------------------------------- the contenders


class Rsync:
    """A plain rsync daemon on a port of its own, and a client that copies into it."""

    name = "rsync"

    def __init__(self, shm):
        self.home = shm / "rsync"
        self.target = self.home / "target"
        self.target.mkdir(parents=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = self.home / "rsyncd.conf"
        config.write_text(
            f"use chroot = no\nmunge symlinks = no\nuid = 0\ngid = 0\n[m]\npath = {self.target}\nread only = no\n"
            f"lock file = {self.home}/lock\n"
        )
        self.daemon = subprocess.Popen(
            ["rsync", "--daemon", "--no-detach", f"--config={config}", "--address=127.0.0.1", f"--port={self.port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        atexit.register(self.stop)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        sys.exit("the rsync daemon did not start")

    def sync(self, source):
        return measured(["rsync", "-a", "--delete", f"{source}/", f"rsync://127.0.0.1:{self.port}/m/"])

    def forget(self):
        """A first copy again: the target is empty, nothing is remembered."""
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir()

    def stop(self):
        if self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait()


class Mcloud:
    """A daemon with its home in memory, a tenant of it, and a client that copies into that tenant."""

    name = "mcloud"
    # Over QUIC, as from another machine. (A daemon on the client's own machine would read the folder itself.)
    wire = "always"

    def __init__(self, binary, shm):
        self.binary = str(binary)
        self.base = shm / "mcloud"
        self.daemon = None
        self.start()
        atexit.register(self.stop)

    def start(self):
        self.base.mkdir(parents=True)
        self.target = self.base / "target"
        self.target.mkdir()
        home = self.base / "home"
        client = self.base / "client"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(client),
            "MCLOUD_HOME": str(home),
            "MCLOUD_CONFIG_DIR": str(client / "config"),
            "XDG_CACHE_HOME": str(client / "cache"),
            "MCLOUD_WIRE": self.wire,
        }
        if "MCLOUD_LOG" in os.environ:
            self.env["MCLOUD_LOG"] = os.environ["MCLOUD_LOG"]
        client.mkdir()
        self.log = open(self.base / "server.log", "wb")
        free = "127.0.0.1:0"
        self.daemon = subprocess.Popen(
            [self.binary, "server", "--home", home, "--listen", free, "--http", free, "--https", free, "--admin", free],
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=self.env,
        )
        ready = self.daemon.stdout.readline().decode()
        if not ready.startswith("ready "):
            self.daemon.kill()
            sys.exit(f"mcloud server said {ready!r}\n{(self.base / 'server.log').read_text()[-2000:]}")
        self.address = dict(word.split("=", 1) for word in ready.split()[1:])["listen"]
        self.run("init", "bench", "--path", str(self.target))

    def run(self, *arguments, server=True):
        command = [self.binary, "--json", "-h", self.address, *map(str, arguments)]
        return measured(command, self.env, self.daemon.pid if server else None)

    def sync(self, source):
        return self.run("sync", source, f"bench@{self.address}", "--yes")

    def forget(self):
        self.stop()
        shutil.rmtree(self.base)
        self.start()

    def stop(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(10)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()


class McloudHere(Mcloud):
    """The same commands as people type them on the daemon's own machine: it reads their folder itself."""

    wire = ""


class McloudLocal:
    """Folder to folder, no daemon."""

    name = "mcloud"

    def __init__(self, binary, shm):
        self.binary = str(binary)
        self.base = shm / "mcloud-local"
        self.target = self.base / "target"
        client = self.base / "client"
        client.mkdir(parents=True)
        self.target.mkdir()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(client),
            "MCLOUD_HOME": str(client / "none"),
            "MCLOUD_CONFIG_DIR": str(client / "config"),
            "XDG_CACHE_HOME": str(client / "cache"),
        }

    def sync(self, source):
        return measured([self.binary, "--json", "sync", str(source), str(self.target), "--yes"], self.env)

    def forget(self):
        shutil.rmtree(self.base)
        self.target.mkdir(parents=True)
        Path(self.env["HOME"]).mkdir()

    def stop(self):
        pass


class Cp:
    name = "cp -a"

    def __init__(self, shm):
        self.target = shm / "cp" / "target"
        self.target.mkdir(parents=True)

    def sync(self, source):
        return measured(["cp", "-a", f"{source}/.", str(self.target)])

    def forget(self):
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir()

    def stop(self):
        pass


def differences(source, target):
    """What an independent comparison finds different; empty when the copy is right."""
    command = ["rsync", "-aHAXn", "--checksum", "--itemize-changes", "--delete", "--modify-window=-1", f"{source}/", f"{target}/"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


# ---------------------------------------------------------------- the rows


class Row:
    """One line of the table. `first`: every repetition starts from an empty target; otherwise from a made copy, and
    `change` alters the source before each repetition; `alone`: the contenders run one after the other, where memory
    would not hold the copies of all."""

    def __init__(self, name, title, make, bars, first=False, change=None, contenders=("mcloud", "rsync"), most=99,
                 alone=False):
        self.name, self.title, self.make, self.bars = name, title, make, bars
        self.first, self.change, self.contenders, self.most, self.alone = first, change, contenders, most, alone


class Bar:
    """A figure to reach: the measured value over a reference, at most (or at least) so much."""

    def __init__(self, text, limit, value, at_least=False):
        self.text, self.limit, self.value, self.at_least = text, limit, value, at_least

    def holds(self, measured_value):
        return measured_value >= self.limit if self.at_least else measured_value <= self.limit


def seconds(result, who):
    return statistics.median(sample.seconds for sample in result[who])


def wire(result, who):
    return statistics.median(sample.wire for sample in result[who])


def against(other, limit):
    return Bar(f"time ÷ {other}", limit, lambda r: seconds(r, "mcloud") / seconds(r, other) if other in r else None)


def most_bytes(limit):
    return Bar("MB on the wire", limit / 1e6, lambda r: max(sample.wire for sample in r["mcloud"]) / 1e6)


def bytes_against(other, limit):
    return Bar(f"bytes ÷ {other}", limit, lambda r: wire(r, "mcloud") / wire(r, other) if other in r else None)


def peak(which, limit):
    return Bar(
        f"peak MB, {which}", limit / 1e6, lambda r: max(getattr(s, f"rss_{which}") for s in r["mcloud"]) / 1e6
    )


def rewritten():
    return Bar("files rewritten", 0, lambda r: max(sample.rewritten for sample in r["mcloud"]))


def of_quinn(limit):
    def value(result):
        if "quinn" not in result:
            return None
        return (4 * GIB / seconds(result, "mcloud")) / statistics.median(s.rate for s in result["quinn"])

    return Bar("rate ÷ bare quinn", limit, value, at_least=True)


ROWS = [
    Row("K1", "K, first copy, folder to tenant", data.kernel, [against("rsync", 0.8)], first=True),
    Row("K1H", "the same, typed on the daemon's own machine", data.kernel, [against("rsync", 0.8)], first=True,
        contenders=("here", "rsync")),
    Row("KL", "K, first copy, folder to folder", data.kernel, [against("cp -a", 0.8)], first=True,
        contenders=("local", "cp")),
    Row("K2", "K again, unchanged", data.kernel, [against("rsync", 0.5)]),
    Row("K100", "K again, 100 files changed in 20 folders", data.kernel, [against("rsync", 0.5)],
        change=data.change_100),
    Row("KM", "1 GB of K moved to another folder", data.kernel, [most_bytes(1e6), rewritten()], change=data.move_1gb),
    Row("D1", "D, one file of 4 GiB, first copy", data.random_4gib, [against("rsync", 0.5), of_quinn(0.7)], first=True,
        contenders=("mcloud", "rsync", "quinn"), most=3),
    Row("D1H", "the same, typed on the daemon's own machine", data.random_4gib,
        [against("rsync", 0.5), of_quinn(0.7)], first=True, contenders=("here", "rsync", "quinn"), most=3),
    Row("D2", "D, after 5,000 pages rewritten", data.random_4gib, [against("rsync", 0.3), bytes_against("rsync", 0.4)],
        change=data.rewrite_pages, most=3),
    Row("I64", "64 bytes inserted at the start of 1 GiB", data.random_1gib, [most_bytes(1e6)], change=data.insert_64),
    Row("M1", "a million files, first copy", data.million,
        [against("rsync", 1.0), peak("client", 200e6), peak("server", 200e6)], first=True, most=1),
    Row("M2", "a million files again, unchanged", data.million,
        [against("rsync", 1.0), peak("client", 200e6), peak("server", 200e6)], most=3,
        alone=True),
]


def quinn_sample(program):
    """Bare quinn, 4 GiB over one connection on loopback, with the product's transport settings."""
    said = subprocess.run([str(program), "--bytes", str(4 * GIB)], capture_output=True, text=True, check=True).stdout
    fields = dict(word.split("=", 1) for word in said.split() if "=" in word)
    sample = Sample(float(fields["seconds"]))
    sample.rate = float(fields["bytes_per_second"])
    return sample


def quinn_program():
    command = ["cargo", "build", "--release", "--bench", "quinn_bare", "--message-format=json"]
    built = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    if built.returncode != 0:
        sys.exit(f"the bare quinn program does not build:\n{built.stderr[-3000:]}")
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "quinn_bare":
            return message["executable"]
    sys.exit("cargo named no executable for the bare quinn program")


def run_row(row, options, shm):
    """Runs one row and returns the samples by contender."""
    source = shm / "source"
    began = time.monotonic()
    row.make(options.cache, source)
    progress(f"{row.name}: source made in {time.monotonic() - began:.1f} s")
    makers = {
        "mcloud": lambda: Mcloud(options.mcloud, shm),
        "here": lambda: McloudHere(options.mcloud, shm),
        "local": lambda: McloudLocal(options.mcloud, shm),
        "rsync": lambda: Rsync(shm),
        "cp": lambda: Cp(shm),
    }
    wanted = [name for name in row.contenders if not options.only or name in options.only]
    repeats = min(options.n, row.most)
    result = {}
    live = [makers[name]() for name in wanted if name != "quinn"]
    try:
        if row.first:
            for turn in range(repeats):
                for contender in live:
                    contender.forget()
                    note(result, row, contender.name, contender.sync(source))
                    if turn == 0:
                        check(row, source, contender)
                    shutil.rmtree(contender.target, ignore_errors=True)
                if "quinn" in wanted:
                    note(result, row, "quinn", quinn_sample(options.quinn))
        else:
            rng = random.Random(7)
            for group in [[contender] for contender in live] if row.alone else [live]:
                for contender in group:
                    contender.sync(source)
                    contender.sync(source)
                for turn in range(repeats):
                    if row.change:
                        row.change(source, rng, turn)
                    for contender in group:
                        before = inodes(contender.target) if row.name == "KM" else None
                        sample = contender.sync(source)
                        if before is not None:
                            sample.rewritten = len(inodes(contender.target) - before)
                        note(result, row, contender.name, sample)
                        if turn == repeats - 1:
                            check(row, source, contender)
                if row.alone:
                    shutil.rmtree(group[0].target)
    finally:
        for contender in live:
            contender.stop()
        for entry in shm.iterdir():
            shutil.rmtree(entry, ignore_errors=True)
    return result


def inodes(root):
    found = set()
    for folder, _, names in os.walk(root):
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            # Regular files alone: a link whose end moves away turns from a folder into a name to the walk.
            if status.st_size and stat.S_ISREG(status.st_mode):
                found.add(status.st_ino)
    return found


def check(row, source, contender):
    """Ends the bench when a copy is wrong. (Not rsync's: its daemon rewrites `././` in symlinks.)"""
    if contender.name == "rsync":
        return
    if row.name.startswith("M"):
        have = sum(len(names) for _, _, names in os.walk(contender.target))
        if have != data.MILLION:
            sys.exit(f"{row.name}: {contender.name} copied {have} files of {data.MILLION}")
        return
    found = differences(source, contender.target)
    if found:
        sys.exit(f"{row.name}: {contender.name}'s copy is wrong:\n{found[:2000]}")


def note(result, row, name, sample):
    result.setdefault(name, []).append(sample)
    peaks = f"  peak {sample.rss_client / 1e6:.0f} + {sample.rss_server / 1e6:.0f} MB" if sample.rss_client else ""
    progress(f"{row.name}: {name:7} {sample.seconds:8.3f} s  {sample.wire / 1e6:10.2f} MB on the wire{peaks}")


def progress(text):
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------- the table


def table(results):
    lines = ["| work | mcloud | others | on the wire | bar | reached |", "| --- | --- | --- | --- | --- | --- |"]
    missed = 0
    for row, result in results:
        mine = f"{seconds(result, 'mcloud'):.2f} s" if "mcloud" in result else ""
        others = ", ".join(f"{name} {seconds(result, name):.2f} s" for name in result if name != "mcloud")
        moved = ", ".join(
            f"{name} {wire(result, name) / 1e6:.2f} MB" for name in result if name in ("mcloud", "rsync") and wire(result, name)
        )
        bars, reached = [], []
        for bar in row.bars:
            value = bar.value(result) if "mcloud" in result else None
            if value is None:
                continue
            bars.append(f"{bar.text} {'≥' if bar.at_least else '≤'} {bar.limit:g}")
            missed += not bar.holds(value)
            reached.append(f"{value:.2f} {'yes' if bar.holds(value) else '**no**'}")
        lines.append(f"| {row.title} | {mine} | {others} | {moved} | {'<br>'.join(bars)} | {'<br>'.join(reached)} |")
    return "\n".join(lines), missed


def document(results, options):
    """docs/benchmarks.md: the table between two marks; what people wrote around it stays."""
    text, _ = table(results)
    cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    rsync = subprocess.run(["rsync", "--version"], capture_output=True, text=True).stdout.split("\n")[0].split("  ")[1]
    block = (
        f"<!-- table -->\nMedian of {options.n} (a million files, first copy: one run), {os.cpu_count()} cores ({cpu}), {memory:.0f} GiB, Linux {os.uname().release}, "
        f"rsync {rsync}, everything in memory.\n\n{text}\n<!-- /table -->"
    )
    path = Path(options.write)
    old = path.read_text() if path.exists() else "# Benchmarks\n\n<!-- table -->\n<!-- /table -->\n"
    head, _, rest = old.partition("<!-- table -->")
    _, _, tail = rest.partition("<!-- /table -->")
    path.write_text(head + block + tail)


def own_loopback(options):
    """Starts this script again in a network namespace of its own, so that nobody else's bytes are counted."""
    if os.environ.get("MCLOUD_BENCH_NET"):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    if os.geteuid() != 0:
        progress("not root: bytes on the wire are those of the whole machine's loopback")
        return
    os.environ["MCLOUD_BENCH_NET"] = "1"
    more = ["--quinn", str(options.quinn)] if options.quinn else []
    os.execvp("unshare", ["unshare", "-n", sys.executable, __file__, *sys.argv[1:], *more])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", help="comma separated; default: all")
    parser.add_argument("-n", type=int, default=5, help="repetitions (median)")
    parser.add_argument("--mcloud", default=REPO / "target/release/mcloud", help="the binary")
    parser.add_argument("--quinn", help="the bare quinn program; default: built with cargo")
    parser.add_argument("--only", help="comma separated contenders: mcloud, local, rsync, cp, quinn")
    parser.add_argument("--shm", default="/dev/shm", help="where to work")
    parser.add_argument("--cache", type=Path, default=REPO / "target/bench-data", help="where the kernel's source is kept")
    parser.add_argument("--write", help="the document to put the table into; default docs/benchmarks.md when all rows run")
    parser.add_argument("--json", help="write the samples there")
    parser.add_argument("--bars", action="store_true", help="exit 1 when a figure is not reached")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    if options.list:
        for row in ROWS:
            print(f"{row.name:5} {row.title}")
        return
    names = options.rows.split(",") if options.rows else [row.name for row in ROWS]
    unknown = set(names) - {row.name for row in ROWS}
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; --list names them")
    rows = [row for row in ROWS if row.name in names]
    options.only = options.only.split(",") if options.only else None
    if not options.rows and not options.only and not options.write:
        options.write = REPO / "docs/benchmarks.md"
    options.cache.mkdir(parents=True, exist_ok=True)
    if not options.quinn and any("quinn" in row.contenders for row in rows) and (not options.only or "quinn" in options.only):
        options.quinn = quinn_program()
    if any(row.make is data.kernel for row in rows):
        data.kernel_tarball(options.cache)
    own_loopback(options)
    shm = Path(tempfile.mkdtemp(prefix="mcloud-bench-", dir=options.shm))
    atexit.register(shutil.rmtree, shm, ignore_errors=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    results = []
    for row in rows:
        results.append((row, run_row(row, options, shm)))
        text, missed = table(results[-1:])
        progress(text)
    text, missed = table(results)
    print(text)
    if options.write:
        document(results, options)
    if options.json:
        samples = {row.name: {who: [vars(s) for s in found] for who, found in result.items()} for row, result in results}
        Path(options.json).write_text(json.dumps(samples, indent=1))
    if options.bars and missed:
        sys.exit(1)


if __name__ == "__main__":
    main()
