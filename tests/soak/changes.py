"""Random changes to a tree, as people, programs and file systems make them. Each is a function of one `Seen`; it says what it did, or
None when the tree has nothing for it."""

import contextlib
import errno
import mmap
import os
import shutil
import stat
import subprocess

import kernel
import trees

BLOCK = 4096
# What a change may run into without anything being wrong: an entry that just is not there, or a file system that cannot.
HARMLESS = {
    errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EXDEV, errno.ENAMETOOLONG, errno.EOPNOTSUPP,
    errno.ENOSPC, errno.EMLINK, errno.EINVAL, errno.ENXIO, errno.ENODATA, errno.EBUSY, errno.EPERM,
}


class Seen:
    """A tree to pick from."""

    def __init__(self, root, rng, shape):
        self.root, self.rng, self.shape = root, rng, shape
        self.folders, self.files, self.all = [root], [], []
        for folder, names, others in os.walk(root):
            if folder == root:
                names[:] = [n for n in names if not n.startswith(b".mcloud-stage")]
            names.sort()
            for one in sorted(names + others):
                path = os.path.join(folder, one)
                with contextlib.suppress(OSError):
                    mode = os.lstat(path).st_mode
                    self.all.append(path)
                    if stat.S_ISDIR(mode):
                        self.folders.append(path)
                    elif stat.S_ISREG(mode):
                        self.files.append(path)

    def file(self):
        return self.rng.choice(self.files) if self.files else None

    def any(self):
        return self.rng.choice(self.all) if self.all else None

    def folder(self):
        """One that is not the root."""
        return self.rng.choice(self.folders[1:]) if len(self.folders) > 1 else None

    def outside(self, path):
        """A folder that is not below `path`, shallow enough to move something into."""
        depth = self.root.count(b"/")
        fits = [f for f in self.folders if not (f + b"/").startswith(path + b"/") and f.count(b"/") < depth + 8 and len(f) < 1800]
        return self.rng.choice(fits or [self.root])

    def fresh(self, folder):
        return os.path.join(folder, trees.name(self.rng))

    def free(self):
        room = os.statvfs(self.root)
        return room.f_bavail * room.f_frsize


def change(root, rng, shape, without=()):
    """Makes one random change and says which."""
    kinds = [kind for kind in KINDS if kind.__name__ not in without]
    weights = [kind.weight for kind in kinds]
    for _ in range(20):
        seen = Seen(root, rng, shape)
        kind = rng.choices(kinds, weights)[0]
        if len(seen.all) > shape.most and rng.random() < 0.5:
            kind = removed
        if seen.free() < 150 << 20:
            kind = removed
        try:
            said = kind(seen)
        except OSError as error:
            if error.errno not in HARMLESS:
                raise
            # A part of it may have been done.
            said = f"({kind.__name__} met {errno.errorcode[error.errno]})"
        if said:
            return said.replace(os.fsdecode(root) + "/", "").encode("utf-8", "backslashreplace").decode().replace("x" * 200, "…")
    return "nothing"


KINDS = []


def a_change(weight):
    def add(function):
        function.weight = weight
        KINDS.append(function)
        return function

    return add


@contextlib.contextmanager
def opened(path, flags=os.O_RDWR):
    fd = os.open(path, flags | os.O_NOFOLLOW)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def time_perhaps_put_back(seen, path):
    """One change of contents in three shows nothing in mtime: only ctime tells."""
    before = os.lstat(path).st_mtime_ns
    yield
    if seen.rng.random() < 0.34:
        trees.set_mtime(path, before)


def s(path):
    return os.fsdecode(path)


# ---------------------------------------------------------------- contents


@a_change(3)
def edited(seen):
    path = seen.file()
    if not path:
        return None
    size = os.lstat(path).st_size
    at = seen.rng.randint(0, size)
    with time_perhaps_put_back(seen, path), opened(path) as fd:
        os.pwrite(fd, seen.rng.randbytes(50), at)
    return f"edited {s(path)} at {at}"


@a_change(3)
def rewritten(seen):
    """The same size, mtime as before: what a cache without ctime misses."""
    path = seen.file()
    if not path or not (size := os.lstat(path).st_size):
        return None
    before, at = os.lstat(path).st_mtime_ns, seen.rng.randrange(size)
    with opened(path) as fd:
        byte = os.pread(fd, 1, at)
        os.pwrite(fd, bytes([byte[0] ^ 0xFF]), at)
    trees.set_mtime(path, before)
    return f"rewritten {s(path)} at {at}, size and mtime as before"


