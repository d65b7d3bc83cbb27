"""Whether two trees are equal, by a witness that knows nothing of mcloud: what the kernel says of every entry.

The promise (guide, "Exact"): contents, names as bytes, modes with setuid/setgid/sticky, numeric owners, mtime to the nanosecond
(folders and links too), symlinks, hard links, holes, xattrs, ACLs, FIFOs, sockets, devices. Each of these is compared, and nothing else:
not access times, not change times, not inode numbers.

The rule for holes: contents decide. Where they are equal, the target may hold no more data (what lies between SEEK_DATA and SEEK_HOLE)
than the source does, plus SLACK for edges that are no whole blocks. It may hold less: blocks of zeros may become holes. And a file that
the target has already, with the same contents, may stay as it is: zeros that become a hole at the source are no change.
"""

import hashlib
import os
import stat
import subprocess

import kernel

SLACK = 128 * 1024
# Attributes that are views of what is compared anyway, or that belong to the file system and not to the entry.
VIEWS = ("trusted.SGI_ACL_", "trusted.overlay.", "security.selinux")
STAGE = b".mcloud-stage"
KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device",
}


def walk(root):
    """Every entry below `root` with its status, the root itself as b"", parents first; no staging folder at the top."""
    yield b"", os.lstat(root)
    open_folders = [b""]
    while open_folders:
        folder = open_folders.pop()
        for name in sorted(os.listdir(os.path.join(root, folder))):
            if not folder and name.startswith(STAGE):
                continue
            path = os.path.join(folder, name)
            status = os.lstat(os.path.join(root, path))
            yield path, status
            if stat.S_ISDIR(status.st_mode):
                open_folders.append(path)


def portrait(root):
    """{path: {what: value}} of a tree; the contents of each inode are read once."""
    entries, groups, read = {}, {}, {}
    for path, status in walk(root):
        entries[path] = entry = look(os.path.join(root, path), status, read)
        if entry["kind"] != "folder" and status.st_nlink > 1:
            groups.setdefault((status.st_dev, status.st_ino), []).append(path)
    for names in groups.values():
        # Names outside the tree, and those of an overlay's lower layer that are parted by now, are counted and are no links.
        for name in names if len(names) > 1 else ():
            entries[name]["links"] = tuple(sorted(names))
    return entries


def look(path, status, read):
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    entry = {
        "kind": kind,
        "mode": "%o" % stat.S_IMODE(status.st_mode) if kind != "symlink" else "",
        "owner": (status.st_uid, status.st_gid),
        "mtime": status.st_mtime_ns,
        "attributes": attributes(path),
        "links": (),
    }
    if kind == "file":
        key = (status.st_dev, status.st_ino)
        if key not in read:
            read[key] = contents(path)
        entry["size"], entry["contents"], entry["data"] = read[key]
    elif kind == "symlink":
        entry["text"] = os.readlink(path)
    elif kind.endswith("device"):
        entry["device"] = status.st_rdev
    return entry


def attributes(path):
    names = [name for name in os.listxattr(path, follow_symlinks=False) if not name.startswith(VIEWS)]
    return tuple((name, os.getxattr(path, name, follow_symlinks=False)) for name in sorted(names))


def contents(path):
    """The size, the hash of the bytes, and how many of them are in no hole."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        size = os.fstat(fd).st_size
        digest, length = hashlib.sha256(), 0
        while part := os.read(fd, 1 << 20):
            digest.update(part)
            length += len(part)
        held = sum(end - begin for begin, end in kernel.data_ranges(fd, size))
        return length, digest.hexdigest(), held
    finally:
        os.close(fd)


def differences(want, have, without=(), inside=None, before=None, root=None):
    """[(kind, path, words)] of what `have` is not: nothing where the trees are equal. `inside` bounds the paths looked at; `before` is
    what the target was, `root` where it is."""
    held = {}
    for entry in (before or {}).values():
        if entry["kind"] == "file":
            held[entry["contents"]] = max(held.get(entry["contents"], 0), entry["data"])
    found = []
    inside = inside or (lambda path: True)
    for path in sorted(want.keys() | have.keys()):
        if not inside(path):
            continue
        a, b = want.get(path), have.get(path)
        if a is None or b is None:
            found.append(("missing" if b is None else "too many", path, (a or b)["kind"]))
            continue
        if a["kind"] != b["kind"]:
            found.append(("kind", path, f"{a['kind']} became {b['kind']}"))
            continue
        for what in a:
            if what in without or what == "data" or a[what] == b[what]:
                continue
            found.append((what, path, f"{short(a[what])} became {short(b[what])}"))
        if a["kind"] == "file" and a["contents"] == b["contents"]:
            most = max(a["data"], held.get(a["contents"], 0)) + SLACK
            if b["data"] > most and (not root or written(os.path.join(root, path)) > most):
                found.append(("holes", path, f"{a['data']} bytes of data in {a['size']} became {b['data']}"))
    return found


def written(path):
    """The bytes of a file that are in no hole, by the disk: room that xfs keeps in reserve counts as data while it is in the page cache."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return sum(end - begin for begin, end in kernel.data_ranges(fd, os.fstat(fd).st_size))
    finally:
        os.close(fd)


def short(value):
    text = repr(value)
    return text if len(text) < 300 else text[:140] + " … " + text[-140:]


def same_but_for_reading(root):
    """What changes when anybody writes to a tree, and does not when it is only read."""
    return {
        path: (s.st_ino, s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_rdev)
        for path, s in walk(root)
    }


def leftovers(root):
    """What a sync leaves behind where it should not: staging folders beside a tree or in it."""
    beside = STAGE + b"." + os.path.basename(root)
    parent = os.path.dirname(root)
    return [name for name in os.listdir(root) if name.startswith(STAGE)] + [n for n in os.listdir(parent) if n == beside]


def by_rsync(source, target):
    """The second witness: what rsync would do, both ways."""
    found = []
    for a, b in ((source, target), (target, source)):
        words = ["rsync", "-aHAXn", "--checksum", "--itemize-changes", "--delete", "--modify-window=-1"]
        words += ["--filter=-x trusted.SGI_ACL_*", "--filter=-x trusted.overlay.*", "--exclude=/.mcloud-stage*"]
        out = subprocess.run(words + [os.path.join(a, b""), os.path.join(b, b"")], capture_output=True, check=False)
        found += [("rsync", b"", line.decode(errors="replace")) for line in out.stdout.splitlines() if line]
        if out.returncode:
            found.append(("rsync", b"", f"ended with {out.returncode}: {out.stderr[-300:]!r}"))
    return found
