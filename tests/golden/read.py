#!/usr/bin/env python3
"""Reads a collection by FORMAT.md alone, without a line of the library.

usage: read.py FOLDER            prints its living rows as JSON
       read.py FOLDER ROWS.json  compares them with golden answers
"""
import json
import struct
import sys
import zlib
from pathlib import Path


def u(data, at, size):
    assert 0 <= at <= at + size <= len(data), "outside the file"
    return int.from_bytes(data[at : at + size], "little")


def need(condition, what):
    if not condition:
        raise SystemExit(f"damaged: {what}")


def header(data, kind, number=None, collection=None):
    need(len(data) >= 64 and data[:4] == b"MTRY", "magic")
    need(zlib.crc32(data[:60]) == u(data, 60, 4), "header checksum")
    need(data[4:8] == kind, "kind")
    need(u(data, 8, 2) == 1 and data[16:24] == bytes(8), "version or flags")
    need(number is None or u(data, 24, 8) == number, "file number")
    need(collection is None or data[32:48] == collection, "collection")
    if kind in (b"MANI", b"TOMB"):
        need(zlib.crc32(data[64:]) == u(data, 56, 4), "body checksum")
    else:
        need(u(data, 56, 4) == 0, "unused field")


class Collection:
    def __init__(self, folder):
        self.folder = Path(folder)
        data = (self.folder / "MANIFEST").read_bytes()
        header(data, b"MANI", 0)
        self.name = data[32:48]
        self.lsn, schema_len = u(data, 72, 8), u(data, 80, 4)
        segments, logs, reserved = u(data, 84, 4), u(data, 88, 4), u(data, 92, 4)
        need(reserved == 0, "reserved field")
        self.schema(data[96 : 96 + schema_len])
        at = 96 + schema_len
        self.rows = {}
        for n in range(segments):
            self.segment(data[at + 40 * n : at + 40 * n + 40])
        at += 40 * segments
        for n in range(logs):
            self.log(data[at + 24 * n : at + 24 * n + 24])
        need(at + 24 * logs == len(data), "trailing bytes")

    def schema(self, s):
        self.dims, self.metric, self.stored, self.ids = u(s, 0, 4), s[4], s[5], s[6]
        granularities = u(s, 8, 4)
        at = 12 + 4 * granularities
        count = u(s, at, 4)
        self.stages = [(u(s, at + 4 + 8 * n, 4), u(s, at + 8 + 8 * n, 4)) for n in range(count)]
        need(at + 4 + 8 * count == len(s), "schema")
        self.vector_len = self.dims * (4, 2, 2)[self.stored]

    def vector(self, data):
        if self.stored == 2:
            data = b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))
        if self.stored == 1:
            values = struct.unpack(f"<{self.dims}e", data)
        else:
            values = struct.unpack(f"<{self.dims}f", data)
        return [struct.pack(">f", v).hex() for v in values]

    def segment(self, entry):
        number, length, rows = u(entry, 0, 8), u(entry, 8, 8), u(entry, 16, 4)
        data = (self.folder / f"seg-{number:010}").read_bytes()
        header(data, b"SEGM", number, self.name)
        need(len(data) == length, "length of a segment")
        footer = data[-64:]
        need(footer[60:] == b"MTRY" and zlib.crc32(footer[:56]) == u(footer, 56, 4), "footer")
        table, count, sums = u(footer, 0, 8), u(footer, 16, 4), u(footer, 20, 4)
        need(u(footer, 8, 8) == length and u(footer, 24, 4) == rows, "footer and entry")
        need(table + 32 * count + 4 * sums + 64 == length, "size of the table")
        need(zlib.crc32(data[table:-64]) == u(footer, 28, 4) == u(entry, 20, 4), "table checksum")
        regions, end, used = {}, 64, 0
        for n in range(count):
            e = data[table + 32 * n : table + 32 * n + 32]
            kind, stage, block = u(e, 0, 2), u(e, 2, 2), u(e, 4, 4)
            at, size, first = u(e, 8, 8), u(e, 16, 8), u(e, 24, 4)
            need(at == -(-end // 4096) * 4096 and first == used, "order of regions")
            need(block == (65536 if kind in (3, 4, 5) else 4096), "block length")
            need(not any(data[end:at]), "padding")
            for i in range(0, size, block):
                crc = u(data, table + 32 * count + 4 * used, 4)
                need(zlib.crc32(data[at + i : at + min(i + block, size)]) == crc, "block")
                used += 1
            regions[kind, stage], end = data[at : at + size], at + size
        need(used == sums and not any(data[end:table]), "checksums and padding")
        ids, texts = self.segment_ids(regions[1, 0], rows), self.payloads(regions, rows)
        order = [u(regions[2, 0], 4 * n, 4) for n in range(rows)]
        key = lambda row: ids[row] if self.ids == 0 else ids[row].encode()
        need(order == sorted(range(rows), key=key), "id order")
        vectors = regions[6, 0]
        dead = self.tombstones(entry, rows)
        for row in range(rows):
            raw = vectors[row * self.vector_len : (row + 1) * self.vector_len]
            self.codes(regions, row, raw)
            if row not in dead:
                self.rows[ids[row]] = (self.vector(raw), texts[row])

    def segment_ids(self, data, rows):
        if self.ids == 0:
            return [u(data, 8 * n, 8) for n in range(rows)]
        ends = [0] + [u(data, 8 * n, 8) for n in range(rows)]
        text = data[8 * rows :]
        return [text[a:b].decode() for a, b in zip(ends, ends[1:])]

    def codes(self, regions, row, raw):
        """Computes the codes of a row anew and compares them."""
        values = [struct.unpack(">f", bytes.fromhex(v))[0] for v in self.vector(raw)]
        block, lane = divmod(row, 64)
        for stage, (dims, bits) in enumerate(self.stages):
            data, prefix = regions[4, stage], values[:dims]
            step = max(map(abs, prefix)) / 127
            signed = []
            for d, x in enumerate(prefix):
                if bits == 1:
                    size = 512 * -(-dims // 64)
                    byte = data[block * size + d // 64 * 512 + lane * 8 + d % 64 // 8]
                    got, want = byte >> d % 8 & 1, int(x > 0)
                    signed.append(2 * got - 1)
                else:
                    size = 256 * -(-dims // 4)
                    got = data[block * size + d // 4 * 256 + lane * 4 + d % 4]
                    want = 128 + (round(x / step) if step else 0)
                    signed.append(got - 128)
                need(got == want, f"code of row {row}")
            square = dot = 0.0
            for x, c in zip(prefix, signed):
                square, dot = square + x * x, dot + x * c
            factor = struct.pack("<f", square**0.5 / dot if dot > 0 else 0.0)
            need(regions[5, stage][4 * row : 4 * row + 4] == factor, f"factor of row {row}")
        sums = [0.0] * 16
        for i, x in enumerate(values):
            sums[i % 16] += x * x
        for width in (8, 4, 2, 1):
            for i in range(width):
                sums[i] += sums[i + width]
        norm = struct.pack("<f", sums[0] ** 0.5)
        need(regions[3, 0][4 * row : 4 * row + 4] == norm, f"norm of row {row}")

    def payloads(self, regions, rows):
        if (7, 0) not in regions:
            return [""] * rows
        blocks, index, texts = regions[7, 0], regions[8, 0], []
        for at in range(0, len(index), 16):
            need(u(index, at, 4) == len(texts), "rows of payload blocks")
            offset = u(index, at + 8, 8)
            texts += self.block(blocks[offset : offset + u(index, at + 4, 4)])
        need(len(texts) == rows, "number of payloads")
        return texts

    def block(self, b):
        signed = lambda at: struct.unpack_from("<i", b, at)[0]
        root, texts = len(b) - 8, []
        array = root + signed(root)
        for n in range(u(b, root + 4, 4)):
            at = array + 8 * n
            if b[at] & 0xC0 == 0x80:
                v = u(b, at, 4)
                size, start = v % 64 + (v - v % 256) // 4, at + signed(at + 4)
                need(0 <= start <= start + size <= len(b), "text of a payload")
                texts.append(b[start : start + size].decode())
            else:
                texts.append(b[at : at + 8].split(b"\xff")[0].decode())
        return texts

    def tombstones(self, entry, rows):
        number, count = u(entry, 24, 8), u(entry, 32, 4)
        if number == 0:
            return set()
        data = (self.folder / f"del-{number:010}").read_bytes()
        header(data, b"TOMB", number, self.name)
        need(u(data, 56, 4) == u(entry, 36, 4), "checksum of tombstones")
        b, dead = data[64:], set()
        need(u(b, 0, 4) == 12346, "only array and bitmap containers are read here")
        containers = u(b, 4, 4)
        for n in range(containers):
            key, size = u(b, 8 + 4 * n, 2), u(b, 10 + 4 * n, 2) + 1
            at = u(b, 8 + 4 * containers + 4 * n, 4)
            if size <= 4096:
                dead |= {key << 16 | u(b, at + 2 * i, 2) for i in range(size)}
            else:
                bits = u(b, at, 8192)
                dead |= {key << 16 | i for i in range(65536) if bits >> i & 1}
        need(len(dead) == count and max(dead) < rows, "dead rows")
        return dead

    def log(self, entry):
        number, length, sealed = u(entry, 0, 8), u(entry, 8, 8), u(entry, 20, 4)
        data = (self.folder / f"wal-{number:010}").read_bytes()
        header(data, b"WLOG", number, self.name)
        need(len(data) == length if sealed else len(data) >= length, "length of a log")
        at = 64
        while self.head(data, at):
            size = u(data, at + 4, 4)
            body, end = data[at + 40 : at + 40 + size], -(-(at + 40 + size) // 8) * 8
            whole = len(data) >= end and not any(data[at + 40 + size : end])
            if not whole or zlib.crc32(body) != u(data, at + 28, 4):
                break
            self.lsn += 1
            need(u(data, at + 8, 8) == self.lsn, "LSN")
            self.operations(body, u(data, at + 24, 4))
            at = end
        if at < len(data):
            heads = (p for p in range(at + 8, len(data), 8) if self.head(data, p))
            need(not sealed and at >= length, "log")
            need(not any(u(data, p + 16, 8) > at for p in heads), "a synced frame")
        need(zlib.crc32(data[:length]) == u(entry, 16, 4), "log checksum")

    def head(self, data, at):
        head = data[at : at + 40]
        if len(head) < 40 or head[:4] != b"FRAM":
            return False
        place = self.name + data[24:32] + at.to_bytes(8, "little")
        right = zlib.crc32(place + head[:36]) == u(head, 36, 4) and u(head, 32, 4) == 0
        return right and u(head, 4, 4) <= 64 << 20 and u(head, 16, 8) <= at

    def operations(self, body, count):
        at = 0
        for _ in range(count):
            kind, at = body[at], at + 1
            if self.ids == 0:
                key, at = u(body, at, 8), at + 8
            else:
                size = u(body, at, 2)
                key, at = body[at + 2 : at + 2 + size].decode(), at + 2 + size
            if kind == 2:
                self.rows.pop(key, None)
                continue
            need(kind == 1, "operation")
            vector, at = self.vector(body[at : at + self.vector_len]), at + self.vector_len
            size = u(body, at, 4)
            text, at = body[at + 4 : at + 4 + size].decode(), at + 4 + size
            self.rows[key] = (vector, text)
        need(at == len(body), "bytes behind the operations")


def main():
    rows = {
        str(key): {"vector": vector, "payload": json.loads(text) if text else {}}
        for key, (vector, text) in Collection(sys.argv[1]).rows.items()
    }
    if len(sys.argv) < 3:
        return print(json.dumps(rows, indent=1, ensure_ascii=False))
    golden = json.loads(Path(sys.argv[2]).read_text())
    want = {row["id"]: row["row"] for row in golden["rows"] if row["row"]}
    need(rows == want and len(rows) == golden["len"], "rows differ from the golden ones")
    print(f"{sys.argv[1]}: {len(rows)} rows as expected")


main()
