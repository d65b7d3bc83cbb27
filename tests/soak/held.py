"""Files that stay mapped shared and writable while they are copied, as databases keep theirs."""

import mmap
import os

import changes


class Held:
    def __init__(self, node, without):
        self.node, self.maps, self.off = node, [], "held" in without
        self.seen = True  # whether a sync has read what was written last

    def write(self, rng):
        """Writes to what is mapped, or ends it, or maps another file."""
        for one in list(self.maps):
            fd, view = one
            # Beyond the end of a file that became shorter, a write would be a signal.
            if os.fstat(fd).st_size < len(view) or rng.random() < 0.2:
                self.drop(one)
            else:
                self.scribble(rng, view)
        if self.off or len(self.maps) > 1 or rng.random() > 0.1:
            return
        path = changes.Seen(self.node.folder, rng, None).file()
        if not path or not 4096 <= os.lstat(path).st_size < 20 << 20:
            return
        fd = os.open(path, os.O_RDWR)
        view = mmap.mmap(fd, os.fstat(fd).st_size)
        self.maps.append((fd, view))
        self.scribble(rng, view)

    def scribble(self, rng, view):
        at = rng.randrange(len(view) - 8)
        view[at : at + 8] = rng.randbytes(8)
        self.node.state, self.seen = None, False

    def drop(self, one):
        self.maps.remove(one)
        fd, view = one
        if not self.seen:
            # In a memory file system nothing but the map itself tells of a write, and nobody has looked while it was there.
            os.utime(fd)
            self.node.state = None
        view.close()
        os.close(fd)

    def close(self):
        for one in list(self.maps):
            self.drop(one)
