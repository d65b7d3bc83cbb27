"""The system calls that Python has no name for."""

import ctypes
import errno
import fcntl
import os
import signal
import struct

LIBC = ctypes.CDLL(None, use_errno=True)

# linux/falloc.h
KEEP_SIZE, PUNCH, COLLAPSE, ZERO, INSERT = 0x01, 0x02, 0x08, 0x10, 0x20
# linux/fs.h
FICLONERANGE = 0x4020940D
RENAME_EXCHANGE = 2
AT_FDCWD = -100


PR_SET_PDEATHSIG = 1


def die_with_parent():
    """Has the kernel end this process when the one that started it ends, however that is."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def fallocate(fd, mode, offset, length):
    """fallocate(2); OSError where the file system cannot."""
    call = LIBC.fallocate64
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if call(fd, mode, offset, length) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def clone_range(source, source_at, length, target, target_at):
    """Shares the blocks of a part of one file with another (0: to its end)."""
    fcntl.ioctl(target, FICLONERANGE, struct.pack("qQQQ", source, source_at, length, target_at))


def exchange(a, b):
    """Swaps two names in one step."""
    if LIBC.renameat2(AT_FDCWD, ctypes.c_char_p(a), AT_FDCWD, ctypes.c_char_p(b), RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def data_ranges(fd, size):
    """The parts of an open file that are no holes: (from, to)."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        end = os.lseek(fd, begin, os.SEEK_HOLE)
        yield begin, end
        at = end
