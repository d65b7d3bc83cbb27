#!/usr/bin/env python3
"""Snapshots beside restic and borg on the same tree, in the same run, in memory: first, again unchanged, restored, and what it takes.

    python3 benches/compare/store.py                     work K three times
    python3 benches/compare/store.py --tree DIR -n 1     another tree
    python3 benches/compare/store.py --many 1000000      memory of create and restore with so many small files
    python3 benches/compare/store.py --plain             without borg

All compress with zstd at its default level. restic and borg seal their repositories, ours in a folder does not. Each first snapshot goes into
a new store. The client's start and its way to the daemon count. `restore` is to a folder of the host, as restic's is; over QUIC it is to a client's.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.dont_write_bytecode = True
sys.path.insert(0, str(Path(__file__).parent))
import data  # noqa: E402
from run import REPO, Mcloud, progress  # noqa: E402

LIMITS = {"first": 0.5, "unchanged": 0.1, "restore": 0.5, "bytes": 1.05}
MEMORY_LIMIT = 300e6


def timed(command, **more):
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    return time.monotonic() - began


def size_of(folder):
    return sum(entry.lstat().st_size for entry in Path(folder).rglob("*") if entry.is_file())


class Ours:
    name = "mcloud"

    def __init__(self, binary, shm, source):
        self.shm, self.source, self.binary, self.number = shm, source, binary, 0

    def turn(self):
        self.number += 1
        place = self.shm / f"ours-{self.number}"
        place.mkdir()
        host = Mcloud(self.binary, place)
        try:
            # The tenant's own folder is the tree itself: nothing of it is known yet.
            host.run("remove", "bench")
            host.run("init", "bench", "--path", self.source)
            of = f"bench@{host.address}"
            figures = {}
            for what in ("first", "unchanged"):
                began = time.monotonic()
                taken = host.run("snapshot", "create", of)
                figures[what] = time.monotonic() - began
            (place / "back").mkdir()
            host.run("init", "back", "--path", place / "back")
            for what, target in (("restore", f"back@{host.address}"), ("restore over QUIC", place / "far")):
                began = time.monotonic()
                host.run("snapshot", "restore", taken.done["snapshot"], target, "--yes")
                figures[what] = time.monotonic() - began
            figures["bytes"] = sum(size_of(host.base / "home/store" / part) for part in ("packs", "snapshots"))
            return figures
        finally:
            host.stop()
            shutil.rmtree(place, ignore_errors=True)


class Restic:
    name = "restic"

    def __init__(self, shm, source):
        self.shm, self.source = shm, source

    def turn(self):
        place = self.shm / "restic"
        env = os.environ | {
            "RESTIC_REPOSITORY": str(place / "repo"), "RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(place / "cache"),
        }
        place.mkdir()
        try:
            timed(["restic", "-q", "init", "--repository-version", "2"], env=env)
            backup = ["restic", "-q", "backup", "."]
            figures = {what: timed(backup, env=env, cwd=self.source) for what in ("first", "unchanged")}
            figures["restore"] = timed(["restic", "-q", "restore", "latest", "--target", str(place / "back")], env=env)
            return figures | {"bytes": size_of(place / "repo")}
        finally:
            shutil.rmtree(place, ignore_errors=True)


class Borg:
    name = "borg"

    def __init__(self, shm, source):
        self.shm, self.source = shm, source

    def turn(self):
        place = self.shm / "borg"
        env = os.environ | {
            "BORG_REPO": str(place / "repo"), "BORG_PASSPHRASE": "bench", "BORG_BASE_DIR": str(place / "base"),
        }
        (place / "back").mkdir(parents=True)
        try:
            timed(["borg", "init", "-e", "repokey-blake2"], env=env)
            figures = {}
            for what in ("first", "unchanged"):
                figures[what] = timed(["borg", "create", "-C", "zstd", f"::{what}", "."], env=env, cwd=self.source)
            figures["restore"] = timed(["borg", "extract", "::first"], env=env, cwd=place / "back")
            return figures | {"bytes": size_of(place / "repo")}
        finally:
            shutil.rmtree(place, ignore_errors=True)


def many(options, shm):
    """Peak memory of daemon and client with many small files."""
    source = shm / "many"
    for number in range(options.many):
        folder = source / f"{number // 1000:05}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"file-{number}").write_bytes(number.to_bytes(8, "little") * 20)
    host = Mcloud(options.mcloud, shm)
    try:
        host.run("remove", "bench")
        host.run("init", "bench", "--path", source)
        taken = host.run("snapshot", "create", f"bench@{host.address}")
        restored = host.run("snapshot", "restore", taken.done["snapshot"], shm / "back", "--yes")
        peaks = {"create": taken.rss_server, "restore, daemon": restored.rss_server, "restore, client": restored.rss_client}
        print(f"memory, {options.many:,} small files: " + ", ".join(f"{what} {peak / 1e6:.0f} MB" for what, peak in peaks.items()))
        return max(peaks.values()) <= MEMORY_LIMIT
    finally:
        host.stop()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=3)
    parser.add_argument("--mcloud", default=REPO / "target/release/mcloud")
    parser.add_argument("--tree", type=Path, help="default: work K")
    parser.add_argument("--many", type=int, default=0, metavar="FILES")
    parser.add_argument("--plain", action="store_true", help="without borg")
    parser.add_argument("--shm", default="/dev/shm")
    parser.add_argument("--cache", type=Path, default=REPO / "target/bench-data")
    parser.add_argument("--bars", action="store_true", help="exit 1 when a figure is not reached")
    options = parser.parse_args()
    shm = Path(tempfile.mkdtemp(prefix="mcloud-bench-", dir=options.shm))
    try:
        if options.many:
            sys.exit(0 if many(options, shm) or not options.bars else 1)
        source = options.tree
        if not source:
            source = shm / "source"
            options.cache.mkdir(parents=True, exist_ok=True)
            data.kernel(options.cache, source)
        contenders = [Ours(options.mcloud, shm, source.absolute()), Restic(shm, source)]
        if not options.plain:
            contenders.append(Borg(shm, source))
        turns = {contender.name: [] for contender in contenders}
        for _ in range(options.n):
            for contender in contenders:
                turns[contender.name].append(contender.turn())
                progress(f"{contender.name:7} " + "  ".join(f"{what} {figure:.3f}" for what, figure in turns[contender.name][-1].items()))
        missed = False
        for what, limit in LIMITS.items():
            figures = {name: statistics.median(turn[what] for turn in all) for name, all in turns.items()}
            unit = (1e6, "MB") if what == "bytes" else (1, "s")
            shown = ", ".join(f"{name} {figure / unit[0]:.2f} {unit[1]}" for name, figure in figures.items())
            ratio = figures["mcloud"] / figures["restic"]
            missed |= ratio > limit
            print(f"{what}: {shown}, {ratio:.2f} × restic (at most {limit:g}): {'yes' if ratio <= limit else '**no**'}")
        far = statistics.median(turn["restore over QUIC"] for turn in turns["mcloud"])
        print(f"restore over QUIC, to a client: mcloud {far:.2f} s")
        sys.exit(1 if options.bars and missed else 0)
    finally:
        shutil.rmtree(shm, ignore_errors=True)


if __name__ == "__main__":
    main()
