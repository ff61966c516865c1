#!/usr/bin/env python3
"""Reads a matryo collection: made from FORMAT.md alone, without a line of the library.
usage: reader.py FOLDER                    one line of JSON for each row, sorted by id
       reader.py FOLDER QUERY [LIMIT]      the nearest rows; QUERY is a JSON array

All checksums and padding are checked; damage is exit code 1. Strays (13.2) are not looked for.
"""
import json, math, pathlib, struct, sys, zlib

PAGE, SMALL, LARGE = 4096, 4096, 65536  # numbers in parentheses: sections of FORMAT.md
IDS, ORDER, NORMS, CODES, FACTORS, VECTORS, PAYLOAD, INDEX, FIELD, *_, PLACES, LOGS = range(1, 16)
class Damage(Exception): ...
def need(condition, what):
    if not condition:
        raise Damage(what)
def read(data, at, form):
    need(0 <= at <= len(data) - struct.calcsize("<" + form), "a number outside of its file")
    return struct.unpack_from("<" + form, data, at)
def one(data, at, form):
    return read(data, at, form)[0]
def cut(data, at, length):
    need(0 <= at <= at + length <= len(data), "a range outside of its file")
    return data[at : at + length]
def zeros(data, start, end):
    need(not any(cut(data, start, end - start)), "padding is not zero")
def load(folder, name):
    path = pathlib.Path(folder, name)
    need(path.is_file() and not path.is_symlink(), name + " is missing")
    return path.read_bytes()

def header(data, kind, number, collection=None):  # (6) returns the collection
    need(len(data) >= 64 and data[:4] == b"MTRY", "not a file of matryo")
    need(one(data, 60, "I") == zlib.crc32(data[:60]), "file header")
    need(data[4:8] == kind, "kind of file")
    major, _minor, _compatible, read_only, incompatible = read(data, 8, "HHIII")
    need(major == 1 and read_only == 0 and incompatible == 0, "version")
    need(collection in (None, data[32:48]) and one(data, 24, "Q") == number, "whose file it is")
    need(one(data, 56, "I") == zlib.crc32(data[64:]) * (kind in (b"MANI", b"TOMB")), "body of a file")
    return data[32:48]

class Schema:  # (7)
    def __init__(self, data):
        self.dims, metric, stored, ids, reserved, count = read(data, 0, "IBBBBI")
        need(1 <= self.dims <= 65535 and 1 <= count <= 16, "schema")
        need(metric < 3 and stored < 3 and ids < 2 and reserved == 0, "schema")
        self.metric = ("cosine", "dot", "l2")[metric]
        self.stored, self.text_ids = ("f32", "f16", "bf16")[stored], ids == 1
        granularities = read(data, 12, "%dI" % count)
        need((0,) + granularities == tuple(sorted({0, self.dims, *granularities})), "granularities")
        at = 12 + 4 * count
        count = one(data, at, "I")
        need(1 <= count <= 16, "stage codes")
        codes = read(data, at + 4, "%dI" % (2 * count))
        self.stages = list(zip(codes[::2], codes[1::2]))
        need(all(1 <= d <= self.dims and b in (1, 4, 8) for d, b in self.stages), "stage codes")
        at, self.fields = at + 4 + 8 * count, 0
        if at < len(data):
            self.fields, at = one(data, at, "I"), at + 4  # 0 only before an embedder
            need(self.fields <= 64 and (self.fields or at < len(data)), "fields")
            for _ in range(self.fields):
                kind, is_list, size = read(data, at, "BBH")
                need(kind < 5 and is_list < 2 and cut(data, at + 4, size).decode(), "field")
                at += 4 + size
        if at < len(data):  # what made the vectors: name and hash, of it and of its parts
            at += 34 + one(data, at, "B")
            for _ in range(one(data, at - 1, "B")):
                at += 33 + one(data, at, "B")
        need(len(data) == at, "schema")
        self.vector_bytes = self.dims * (4 if self.stored == "f32" else 2)

    def vector(self, data):  # (10)
        if self.stored == "bf16":
            halves = struct.unpack("<%dH" % self.dims, data)
            data = struct.pack("<%dI" % self.dims, *(half << 16 for half in halves))
        form = "%de" if self.stored == "f16" else "%df"
        return list(struct.unpack("<" + form % self.dims, data))
