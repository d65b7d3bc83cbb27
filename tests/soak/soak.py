#!/usr/bin/env python3
"""A differential fuzz of mcloud: random trees, random changes, every way to sync, kills; held to an oracle of its own and to rsync.

    python3 tests/soak/soak.py --binary target/release/mcloud --minutes 60
    python3 tests/soak/soak.py --binary target/debug/mcloud --seed 17 --seeds 1     one seed again

Each seed has a world of its own: file systems on loop devices (ext4, ext4 with 128-byte inodes, xfs, btrfs, tmpfs, overlay), a source, up
to three targets (a folder, tenants of one or two daemons) and a few dozen rounds. Trees, changes and ways follow from the seed; only the
moments of kills and of changes during a sync are the machine's. A failure prints the seed, the round and the last changes and leaves a
report and both trees in --keep. Root only; it mounts in a namespace of its own, so nothing is left however it ends.
"""

import argparse
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import kernel  # noqa: E402
from rounds import Counts, Seed  # noqa: E402
from world import KINDS, Wrong  # noqa: E402

INSIDE = "MCLOUD_SOAK_INSIDE"


def arguments():
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--binary", default="target/release/mcloud")
    words.add_argument("--minutes", type=float, help="how long, at most (default: 60, or no bound with --seeds)")
    words.add_argument("--seed", type=int, help="the first seed (default: one of today)")
    words.add_argument("--seeds", type=int, help="how many seeds (default: as many as there is time for)")
    words.add_argument("--rounds", type=int, default=24, help="rounds of each seed")
    words.add_argument("--jobs", type=int, default=1, help="seeds at once")
    words.add_argument("--kill", type=float, default=0.25, help="the share of syncs that are cut off first")
    words.add_argument("--fs", help=f"only these file systems, with commas: {','.join(KINDS)}")
    words.add_argument("--nodes", help="only these targets: t (a folder), v, w (tenants of host 1), x (a tenant of host 2)")
    words.add_argument("--ways", help="only these: sync, options, snapshot, restore, live")
    words.add_argument("--without", default="", help="changes to leave out, by the names in changes.py; held, live")
    words.add_argument("--keep", default="target/soak", help="where reports of failures go")
    words.add_argument("--work", help="where the file systems lie (default: in memory)")
    words.add_argument("--stop", action="store_true", help="end at the first failure")
    words.add_argument("-v", "--verbose", action="store_true", help="tell each command and change at once, on standard error")
    words.add_argument("--every", type=float, default=30, help="seconds between two lines of progress")
    settings = words.parse_args()
    listed = lambda text: [word for word in (text or "").split(",") if word]  # noqa: E731
    settings.fs, settings.nodes, settings.ways = listed(settings.fs), listed(settings.nodes), listed(settings.ways)
    settings.without = listed(settings.without)
    settings.live = "live" not in settings.without
    settings.binary, settings.keep = os.path.abspath(settings.binary), os.path.abspath(settings.keep)
    if settings.seed is None:
        settings.seed = int(time.time()) % 1_000_000_007
    if settings.minutes is None and settings.seeds is None:
        settings.minutes = 60
    return settings


# ---------------------------------------------------------------- a worker: every so-many-th seed, in namespaces of its own


def work(settings, number, count):
    """Runs seeds and prints a JSON line after each."""
    settings.until = float(os.environ[INSIDE])
    base = os.path.join(os.environ["MCLOUD_SOAK_BASE"], f"worker{number}")
    os.mkdir(base)
    os.umask(0o022)
    try:
        seed = settings.seed + number
        while time.monotonic() < settings.until and (settings.seeds is None or seed < settings.seed + settings.seeds):
            report(settings, seed, os.path.join(base, f"seed{seed}"))
            seed += count
    finally:
        alone()


def report(settings, seed, place):
    counts = Counts()
    run = Seed(seed, settings, place, counts)
    try:
        try:
            wrong = run.run()
        except Exception:  # noqa: BLE001  (a fault of the harness is told as one, with what led to it)
            wrong = Wrong("harness", traceback.format_exc())
        if wrong:
            run.keep(os.path.join(settings.keep, f"seed-{seed}"), wrong)
    finally:
        run.drop()
        alone()
    line = {"seed": seed, "world": run.lines[0] if run.lines else "", **vars(counts)}
    if wrong:
        line |= {"kind": wrong.kind, "words": str(wrong)[:6000], "last": run.lines[-24:], "round": counts.rounds}
    print(json.dumps(line), flush=True)


