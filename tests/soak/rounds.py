"""One seed: a world, some trees in it, and rounds of change, sync and comparison."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import changes
import options
import oracle
import trees
from held import Held
from snapshots import Snapshots
from world import World, Wrong

NUMBERS = ("created", "updated", "moved", "removed", "touched")


class Counts:
    def __init__(self):
        self.rounds = self.kills = self.syncs = self.restores = self.live = 0
        self.ways = {}


class Seed:
    """Runs the rounds of one seed. `log` takes every command and every change."""

    def __init__(self, number, settings, place, counts):
        self.number, self.settings, self.counts, self.lines = number, settings, counts, []
        self.rng = random.Random(f"{number} chance")  # what does not decide what is in the trees
        self.place, self.pace, self.pair = place, {}, None
        self.world, self.began = None, time.monotonic()

    def log(self, line):
        self.lines.append(line)
        if self.settings.verbose:
            print(f"{time.monotonic() - self.began:8.2f} {line}", file=sys.stderr, flush=True)

    def run(self):
        """None, or the broken promise."""
        try:
            self.world = World(self.place, self.settings.binary, self.number, self.log, self.settings.fs, self.settings.nodes)
            self.log(f"seed {self.number}: {self.world.describe()}")
            self.source = self.world.nodes[0]
            rng = random.Random(f"{self.number} trees")
            self.shape = trees.Shape(rng)
            for node in self.world.nodes:
                if node is self.source or rng.random() < 0.3:
                    trees.grow(node.folder, rng, self.shape)
            self.held = Held(self.source, self.settings.without)
            self.snapshots = Snapshots(self)
            for round_number in range(self.settings.rounds):
                if time.monotonic() > self.settings.until:
                    break
                self.log(f"  round {round_number}")
                self.round(round_number)
                self.counts.rounds += 1
            self.snapshots.verify()
        except Wrong as wrong:
            return wrong
        return None

    def drop(self):
        if hasattr(self, "held"):
            self.held.close()
        if self.world:
            self.world.drop()

    # ---------------------------------------------------------------- a round

    def round(self, number):
        rng = random.Random(f"{self.number} round {number}")
        self.change(self.source, rng, rng.choice((0, 1, 1, 2, 3, 5, 12)))
        self.held.write(rng)
        for node in self.world.nodes[1:]:
            if rng.random() < 0.2:
                self.change(node, rng, rng.randint(1, 4))
        way = rng.choices(
            ("sync", "options", "snapshot", "restore", "live"), (10, 2, 2, 3, 2 if self.settings.live else 0)
        )[0]
        if self.settings.ways and way not in self.settings.ways:
            way = self.settings.ways[0]
        if way in ("snapshot", "restore") and not self.snapshots.nodes:
            way = "sync"
        if way == "restore" and not self.snapshots.kept:
            way = "snapshot"
        self.counts.ways[way] = self.counts.ways.get(way, 0) + 1
        if way == "snapshot":
            self.snapshots.create(rng)
        elif way == "restore":
            self.snapshots.restore(rng)
        elif way == "options":
            options.round_of(self, rng, *self.choose(rng))
        else:
            self.sync(rng, *self.choose(rng), live=way == "live")

    def choose(self, rng):
        """From where to where: mostly from the source; also on from what came of it."""
        nodes = self.world.nodes
        start = self.source if rng.random() < 0.7 or len(nodes) < 3 else rng.choice(nodes)
        return start, rng.choice([node for node in nodes if node is not start and node is not self.source] or nodes[1:])

    def change(self, node, rng, count):
        for _ in range(count):
            self.log(f"    {node.name}: {changes.change(node.folder, rng, self.shape, self.settings.without)}")
            node.state = None

    def portrait(self, node):
        if node.state is None:
            node.state = oracle.portrait(node.folder)
        return node.state

    # ---------------------------------------------------------------- a sync, whole or cut off

    def words(self, source, target, *more):
        words = ["sync", source.ref, target.ref, *more]
        return words + ["--code"] if source.daemon and target.daemon else words

    def sync(self, rng, source, target, live=False):
        if source is target:
            return
        extra = ["--checksum"] if rng.random() < 0.12 else []
        self.pair = (source.folder, target.folder)
        if live:
            self.live(rng, source, target)
        elif self.rng.random() < self.settings.kill:
            self.cut_off(rng, source, target, self.words(source, target, *extra), lambda: self.portrait(source))
        self.whole(self.words(source, target, *extra), source, target)

    def whole(self, words, source, target, want=None):
        """Runs a sync to its end and holds all it says to what is there."""
        want = want or self.portrait(source)
        old = self.portrait(target)
        before = oracle.same_but_for_reading(source.folder) if source else None
        outcome = self.finish(words, want, target)
        self.counts.syncs += 1
        if source and before != (after := oracle.same_but_for_reading(source.folder)):
            changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
            raise Wrong("source touched", f"{changed[:5]}\n{outcome}")
        target.state = None
        self.held.seen |= source is self.source
        self.judge(outcome, want, target, old)
        if self.rng.random() < 0.3:
            self.nothing_more(words, target)
        if source and self.rng.random() < 0.1 and not (source.coarse or target.coarse):
            found = oracle.by_rsync(source.folder, target.folder)
            if found:
                raise Wrong("rsync", f"{found[:10]}\n{outcome}")

    def finish(self, words, want, target):
        outcome = self.world.client.run(*words)
        if outcome.code == 3:
            self.halted(outcome, want, target)
            outcome = self.world.client.run(*words, "--force", "--yes")
        self.pace[words[0]] = outcome.seconds
        return outcome

    def halted(self, outcome, want, target):
        """A halt rule may stop a sync only where it holds."""
        kept = self.portrait(target)
        have, gone = sum(e["kind"] != "folder" for e in kept.values()), outcome.plan().get("removed", {}).get("count", 0)
        empty = len(want) == 1 and len(kept) > 1
        if not (empty or (gone > 100 and gone * 2 > have * 0.9)):
            raise Wrong("halt", f"{gone} of {have} removed\n{outcome}")
        target.state = None
        if oracle.differences(kept, self.portrait(target)):
            raise Wrong("halt", f"the target was touched\n{outcome}")

    def judge(self, outcome, want, target, old):
        """Exit status, root names and the tree have to tell the same."""
        have = self.portrait(target)
        found = oracle.differences(want, have, before=old, root=target.folder)
        said_equal = outcome.last().get("root_source") == outcome.last().get("root_target")
        if target.coarse and outcome.code == 5:
            # Times that its inodes have no room for: listed, and not called equal.
            if said_equal or not outcome.left_out():
                raise Wrong("claim", f"status 5, but nothing tells why\n{outcome}")
            found = [one for one in found if one[0] != "mtime"]
        elif outcome.code != 0:
            raise Wrong("exit", str(outcome))
        if found:
            kinds = sorted({one[0] for one in found})
            raise Wrong("+".join(kinds), f"{len(found)} differences{', and called equal' if said_equal else ''}: {found[:8]}\n{outcome}")
        if outcome.code == 0 and not said_equal:
            raise Wrong("claim", f"equal, but the root names differ\n{outcome}")
        if left := oracle.leftovers(target.folder):
            raise Wrong("leftovers", f"{left}\n{outcome}")

    def nothing_more(self, words, target):
        """After a sync a plan is empty, and a second sync does nothing."""
        more = self.rng.choice((["--dry-run"], ["--dry-run"], ["--checksum", "--dry-run"], []))
        outcome = self.world.client.run(*words, *(word for word in more if word not in words))
        if target.coarse:
            return
        planned = {what: outcome.plan().get(what, {}).get("count", 0) for what in NUMBERS}
        if outcome.code != 0 or any(planned.values()):
            raise Wrong("not settled", f"{planned}\n{outcome}")

    def cut_off(self, rng, source, target, words, want):
        """Starts a sync and ends it at a random moment; what is there then is old, or new, or the next sync's to finish."""
        old = self.portrait(target)
        new = want()
        running = self.world.client.start(words)
        time.sleep(self.rng.random() * self.pace.get(words[0], 0.15) * 1.2)
        daemons = [node.daemon for node in (source, target) if node and node.daemon]
        how = self.rng.choice(("kill", "interrupt", "daemon" if daemons else "kill"))
        self.counts.kills += 1
        self.log(f"    cut off: {how}")
        if how == "daemon":
            victim = self.rng.choice(daemons)
            victim.kill()
            outcome = running.finish()
            victim.start()
        else:
            running.signal(signal.SIGKILL if how == "kill" else signal.SIGINT)
            outcome = running.finish()
        target.state = None
        if how == "interrupt" and not daemons:
            have = self.portrait(target)
            without = ("mtime",) if target.coarse else ()
            if oracle.differences(old, have, without) and (found := oracle.differences(new, have, without)):
                raise Wrong("neither old nor new", f"{found[:6]}\nand to the old: {oracle.differences(old, have)[:6]}\n{outcome}")
        if source and self.rng.random() < 0.4:
            self.change(self.source, rng, rng.randint(1, 3))

    def live(self, rng, source, target):
        """Changes the source while it is copied; the sync after it has to see them all."""
        self.counts.live += 1
        trouble = []

        def write(pauses):
            # All of them are made, also when the sync ends sooner: what follows from a seed stays the same.
            try:
                for pause in pauses:
                    self.change(source, rng, 1)
                    time.sleep(pause)
            except BaseException as error:  # noqa: BLE001
                trouble.append(error)

        pauses = [self.rng.random() * 0.02 for _ in range(self.rng.randint(2, 12))]
        writer = threading.Thread(target=write, args=(pauses,))
        writer.start()
        try:
            outcome = self.world.client.run(*self.words(source, target))
        finally:
            writer.join()
        if trouble:
            raise trouble[0]
        source.state = target.state = None
        if outcome.code == 3 or (outcome.code == 5 and outcome.left_out()):
            return
        if outcome.code != 0:
            raise Wrong("live", str(outcome))

    # ---------------------------------------------------------------- what is kept of a failure

    def keep(self, folder, wrong):
        """What happened, and the trees as they are."""
        os.makedirs(folder, exist_ok=True)
        said = "\n".join(f"--- {daemon.home}\n{daemon.said()}" for daemon in (self.world.daemons if self.world else []))
        with open(os.path.join(folder, "report.txt"), "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{wrong}\n\n" + "\n".join(self.lines) + f"\n\n{said}\n")
        for name, tree in zip(("source", "target"), self.pair or (), strict=False):
            words = ["tar", "--sparse", "--acls", "--xattrs", "--xattrs-include=*", "-czf", os.path.join(folder, name + ".tar.gz")]
            subprocess.run([*words, "-C", os.fsdecode(tree), "."], capture_output=True, check=False)
        while len(os.listdir(os.path.dirname(folder))) > 40:
            oldest = min(os.scandir(os.path.dirname(folder)), key=lambda entry: entry.stat().st_mtime)
            shutil.rmtree(oldest.path)
