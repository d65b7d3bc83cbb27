#!/usr/bin/env python3
"""A mounted snapshot read as `tar` reads it, beside restic's mount of the same tree, in the same run, in memory.

    python3 benches/compare/mount.py                     work K five times, cold each time
    python3 benches/compare/mount.py --tree DIR -n 1     another tree
    python3 benches/compare/mount.py --live              the live volume in place of a snapshot

Each turn mounts anew, so nothing is in the kernel's memory of it. The reader is `tar c . | wc -c`: to /dev/null `tar` would read nothing.
Both ends of our mount are on this machine, and speak over QUIC as two machines do; restic reads its repository itself.
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

LIMIT = 0.5


def read(folder):
    """Seconds for all of it, and how many bytes came."""
    began = time.monotonic()
    done = subprocess.run(["sh", "-c", "tar c . | wc -c"], cwd=folder, capture_output=True, text=True, check=True)
    if done.stderr:
        sys.exit(f"tar of {folder}: {done.stderr[:2000]}")
    return time.monotonic() - began, int(done.stdout)


class Ours:
    name = "mcloud"

    def __init__(self, binary, shm, source, live):
        self.host = Mcloud(binary, shm)
        self.host.run("sync", source, f"bench@{self.host.address}", "--yes")
        self.what = f"bench@{self.host.address}"
        if not live:
            self.what = self.host.run("snapshot", "create", self.what).done["snapshot"]
        self.dir = shm / "ours"
        self.dir.mkdir()

    def turn(self):
        self.host.run("mount", self.what, self.dir)
        try:
            return read(self.dir)
        finally:
            self.host.run("unmount", "--force", self.dir)

    def stop(self):
        self.host.stop()


class Restic:
    name = "restic"

    def __init__(self, shm, source):
        self.dir = shm / "theirs"
        self.dir.mkdir()
        self.env = os.environ | {
            "RESTIC_REPOSITORY": str(shm / "restic"), "RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(shm / "restic-cache"),
        }
        self.run("init")
        subprocess.run(["restic", "backup", "-q", "."], cwd=source, env=self.env, check=True)

    def run(self, *arguments):
        subprocess.run(["restic", "-q", *arguments], env=self.env, check=True, stdout=subprocess.DEVNULL)

    def turn(self):
        mount = subprocess.Popen(["restic", "mount", str(self.dir)], env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            latest = self.dir / "snapshots" / "latest"
            for _ in range(600):
                if os.path.ismount(self.dir) and latest.exists():
                    break
                time.sleep(0.05)
            else:
                sys.exit("restic's mount did not come up")
            return read(latest.resolve())
        finally:
            subprocess.run(["umount", str(self.dir)], check=False)
            mount.wait(60)

    def stop(self):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=5)
    parser.add_argument("--mcloud", default=REPO / "target/release/mcloud")
    parser.add_argument("--tree", type=Path, help="default: work K")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--only", choices=["mcloud", "restic"])
    parser.add_argument("--shm", default="/dev/shm")
    parser.add_argument("--cache", type=Path, default=REPO / "target/bench-data")
    parser.add_argument("--bars", action="store_true", help="exit 1 when the figure is not reached")
    options = parser.parse_args()
    shm = Path(tempfile.mkdtemp(prefix="mcloud-bench-", dir=options.shm))
    contenders = []
    try:
        source = options.tree
        if not source:
            source = shm / "source"
            options.cache.mkdir(parents=True, exist_ok=True)
            data.kernel(options.cache, source)
        if options.only != "restic":
            contenders.append(Ours(options.mcloud, shm, source, options.live))
        if options.only != "mcloud":
            contenders.append(Restic(shm, source))
        seconds = {contender.name: [] for contender in contenders}
        sizes = set()
        for _ in range(options.n):
            for contender in contenders:
                took, size = contender.turn()
                seconds[contender.name].append(took)
                sizes.add(size)
                progress(f"{contender.name:7} {took:8.3f} s  {size / 1e6:.0f} MB of tar")
        if len(sizes) > 1:
            sys.exit(f"they did not read the same: {sorted(sizes)}")
        figures = {name: statistics.median(times) for name, times in seconds.items()}
        ratio = figures["mcloud"] / figures["restic"] if len(figures) == 2 else None
        shown = ", ".join(f"{name} {figure:.2f} s" for name, figure in figures.items())
        what = "live volume" if options.live else "snapshot"
        verdict = "" if ratio is None else f", {ratio:.2f} × (at most {LIMIT:g}): {'yes' if ratio <= LIMIT else '**no**'}"
        print(f"tar of the mounted {what}, median of {options.n}: {shown}{verdict}")
        if options.bars and ratio and ratio > LIMIT:
            sys.exit(1)
    finally:
        for contender in contenders:
            contender.stop()
        shutil.rmtree(shm, ignore_errors=True)


if __name__ == "__main__":
    main()
