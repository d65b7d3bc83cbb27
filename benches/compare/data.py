"""What the rows are made of: source trees, and the changes made to them between runs. Everything follows from a seed."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
MILLION = 1_000_000


def kernel(cache, source):
    """Work K: the kernel's source tree from Debian's package, unpacked once into the cache."""
    tarball = kernel_tarball(cache)
    source.mkdir(parents=True)
    subprocess.run(["tar", "-xJf" if tarball.suffix == ".xz" else "-xf", tarball, "-C", source, "--strip-components=1"], check=True)


def kernel_tarball(cache):
    """The tree as an uncompressed tar: unpacking xz takes longer than any row."""
    plain = cache / "linux-source.tar"
    if plain.exists():
        return plain
    packages = sorted(cache.glob("linux-source-*.deb"))
    if not packages:
        named = subprocess.run(["apt-cache", "search", "--names-only", r"^linux-source-[0-9.]+$"], capture_output=True, text=True)
        names = sorted(line.split()[0] for line in named.stdout.splitlines())
        if not names:
            subprocess.run(["apt-get", "update"], check=True, stdout=subprocess.DEVNULL)
            return kernel_tarball(cache)
        subprocess.run(["apt-get", "download", names[0]], cwd=cache, check=True, stdout=subprocess.DEVNULL)
        packages = sorted(cache.glob("linux-source-*.deb"))
    unpacked = cache / "unpacked"
    subprocess.run(["dpkg", "-x", packages[0], unpacked], check=True)
    compressed = next((unpacked / "usr/src").glob("linux-source-*.tar.xz"))
    with open(cache / "part", "wb") as out:
        subprocess.run(["xz", "-dc", "-T0", compressed], stdout=out, check=True)
    os.rename(cache / "part", plain)
    shutil.rmtree(unpacked)
    return plain


def change_100(source, rng, turn):
    """100 files changed in 20 folders: a line appended to each."""
    folders = []
    for folder, subfolders, names in os.walk(source):
        subfolders.sort()
        plain = sorted(n for n in names if not os.path.islink(os.path.join(folder, n)))
        if len(plain) >= 5:
            folders.append((folder, plain))
    for folder, names in rng.sample(folders, 20):
        for name in rng.sample(names, 5):
            with open(os.path.join(folder, name), "ab") as file:
                file.write(b"/* changed in turn %d: %d */\n" % (turn, rng.getrandbits(64)))


def move_1gb(source, rng, turn):
    """Moves whole top folders, a gigabyte together, to another folder; the next turn moves them back."""
    away = source / "moved" / "here"
    if away.exists():
        for entry in sorted(away.iterdir()):
            os.rename(entry, source / entry.name)
        shutil.rmtree(source / "moved")
        return
    away.mkdir(parents=True)
    sizes = []
    for entry in sorted(source.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and entry.name != "moved":
            size = sum(os.lstat(os.path.join(f, n)).st_size for f, _, names in os.walk(entry) for n in names)
            sizes.append((size, entry))
    moved = 0
    for size, entry in sorted(sizes, reverse=True):
        if moved >= 1_000_000_000:
            break
        os.rename(entry, away / entry.name)
        moved += size


def random_file(path, size, seed):
    rng = random.Random(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        for _ in range(size // MIB):
            file.write(rng.randbytes(MIB))


def random_4gib(cache, source):
    """Work D: one file of 4 GiB of random bytes."""
    random_file(source / "big", 4 * GIB, 4)


def random_1gib(cache, source):
    random_file(source / "big", GIB, 1)


def rewrite_pages(source, rng, turn):
    """5,000 random aligned pages of 8 KiB get other bytes."""
    with open(source / "big", "r+b") as file:
        pages = os.fstat(file.fileno()).st_size // 8192
        for page in rng.sample(range(pages), 5000):
            os.pwrite(file.fileno(), rng.randbytes(8192), page * 8192)


def insert_64(source, rng, turn):
    """64 bytes at the start, as an editor does it: a new file renamed over the old one."""
    with open(source / "new", "wb") as new, open(source / "big", "rb") as old:
        new.write(rng.randbytes(64))
        shutil.copyfileobj(old, new, MIB)
    os.rename(source / "new", source / "big")


def million(cache, source):
    """A million files of 100 bytes to 4 KB, a thousand to a folder."""
    rng = random.Random(6)
    pool = rng.randbytes(8 * MIB)
    for folder in range(MILLION // 1000):
        path = source / f"{folder // 32:02x}" / f"{folder:04x}"
        path.mkdir(parents=True)
        handle = os.open(path, os.O_RDONLY)
        for number in range(1000):
            file = os.open(f"{rng.getrandbits(32):08x}-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=handle)
            start = rng.randrange(len(pool) - 4096)
            os.write(file, pool[start : start + rng.randint(100, 4096)])
            os.close(file)
        os.close(handle)
