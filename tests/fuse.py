#!/usr/bin/env python3
"""Serves a folder through FUSE, for the tests of file systems that may not keep a sync's word.

Usage: fuse.py FOLDER MOUNTPOINT. Files can be listed and read, nothing can be changed. Prints
"mounted" when it is, or "skipped: " and why not; ends when it is unmounted. Written from
linux/fuse.h, protocol 7.31; needs the right to mount.
"""

import ctypes
import errno
import os
import struct
import sys

LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE = 1, 2, 3, 14, 15, 17, 18
FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, ACCESS = 25, 26, 27, 28, 29, 34
INTERRUPT, BATCH_FORGET = 36, 42
ROOT = 1


def mount(device, mountpoint):
    libc = ctypes.CDLL(None, use_errno=True)
    data = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    nosuid_nodev = 2 | 4
    if libc.mount(b"matryo-test", os.fsencode(mountpoint), b"fuse", nosuid_nodev, data.encode()):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class Served:
    def __init__(self, folder):
        self.folder = folder
        self.names = sorted(os.listdir(folder))

    def path(self, node):
        return self.folder if node == ROOT else os.path.join(self.folder, self.names[node - 2])

    def attributes(self, node):
        s = os.stat(self.path(node))
        times = (int(s.st_atime), int(s.st_mtime), int(s.st_ctime), 0, 0, 0)
        rest = (s.st_mode, s.st_nlink, s.st_uid, s.st_gid, 0, 4096, 0)
        return struct.pack("<6Q10I", node, s.st_size, s.st_blocks, *times, *rest)

    def lookup(self, node, body):
        name = os.fsdecode(body.rstrip(b"\0"))
        if node != ROOT or name not in self.names:
            raise FileNotFoundError(errno.ENOENT, name)
        found = self.names.index(name) + 2
        return struct.pack("<4Q2I", found, 0, 0, 0, 0, 0) + self.attributes(found)

    def read(self, node, body):
        _, offset, size = struct.unpack_from("<QQI", body)
        with open(self.path(node), "rb") as file:
            file.seek(offset)
            return file.read(size)

    def listed(self, body):
        _, offset, size = struct.unpack_from("<QQI", body)
        out = b""
        for at, name in list(enumerate(self.names))[offset:]:
            name = os.fsencode(name)
            entry = struct.pack("<QQII", at + 2, at + 1, len(name), 8) + name
            entry += b"\0" * (-len(entry) % 8)
            if len(out) + len(entry) > size:
                break
            out += entry
        return out

    def answer(self, opcode, node, body):
        if opcode == INIT:
            return struct.pack("<4I2H2I", 7, 31, 1 << 17, 0, 16, 12, 1 << 17, 1).ljust(64, b"\0")
        if opcode == LOOKUP:
            return self.lookup(node, body)
        if opcode == GETATTR:
            return struct.pack("<Q2I", 0, 0, 0) + self.attributes(node)
        if opcode in (OPEN, OPENDIR):
            return struct.pack("<QII", 0, 0, 0)
        if opcode == READ:
            return self.read(node, body)
        if opcode == READDIR:
            return self.listed(body)
        if opcode == STATFS:
            return struct.pack("<5Q3I", 1, 0, 0, 1, 0, 4096, 255, 4096).ljust(80, b"\0")
        if opcode in (RELEASE, RELEASEDIR, FLUSH, ACCESS):
            return b""
        raise OSError(errno.ENOSYS, "not served")


def main():
    folder, mountpoint = sys.argv[1:]
    served = Served(folder)
    try:
        device = os.open("/dev/fuse", os.O_RDWR)
        mount(device, mountpoint)
    except OSError as why:
        print(f"skipped: {why}", flush=True)
        return
    print("mounted", flush=True)
    while True:
        try:
            request = os.read(device, 1 << 18)
        except OSError as why:
            if why.errno in (errno.EINTR, errno.ENOENT):
                continue
            return  # ENODEV: unmounted
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            continue
        try:
            error, out = 0, served.answer(opcode, node, request[40:])
        except OSError as why:
            error, out = -why.errno, b""
        os.write(device, struct.pack("<IiQ", 16 + len(out), error, unique) + out)


main()