class Collection:
    def __init__(self, folder):
        self.folder, self.rows = folder, {}
        data = load(folder, "MANIFEST")
        need(len(data) <= 16777216, "manifest is too long")
        self.name = header(data, b"MANI", 0)
        next_file, self.lsn, length, segments, logs, linked = read(data, 64, "QQIIII")
        self.schema = Schema(cut(data, 96, length))
        at = 96 + length
        entries, kept = [], []
        for _ in range(segments):  # each with the logs that it keeps behind it
            entries.append(read(data, at, "QQIIQIIII"))
            kept.append([read(data, at + 48 + 24 * n, "QQII") for n in range(entries[-1][7])])
            at += 48 + 24 * len(kept[-1])
        last = [read(data, at + 24 * n, "QQII") for n in range(logs)]
        graphs = [read(data, at + 24 * logs + 32 * n, "QQQII") for n in range(linked)]  # (11a) unread
        at += 24 * logs + 32 * linked  # then, or not, a calibration (7)
        need(len(data) == at + (len(data) > at and 32 + 156 * one(data, at + 24, "I")), "manifest")
        need(all(g[4] == 0 and g[2] in (e[0] for e in entries) for g in graphs), "graph entry")
        numbers = [e[0] for e in sum(kept, entries + last + graphs)] + [e[4] for e in entries if e[4]]
        need(len({0, *numbers}) > len(numbers) and max([0, *numbers]) < next_file, "file numbers")
        for entry, logs_of_it in zip(entries, kept):
            self.segment(logs_of_it, *entry)
        for n, entry in enumerate(last):
            need(entry[3] == 1 or (entry[3] == 0 and n == logs - 1), "an unsealed log")
            self.log(*entry)
    def file(self, prefix, kind, number):
        data = load(self.folder, "%s-%010d" % (prefix, number))
        header(data, kind, number, self.name)
        return data
    def segment(self, logs, number, length, rows, table_crc, *rest):  # (9)
        dead_number, dead_count, dead_crc, kept, reserved = rest
        data = self.file("seg", b"SEGM", number)
        need(len(data) == length and rows > dead_count and kept <= 256 and reserved == 0, "segment entry")
        table_at, size, count, checksums, *same, crc = read(data, length - 64, "QQIIIII20xI")
        need((size, *same) == (length, rows, table_crc, kept), "footer")
        zeros(data, length - 28, length - 8)
        need(crc == zlib.crc32(data[-64:-8]) and data[-4:] == b"MTRY", "footer")
        need(zlib.crc32(cut(data, table_at, length - 64 - table_at)) == table_crc, "region table")
        sums = read(data, table_at + 32 * count, "%dI" % checksums)
        codes = [(kind, n) for n in range(len(self.schema.stages)) for kind in (CODES, FACTORS)]
        wanted = [(LOGS, 0), (PLACES, 0)] if logs else [(VECTORS, 0)]
        wanted += [(IDS, 0), (ORDER, 0), (NORMS, 0)] + codes
        regions, end, used = {}, 64, 0
        for n in range(count):
            kind, stage, block, at, size, first, reserved = read(data, table_at + 32 * n, "HHIQQII")
            known, large = 1 <= kind <= FIELD or kind in (PLACES, LOGS), kind in (NORMS, CODES, FACTORS)
            fits = block in (([LARGE] if large else [SMALL]) if known else [SMALL, LARGE])
            name = (kind, stage) if known else (-n, 0)  # (9) unknown ones are checked and left out
            need(fits and (known or kind >= 32768) and name not in regions, "region entry")
            need(reserved == 0 and first == used, "region entry")
            need(at == -(-end // PAGE) * PAGE and at + size <= table_at, "place of a region")
            zeros(data, end, at)
            for start in range(at, at + size, block):
                need(zlib.crc32(data[start : min(start + block, at + size)]) == sums[used], "block")
                used += 1
            end, regions[name] = at + size, data[at : at + size]
        wanted += [(PAYLOAD, 0), (INDEX, 0)] if (PAYLOAD, 0) in regions else []
        wanted += [(FIELD, n) for n in range(self.schema.fields)]  # (11) say again what the payloads say
        need([name for name in regions if name[0] > 0] == wanted, "regions")
        need(used == checksums and table_at == -(-end // PAGE) * PAGE, "region table")
        zeros(data, end, table_at)
        if logs:
            named = b"".join(struct.pack("<QQII", *log) for log in logs)
            need(regions[LOGS, 0] == named and len(regions[PLACES, 0]) == 16 * rows, "kept logs")
            data = [self.kept(*log) for log in logs]
            vectors = [self.placed(data, regions[PLACES, 0], 16 * row) for row in range(rows)]
            regions[VECTORS, 0] = b"".join(vectors)
        self.take(rows, regions, self.dead(dead_number, dead_count, dead_crc, rows))
    def kept(self, number, length, crc, sealed):  # (9) vectors in a log
        data = self.file("wal", b"WLOG", number)
        need((len(data), zlib.crc32(data), sealed) == (length, crc, 1), "a kept log")
        return data
    def placed(self, logs, places, at):
        offset, log, crc = read(places, at, "QII")
        need(log < len(logs), "place of a vector")
        vector = cut(logs[log], offset, self.schema.vector_bytes)
        need(zlib.crc32(vector) == crc, "a vector in a log")
        return vector
    def take(self, rows, regions, dead):
        vectors, size = regions[VECTORS, 0], self.schema.vector_bytes
        need(len(vectors) == rows * size, "vectors")
        ids = self.ids(rows, regions[IDS, 0])
        order = read(regions[ORDER, 0], 0, "%dI" % rows)
        need(len(regions[ORDER, 0]) == 4 * rows and sorted(order) == list(range(rows)), "id order")
        keys = [self.key(ids[row]) for row in order]
        need(keys == sorted(set(keys)), "id order")
        blocks = regions.get((PAYLOAD, 0))
        texts = self.payloads(rows, blocks, regions[INDEX, 0]) if blocks else [""] * rows
        for row in range(rows):
            if row not in dead:
                need(ids[row] not in self.rows, "two rows with one id")
                self.put(ids[row], vectors[row * size : row * size + size], texts[row])
    def key(self, row_id):
        return row_id.encode() if self.schema.text_ids else row_id
    def put(self, row_id, vector, text):
        vector = self.schema.vector(vector)
        need(all(map(math.isfinite, vector)), "a vector is not finite")
        self.rows[row_id] = (vector, json.loads(text) if text else {})
    def ids(self, rows, region):
        if not self.schema.text_ids:
            return read(region, 0, "%dQ" % rows)
        ends, text = (0,) + read(region, 0, "%dQ" % rows), region[8 * rows :]
        need(len(text) == ends[-1], "ids")
        return [cut(text, a, b - a).decode() for a, b in zip(ends, ends[1:])]
    def payloads(self, rows, region, index):  # (12)
        need(len(index) % 16 == 0 and index, "payload index")
        entries = [read(index, at, "IIQ") for at in range(0, len(index), 16)]
        firsts, texts, end = [entry[0] for entry in entries] + [rows], [], 0
        for n, (first, length, offset) in enumerate(entries):
            need(first == len(texts) < firsts[n + 1] and offset == end, "payload index")
            block = cut(region, offset, length)
            end = -(-(offset + length) // 16) * 16
            zeros(region, offset + length, end)
            place, count = read(block, length - 8, "iI")
            need(count == firsts[n + 1] - first, "rows of a payload block")
            texts += [self.text(block, length - 8 + place + 8 * k) for k in range(count)]
        need(end == len(region), "payload index")
        return texts
    def text(self, block, at):
        raw = cut(block, at, 8)
        if raw[0] & 0xC0 != 0x80:
            return raw.split(b"\xff")[0].decode()
        value, place = read(block, at, "Ii")
        length = (value & 0x3F) | (value >> 8 << 6)
        return cut(block, at + place, length).decode()
    def dead(self, number, count, crc, rows):  # (9) tombstones: a Roaring bitmap
        if number == 0:
            return set()
        body = self.file("del", b"TOMB", number)[64:]
        need(zlib.crc32(body) == crc, "tombstones")
        cookie, runs = one(body, 0, "I"), b""
        if cookie & 0xFFFF == 12347:
            size = (cookie >> 16) + 1
            runs, at = cut(body, 4, (size + 7) // 8), 4 + (size + 7) // 8
        else:
            need(cookie == 12346, "cookie of a bitmap")
            size, at = one(body, 4, "I"), 8
        keys = [read(body, at + 4 * n, "HH") for n in range(size)]
        at += 4 * size + (4 * size if not runs or size >= 4 else 0)
        found = set()
        for n, (key, less) in enumerate(keys):
            if runs and runs[n // 8] >> (n % 8) & 1:
                pairs = [read(body, at + 2 + 4 * k, "HH") for k in range(one(body, at, "H"))]
                values = [v for start, more in pairs for v in range(start, start + more + 1)]
                at += 2 + 4 * len(pairs)
            elif less < 4096:
                values, at = read(body, at, "%dH" % (less + 1)), at + 2 * (less + 1)
            else:
                bits = int.from_bytes(cut(body, at, 8192), "little")
                values, at = [v for v in range(65536) if bits >> v & 1], at + 8192
            need(len(values) == less + 1, "container of a bitmap")
            found.update(key << 16 | value for value in values)
        need(at == len(body) and len(found) == count and max(found) < rows, "tombstones")
        return found

    def log(self, number, length, crc, sealed):  # (8)
        data = self.file("wal", b"WLOG", number)
        need(len(data) >= length >= 64 and (not sealed or len(data) == length), "length of a log")
        at = 64
        while frame := self.head(data, at):
            size, lsn, _synced, operations, body_crc = frame
            body, end = data[at + 40 : at + 40 + size], -(-(at + 40 + size) // 8) * 8
            if len(data) < end or zlib.crc32(body) != body_crc or any(data[at + 40 + size : end]):
                break
            need(lsn == self.lsn + 1, "commits are not one after another")
            self.apply(body, operations)
            self.lsn, at = lsn, end
        if at < len(data):
            later = (self.head(data, n) for n in range(at + 8, len(data), 8))
            vouched = any(frame and frame[2] > at for frame in later)
            need(not sealed and at >= length and not vouched, "a commit that was durable")
        need(zlib.crc32(data[:length]) == crc, "bytes of a log")
    def head(self, data, at):
        if at + 40 > len(data) or data[at : at + 4] != b"FRAM":
            return None
        size, lsn, synced, operations, body_crc, reserved, crc = read(data, at + 4, "IQQIIII")
        seed = data[32:48] + data[24:32] + struct.pack("<Q", at)
        right = crc == zlib.crc32(seed + data[at : at + 36]) and reserved == 0
        right = right and size <= 1 << 26 and synced <= at
        return (size, lsn, synced, operations, body_crc) if right else None
    def apply(self, body, operations):
        at = 0
        for _ in range(operations):
            kind, at = one(body, at, "B"), at + 1
            if self.schema.text_ids:
                size = one(body, at, "H")
                row_id, at = cut(body, at + 2, size).decode(), at + 2 + size
            else:
                row_id, at = one(body, at, "Q"), at + 8
            need(kind in (1, 2), "operation")
            self.rows.pop(row_id, None)
            if kind == 2:
                continue
            vector, at = cut(body, at, self.schema.vector_bytes), at + self.schema.vector_bytes
            size = one(body, at, "I")
            self.put(row_id, vector, cut(body, at + 4, size).decode())
            at += 4 + size
        need(at == len(body), "operations")
    def nearest(self, query, limit):
        def score(vector):
            if self.schema.metric == "l2":
                return -math.fsum((a - b) ** 2 for a, b in zip(query, vector))
            dot = math.fsum(a * b for a, b in zip(query, vector))
            norms = math.hypot(*query) * math.hypot(*vector[: len(query)]) or 1.0
            return dot / norms if self.schema.metric == "cosine" else dot
        found = [(score(row[0]), row_id) for row_id, row in self.rows.items()]
        return sorted(found, key=lambda hit: (-hit[0], self.key(hit[1])))[:limit]

def main(folder, query=None, limit="10"):
    collection = Collection(folder)
    if query is None:
        rows = sorted(collection.rows.items())
        lines = [{"id": i, "vector": vector, "payload": payload} for i, (vector, payload) in rows]
    else:
        hits = collection.nearest(json.loads(query), int(limit))
        lines = [{"id": i, "score": score} for score, i in hits]
    print("".join(json.dumps(line) + "\n" for line in lines), end="")
if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (Damage, UnicodeDecodeError, json.JSONDecodeError) as damage:
        sys.exit("damaged: %s" % damage)