@a_change(2)
def paged(seen):
    """Some pages anew, as a database does."""
    path = seen.file()
    if not path or (size := os.lstat(path).st_size) < BLOCK:
        return None
    pages = [seen.rng.randrange(size // BLOCK) for _ in range(seen.rng.randint(1, 8))]
    with time_perhaps_put_back(seen, path), opened(path) as fd:
        for page in pages:
            os.pwrite(fd, seen.rng.randbytes(BLOCK), page * BLOCK)
    return f"pages {pages} of {s(path)}"


@a_change(2)
def mapped(seen):
    """Written through a shared mapping that is gone at once."""
    path = seen.file()
    if not path or (size := os.lstat(path).st_size) < BLOCK:
        return None
    with opened(path) as fd, mmap.mmap(fd, size) as view:
        at = seen.rng.randrange(size - 16)
        view[at : at + 16] = seen.rng.randbytes(16)
        # In memory file systems no time tells of it, so it is told.
        os.utime(fd)
    return f"mapped {s(path)} at {at}"


@a_change(2)
def appended(seen):
    path = seen.file()
    if not path:
        return None
    more = seen.rng.randint(1, 100_000)
    with opened(path, os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, seen.rng.randbytes(more))
    return f"appended {more} to {s(path)}"


@a_change(2)
def truncated(seen):
    path = seen.file()
    if not path:
        return None
    size = os.lstat(path).st_size
    keep = seen.rng.choice((0, seen.rng.randint(0, size), size + seen.rng.randint(1, 400_000)))
    with time_perhaps_put_back(seen, path), opened(path) as fd:
        os.ftruncate(fd, keep)
    return f"truncated {s(path)} from {size} to {keep}"


@a_change(2)
def inserted(seen):
    """Bytes put in or taken out: all behind them is shifted; written dense, or with the holes that it had."""
    path = seen.file()
    if not path or os.lstat(path).st_size > 8 * trees.MIB:
        return None
    rng = seen.rng
    with time_perhaps_put_back(seen, path), opened(path) as fd:
        size = os.fstat(fd).st_size
        old = os.pread(fd, size, 0)
        at = rng.randint(0, size)
        count = rng.choice((1, 64, BLOCK, 3 * BLOCK, rng.randint(1, 9000)))
        new = old[:at] + rng.randbytes(count) + old[at:] if rng.random() < 0.6 else old[:at] + old[at + count :]
        os.ftruncate(fd, 0)
        os.pwrite(fd, new, 0)
    return f"inserted {len(new) - size} at {at} in {s(path)}"


@a_change(4)
def allocated(seen):
    """fallocate's ways to punch, collapse, insert and zero."""
    path = seen.file()
    if not path or (size := os.lstat(path).st_size) < 3 * BLOCK:
        return None
    rng = seen.rng
    blocks = size // BLOCK
    at = rng.randrange(blocks - 1)
    count = rng.randint(1, min(blocks - at, rng.choice((2, 8, 64, 1024))))
    mode = rng.choice((kernel.PUNCH | kernel.KEEP_SIZE, kernel.PUNCH | kernel.KEEP_SIZE, kernel.COLLAPSE, kernel.ZERO, kernel.INSERT))
    if mode == kernel.COLLAPSE and (at + count) * BLOCK >= size:
        return None
    ragged = rng.random() < 0.2 and mode not in (kernel.COLLAPSE, kernel.INSERT)
    offset, length = at * BLOCK + (rng.randrange(BLOCK) if ragged else 0), count * BLOCK
    with time_perhaps_put_back(seen, path), opened(path) as fd:
        try:
            kernel.fallocate(fd, mode, offset, length)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP or size > 8 * trees.MIB:
                raise
            by_hand(fd, size, mode, offset, length)
    return f"fallocate {mode:#x} of {s(path)}, {length} at {offset}"


def by_hand(fd, size, mode, offset, length):
    old = os.pread(fd, size, 0)
    if mode == kernel.COLLAPSE:
        new = old[:offset] + old[offset + length :]
    elif mode == kernel.INSERT:
        new = old[:offset] + bytes(length) + old[offset:]
    else:
        new = old[:offset] + bytes(min(length, size - offset)) + old[offset + length :]
    os.ftruncate(fd, 0)
    os.pwrite(fd, new, 0)


@a_change(3)
def cloned(seen):
    """A part of one file shared with another, by reflink where the file system has it."""
    a, b = seen.file(), seen.file()
    if not a or not b or a == b:
        return None
    rng, length_a = seen.rng, os.lstat(a).st_size
    if length_a < BLOCK:
        return None
    at = rng.randrange(length_a // BLOCK) * BLOCK
    length = min(rng.randint(1, 64) * BLOCK, (length_a - at) // BLOCK * BLOCK)
    to = rng.randrange(os.lstat(b).st_size // BLOCK + 1) * BLOCK
    if not length:
        return None
    with time_perhaps_put_back(seen, b), opened(a) as source, opened(b) as target:
        try:
            kernel.clone_range(source, at, length, target, to)
            how = "reflink"
        except OSError:
            os.pwrite(target, os.pread(source, length, at), to)
            how = "copy"
    return f"{how} of {length} at {at} of {s(a)} to {to} of {s(b)}"


@a_change(1)
def copied_file(seen):
    path = seen.file()
    if not path:
        return None
    to = seen.fresh(seen.rng.choice(seen.folders))
    with opened(path) as source, opened(to, os.O_RDWR | os.O_CREAT | os.O_EXCL) as target:
        try:
            kernel.clone_range(source, 0, 0, target, 0)
        except OSError:
            os.pwrite(target, os.pread(source, os.fstat(source).st_size, 0), 0)
    return f"copied {s(path)} to {s(to)}"


@a_change(1)
def replaced(seen):
    """Written beside and renamed over, as editors do; perhaps with the old times."""
    path = seen.file()
    if not path:
        return None
    beside, before = seen.fresh(os.path.dirname(path)), os.lstat(path)
    trees.write(beside, seen.rng.randbytes(min(before.st_size, 3 * trees.MIB)))
    if seen.rng.random() < 0.5:
        trees.set_mtime(beside, before.st_mtime_ns)
    os.rename(beside, path)
    return f"replaced {s(path)}"


# ---------------------------------------------------------------- what an entry is


@a_change(3)
def flipped(seen):
    """An entry becomes one of another kind under the same name."""
    path = seen.any()
    if not path:
        return None
    remove(path)
    kind = seen.rng.choice(("folder", "small", "symlink", "fifo", "sparse", "socket", "char"))
    if kind == "folder":
        os.mkdir(path)
        for _ in range(seen.rng.randrange(3)):
            trees.add(path, seen.rng, seen.shape, [])
    else:
        trees.make(path, kind, seen.rng, seen.shape, [])
    return f"flipped {s(path)} to {kind}"


@a_change(2)
def permitted(seen):
    path = seen.any()
    if not path or os.path.islink(path):
        return None
    trees.permit(path, seen.rng)
    return f"chmod {s(path)}"


@a_change(2)
def owned(seen):
    path = seen.any()
    if path:
        trees.own(path, seen.rng)
        return f"chown {s(path)}"
    return None


@a_change(2)
def touched(seen):
    path = seen.rng.choice(seen.folders) if seen.rng.random() < 0.3 else seen.any()
    if path:
        trees.times(path, seen.rng)
        return f"touched {s(path)}"
    return None


@a_change(2)
def attributed(seen):
    path = seen.any()
    if path:
        trees.attribute(path, seen.rng)
        return f"attributes of {s(path)}"
    return None


@a_change(1)
def stripped(seen):
    path = seen.any()
    names = path and [n for n in os.listxattr(path, follow_symlinks=False) if not n.startswith("trusted.SGI")]
    if not names:
        return None
    gone = seen.rng.choice(sorted(names))
    os.removexattr(path, gone, follow_symlinks=False)
    return f"attribute {gone!r} removed from {s(path)}"


@a_change(3)
def listed(seen):
    path = seen.rng.choice(seen.folders) if seen.rng.random() < 0.4 else seen.any()
    if not path or os.path.islink(path):
        return None
    trees.access_list(path, seen.rng)
    return f"access list of {s(path)}"


# ---------------------------------------------------------------- where an entry is


@a_change(2)
def renamed(seen):
    path = seen.any()
    if not path:
        return None
    to = seen.fresh(os.path.dirname(path))
    os.rename(path, to)
    return f"renamed {s(path)} to {s(to)}"


@a_change(4)
def moved(seen):
    path = seen.folder() if seen.rng.random() < 0.6 else seen.any()
    if not path:
        return None
    to = seen.fresh(seen.outside(path))
    os.rename(path, to)
    return f"moved {s(path)} to {s(to)}"


@a_change(2)
def swapped(seen):
    a, b = (seen.folder(), seen.folder()) if seen.rng.random() < 0.5 else (seen.any(), seen.any())
    if not a or not b or (a + b"/").startswith(b + b"/") or (b + b"/").startswith(a + b"/"):
        return None
    kernel.exchange(a, b)
    return f"swapped {s(a)} and {s(b)}"


@a_change(2)
def cased(seen):
    """The same name in another case, in its place or beside it."""
    path = seen.any()
    if not path:
        return None
    to = os.path.join(os.path.dirname(path), os.path.basename(path).swapcase())
    if to == path or os.path.lexists(to):
        return None
    if seen.rng.random() < 0.5 or os.path.isdir(path) or os.path.islink(path):
        os.rename(path, to)
    else:
        trees.write(to, b"another case")
    return f"cased {s(path)}"


@a_change(3)
def linked(seen):
    path = seen.file()
    if not path:
        return None
    to = seen.fresh(seen.rng.choice(seen.folders))
    os.link(path, to, follow_symlinks=False)
    return f"linked {s(path)} as {s(to)}"


@a_change(2)
def parted(seen):
    """A member of a link group becomes a file of its own with the same contents."""
    members = [path for path in seen.files if os.lstat(path).st_nlink > 1]
    if not members:
        return None
    path = seen.rng.choice(members)
    beside, before = seen.fresh(os.path.dirname(path)), os.lstat(path)
    with opened(path, os.O_RDONLY) as fd:
        if before.st_size > 8 * trees.MIB:
            return None
        trees.write(beside, os.pread(fd, before.st_size, 0))
    trees.set_mtime(beside, before.st_mtime_ns)
    os.rename(beside, path)
    return f"parted {s(path)} from its links"


@a_change(2)
def rejoined(seen):
    """A moved folder whose linked file is written anew elsewhere: a link's content is not its folder's matter."""
    members = [path for path in seen.files if os.lstat(path).st_nlink > 1]
    folder = seen.folder()
    if not members or not folder:
        return None
    to = seen.fresh(seen.outside(folder))
    os.rename(folder, to)
    path = seen.rng.choice(members)
    with opened(path, os.O_WRONLY | os.O_TRUNC) as fd:
        os.write(fd, seen.rng.randbytes(seen.rng.randint(0, 5000)))
    return f"moved {s(folder)} to {s(to)}, wrote {s(path)}"


@a_change(2)
def removed(seen):
    path = seen.any()
    if not path:
        return None
    remove(path)
    return f"removed {s(path)}"


@a_change(4)
def added(seen):
    path = trees.add(seen.rng.choice(seen.folders), seen.rng, seen.shape, seen.files)
    trees.dress(path, seen.rng)
    return f"added {s(path)}"


@a_change(1)
def added_folder(seen):
    folder = trees.make_folder(seen.outside(b"//"), seen.rng)
    for _ in range(seen.rng.randrange(5)):
        trees.add(folder, seen.rng, seen.shape, seen.files)
    trees.dress(folder, seen.rng)
    return f"added folder {s(folder)}"


@a_change(1)
def copied_folder(seen):
    """`cp -a`, which keeps times: the copy looks like a move of what is still there."""
    folder = seen.folder()
    if not folder:
        return None
    below = [path for path in seen.files if path.startswith(folder + b"/")]
    if len(below) > 60 or sum(os.lstat(path).st_size for path in below) > 20 * trees.MIB:
        return None
    to = seen.fresh(seen.outside(folder))
    subprocess.run(["cp", "-a", "--", folder, to], check=False, capture_output=True)
    return f"copied folder {s(folder)} to {s(to)}"


def remove(path):
    if stat.S_ISDIR(os.lstat(path).st_mode):
        shutil.rmtree(path)
    else:
        os.unlink(path)
