"""Random trees with every kind of entry and of metadata that Linux has, from one random.Random."""

import os
import random
import stat
import struct

KIB, MIB = 1024, 1024 * 1024
OWNERS = (0, 1, 1000, 65534, 100_000, 3_000_000_000)
FOLDER_MODES = (0o755, 0o700, 0o555, 0o1777, 0o2775, 0o500, 0o000)
FILE_MODES = (0o644, 0o600, 0o755, 0o4755, 0o2755, 0o6711, 0o1644, 0o444, 0o000)
# Every file system of the soak holds these: 1901 to 2038.
SECONDS = (-(2**31) + 1, 2**31 - 1)
EXTENSIONS = (b".txt", b".log", b".db", b".o", b"")


class Shape:
    """How large a tree grows."""

    def __init__(self, rng):
        self.folders, self.entries, self.big = rng.randint(2, 14), rng.randint(8, 90), rng.choice((200, 700, 3000)) * KIB
        self.crowd = rng.random() < 0.02  # thousands of small files
        self.deep = rng.random() < 0.05  # a chain of folders
        self.huge = rng.random() < 0.02  # a file about as large as where the engine changes its ways
        self.most = 4000 if self.crowd else 400  # entries that changes leave it at


def grow(root, rng, shape):
    folders = [root]
    for _ in range(shape.folders):
        parent = rng.choice(folders)
        if parent.count(b"/") < root.count(b"/") + 8 and len(parent) < 1800:
            folders.append(make_folder(parent, rng))
    if shape.deep:
        place = root
        for number in range(rng.randint(40, 150)):
            place = os.path.join(place, b"d%d" % number)
            os.mkdir(place)
        folders.append(place)
    made = []
    for _ in range(shape.entries):
        made.append(add(rng.choice(folders), rng, shape, made))
    if shape.crowd:
        place = make_folder(rng.choice(folders), rng)
        for number in range(rng.randint(1500, 3000)):
            write(os.path.join(place, b"small-%d" % number), rng.randbytes(rng.randint(0, 60)))
    if shape.huge:
        size = 64 * MIB + rng.choice((-4097, -1, 0, 1, 4096, MIB))
        write(os.path.join(rng.choice(folders), name(rng)), rng.randbytes(size))
    for path in made:
        dress(path, rng)
    # What is made in a folder changes its times, so deeper ones are dressed first.
    for path in sorted(folders, key=lambda folder: -folder.count(b"/")):
        dress(path, rng)


def make_folder(parent, rng):
    path = os.path.join(parent, name(rng))
    os.mkdir(path)
    return path


def add(folder, rng, shape, others):
    """One entry of any kind but a folder; `others` are what a hard link may name."""
    path = os.path.join(folder, name(rng))
    kind = rng.choices(
        ("empty", "small", "middle", "big", "sparse", "symlink", "link", "fifo", "socket", "char", "block"),
        (2, 8, 4, 1, 2, 3, 3, 1, 1, 1, 1),
    )[0]
    if kind == "link" and not others:
        kind = "small"
    make(path, kind, rng, shape, others)
    return path


def make(path, kind, rng, shape, others):
    if kind == "symlink":
        os.symlink(link_text(rng), path)
    elif kind == "link":
        try:
            os.link(rng.choice(others), path, follow_symlinks=False)
        except OSError:
            write(path, b"no link")
    elif kind == "fifo":
        os.mkfifo(path, 0o640)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o640)
    elif kind == "char":
        os.mknod(path, stat.S_IFCHR | 0o640, os.makedev(1, rng.choice((3, 255, 256, 262_143))))
    elif kind == "block":
        os.mknod(path, stat.S_IFBLK | 0o640, os.makedev(259, 70_000))
    elif kind == "sparse":
        sparse(path, rng, shape.big)
    else:
        low, high = {"empty": (0, 0), "small": (1, 6000), "middle": (6000, 150_000), "big": (150_000, shape.big)}[kind]
        write(path, content(rng, rng.randint(low, max(low, high))))


