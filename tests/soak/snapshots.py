"""Into and out of snapshots: each is remembered by its portrait, and comes back as that."""

import oracle
from world import Wrong

MOST = 4


class Snapshots:
    def __init__(self, seed):
        self.seed, self.kept = seed, []
        self.nodes = [node for node in seed.world.nodes if node.daemon]

    def create(self, rng):
        """Takes one, perhaps after one that is cut off; removes the oldest where there are many."""
        seed = self.seed
        node = rng.choice(self.nodes)
        words = ["-h", node.daemon.listen, "snapshot", "create", node.name]
        if seed.rng.random() < seed.settings.kill:
            seed.cut_off(rng, None, node, words, lambda: seed.portrait(node))
        taken = seed.world.client.ok(*words)
        seed.pace["-h"] = taken.seconds
        if found := oracle.differences(seed.portrait(node), oracle.portrait(node.folder)):
            raise Wrong("source touched", f"{found[:5]}\n{taken}")
        self.kept.append((taken.last()["snapshot"], node.daemon, seed.portrait(node)))
        mine = [one for one in self.kept if one[1] is node.daemon]
        if len(mine) > MOST:
            self.kept.remove(mine[0])
            seed.world.client.ok("-h", node.daemon.listen, "snapshot", "remove", mine[0][0], "--yes")
            if rng.random() < 0.5:
                seed.world.client.ok("-h", node.daemon.listen, "snapshot", "prune", "--keep-last", "99")

    def restore(self, rng):
        seed = self.seed
        name, daemon, want = rng.choice(self.kept)
        fits = [node for node in seed.world.nodes[1:] if not node.daemon or node.daemon is daemon]
        target = rng.choice(fits or self.nodes)
        words = ["-h", daemon.listen, "snapshot", "restore", name, target.ref, "--force"]
        if target.daemon:
            words.append("--code")
        seed.pair = (target.folder,)
        seed.counts.restores += 1
        if seed.rng.random() < seed.settings.kill:
            seed.cut_off(rng, None, target, words, lambda: want)
        seed.whole(words, None, target, want)

    def verify(self):
        for daemon in {node.daemon for node in self.nodes}:
            self.seed.world.client.ok("-h", daemon.listen, "snapshot", "verify", "--read-data")