def alone():
    """Ends whatever is left in this process namespace: all of it was started here."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                os.kill(int(name), signal.SIGKILL)
            except ProcessLookupError:
                continue
    try:
        while os.waitpid(-1, 0)[0]:
            pass
    except ChildProcessError:
        pass


# ---------------------------------------------------------------- the whole


class Total:
    def __init__(self):
        self.seeds, self.failures, self.began = [], [], time.monotonic()
        self.counts = dict.fromkeys(("rounds", "kills", "syncs", "restores", "live"), 0)

    def add(self, line, keep):
        self.seeds.append(line["seed"])
        for key in self.counts:
            self.counts[key] += line[key]
        if "kind" in line:
            self.failures.append(line)
            print(f"FAILED seed {line['seed']}, round {line['round']}: {line['words']}")
            print("  what led to it:\n" + "\n".join(line["last"]))
            print(f"  {line['world']}\n  kept in {keep}/seed-{line['seed']}; again: --seed {line['seed']} --seeds 1", flush=True)

    def __str__(self):
        span = f"seeds {min(self.seeds)}..{max(self.seeds)}" if self.seeds else "no seed"
        c = self.counts
        kinds = {}
        for failure in self.failures:
            kinds[failure["kind"]] = kinds.get(failure["kind"], 0) + 1
        kinds = "" if not kinds else " (" + ", ".join(f"{kind}: {n}" for kind, n in sorted(kinds.items())) + ")"
        return (
            f"{c['rounds']} rounds, {c['syncs']} syncs ({c['restores']} restores, {c['live']} under a writer), {c['kills']} kills, "
            f"{len(self.failures)} failures{kinds}, {span}, {len(self.seeds)} seeds, {time.monotonic() - self.began:.0f} s"
        )


def main():
    settings = arguments()
    if INSIDE in os.environ:
        number, count = map(int, os.environ["MCLOUD_SOAK_WORKER"].split("/"))
        return work(settings, number, count)
    if os.geteuid() != 0:
        sys.exit("the soak makes mounts, devices and owners: run it as root")
    os.makedirs(settings.keep, exist_ok=True)
    until = time.monotonic() + settings.minutes * 60 if settings.minutes else float(2**40)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    base = work_folder(settings.work)
    try:
        return follow(start(settings, base, until), settings)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def work_folder(chosen):
    """A folder of this run, in memory where that is; those of runs that were killed are removed."""
    place = chosen or ("/dev/shm" if os.path.isdir("/dev/shm") else tempfile.gettempdir())
    for name in os.listdir(place):
        owner = name.removeprefix("mcloud-soak-").split("-")[0]
        if name.startswith("mcloud-soak-") and owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
            shutil.rmtree(os.path.join(place, name), ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"mcloud-soak-{os.getpid()}-", dir=place)


def start(settings, base, until):
    workers = []
    for number in range(settings.jobs):
        environment = os.environ | {INSIDE: repr(until), "MCLOUD_SOAK_WORKER": f"{number}/{settings.jobs}", "MCLOUD_SOAK_BASE": base}
        words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
        words += [sys.executable, os.path.abspath(__file__), *sys.argv[1:], "--seed", str(settings.seed)]
        workers.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=kernel.die_with_parent))
    return workers


def follow(workers, settings):
    """Reads what the workers tell until they end."""
    total, told, chooser = Total(), time.monotonic(), selectors.DefaultSelector()
    for worker in workers:
        chooser.register(worker.stdout, selectors.EVENT_READ)
    stopped = False
    try:
        while chooser.get_map() and not stopped:
            for key, _ in chooser.select(timeout=5):
                line = key.fileobj.readline()
                if not line:
                    chooser.unregister(key.fileobj)
                    continue
                total.add(json.loads(line), settings.keep)
                stopped = settings.stop and bool(total.failures)
            if time.monotonic() - told > settings.every:
                told = time.monotonic()
                print(total, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        # What they started ends with them: each is the first process of its namespace.
        for worker in workers:
            if worker.poll() is None and chooser.get_map():
                worker.kill()
    codes = [worker.wait() for worker in workers]
    print(total, flush=True)
    broken = any(codes) and not stopped
    if broken:
        print(f"a worker of the soak ended with {codes}", flush=True)
    sys.exit(1 if total.failures or broken or not total.counts["rounds"] else 0)


if __name__ == "__main__":
    main()