def name(rng):
    """A name that no two calls give twice, odd often."""
    word = b"%x" % rng.getrandbits(40)
    odd = (
        b"new\nline" + word, bytes(0x80 | byte for byte in rng.randbytes(9)) + word, b"-" + word, b" " + word + b" ",
        word.ljust(255, b"x"), b"." + word, b"*?[a]" + word + b"{x}", b"#" + word + b"~", b"!" + word + b"\\",
        "é".encode() + word, "e\u0301".encode() + word, b"\x01\x1b[31m" + word + b"\x7f", b"%s\"'" + word + b"`$(x)",
        b".." + word, word.upper() + b"A", "日本".encode() + word + "🦀".encode(), b"CON." + word,
    )
    if rng.random() < 0.45:
        return rng.choice(odd)
    return b"file-" + word + rng.choice(EXTENSIONS)


def link_text(rng):
    # 1,024 bytes are the most that xfs holds.
    return rng.choice((b"/etc/hostname", b"../" * 8 + b"etc", b"nowhere/at/all", b"bytes-\xff\xfe\n", b"long/" * 200 + b"x", b"."))


def write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def content(rng, length):
    """Noise, text, zeros, or a run that other files share."""
    kind = rng.randrange(7)
    if kind == 0:
        return (b"the quick brown fox jumps over the lazy dog\n" * (length // 44 + 1))[:length]
    if kind == 1:
        return bytes(length)
    if kind == 2:
        return SHARED[:length] if length <= len(SHARED) else SHARED + bytes(length - len(SHARED))
    return rng.randbytes(length)


SHARED = random.Random(7).randbytes(3 * MIB)


def sparse(path, rng, most):
    """A file with holes: at its start, between data, at its end, or nothing but one."""
    with open(path, "wb") as file:
        length = rng.randint(200_000, max(200_001, most))
        file.truncate(length)
        for _ in range(rng.randrange(5)):
            at = rng.randrange(length)
            at -= at % 4096 if rng.random() < 0.5 else 0
            file.seek(at)
            file.write(rng.randbytes(min(rng.randint(1, 60_000), length - at)))


def dress(path, rng):
    """Random owners, mode, attributes, lists and times."""
    if rng.random() < 0.3:
        own(path, rng)
    if not os.path.islink(path):
        permit(path, rng)
        if rng.random() < 0.2:
            access_list(path, rng)
    if rng.random() < 0.3:
        attribute(path, rng)
    if rng.random() < 0.5:
        times(path, rng)


def own(path, rng):
    os.chown(path, rng.choice(OWNERS), rng.choice(OWNERS), follow_symlinks=False)


def permit(path, rng):
    os.chmod(path, rng.choice(FOLDER_MODES if os.path.isdir(path) else FILE_MODES))


def times(path, rng):
    at = rng.choice((-1, 0, rng.randint(*SECONDS), 1_700_000_000 + rng.randrange(90_000_000)))
    set_mtime(path, at * 1_000_000_000 + rng.randrange(1_000_000_000))


def set_mtime(path, nanoseconds):
    os.utime(path, ns=(nanoseconds, nanoseconds), follow_symlinks=False)


def attribute(path, rng):
    """Sets a few attributes; all that an entry can get stays below the block that some file systems have for them."""
    status = os.lstat(path)
    plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    choices = [(b"trusted.t%d" % rng.randrange(4), rng.randbytes(30))]
    if plain:
        choices += [
            (b"user.\xff\xfe odd", rng.randbytes(9)), (b"user.empty", b""), (b"user.u%d" % rng.randrange(4), b"value"),
            (b"user.long", rng.randbytes(rng.randint(100, 600))),
        ]
    if stat.S_ISREG(status.st_mode):
        # VFS_CAP_REVISION_2 with one permitted bit (linux/capability.h).
        choices.append((b"security.capability", struct.pack("<IIIII", 0x0200_0001, 1 << rng.randrange(20), 0, 0, 0)))
    for key, value in rng.sample(choices, min(len(choices), rng.randint(1, 2))):
        os.setxattr(path, key, value, follow_symlinks=False)


def access_list(path, rng):
    """A POSIX access list in the kernel's form (linux/posix_acl_xattr.h), for folders perhaps a default one."""
    def draw():
        rows = [(1, 7, 2**32 - 1), (2, rng.randrange(8), 1000), (2, rng.randrange(8), 2_000_000_000), (4, rng.randrange(8), 2**32 - 1)]
        rows += [(8, rng.randrange(8), 100), (16, rng.choice((7, 5, 0)), 2**32 - 1), (32, rng.randrange(8), 2**32 - 1)]
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)

    os.setxattr(path, "system.posix_acl_access", draw())
    if os.path.isdir(path) and rng.random() < 0.5:
        os.setxattr(path, "system.posix_acl_default", draw())
