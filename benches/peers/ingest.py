"""Durable batches of 1000 rows of 1024 floats, and one-row commits, beside a plain
write and sync of the same bytes. Each system with whatever it offers to make a
batch survive a power cut; where it offers nothing, that is said. What makes of an array
what a system takes is not timed."""

import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

DIMS, BATCH, BATCHES, SINGLES, RUNS = 1024, 1000, 40, 40, 3


class Raw:
    """Not a store: the bytes alone, written and synced."""

    def create(self, folder):
        self.file = os.open(folder / "raw", os.O_CREAT | os.O_WRONLY, 0o600)

    def ready(self, first, rows):
        return rows.tobytes()

    def write(self, rows):
        os.write(self.file, rows)
        os.fdatasync(self.file)


class Zvec:
    def create(self, folder):
        import zvec
        field = zvec.VectorSchema("v", zvec.DataType.VECTOR_FP32, DIMS)
        schema = zvec.CollectionSchema(name="peers", vectors=[field])
        self.zvec, self.db = zvec, zvec.create_and_open(path=str(folder / "zvec"), schema=schema)

    def ready(self, first, rows):
        return [self.zvec.Doc(id=str(first + i), vectors={"v": r.tolist()}) for i, r in enumerate(rows)]

    def write(self, docs):
        self.db.insert(docs)
        self.db.flush()


class Qdrant:
    def create(self, folder):
        import qdrant_edge as edge
        (folder / "q").mkdir()
        vectors = edge.EdgeVectorParams(size=DIMS, distance=edge.Distance.Dot)
        self.edge = edge
        self.db = edge.EdgeShard.create(str(folder / "q"), edge.EdgeConfig(vectors={"v": vectors}))

    def ready(self, first, rows):
        points = [self.edge.Point(first + i, {"v": r.tolist()}) for i, r in enumerate(rows)]
        return self.edge.UpdateOperation.upsert_points(points)

    def write(self, operation):
        self.db.update(operation)
        self.db.flush()


class Lance:
    """Has no sync to ask for."""

    def create(self, folder):
        import lancedb
        import pyarrow as pa
        self.pa = pa
        schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), DIMS))])
        self.db = lancedb.connect(str(folder / "lance")).create_table("peers", schema=schema)

    def ready(self, first, rows):
        vectors = self.pa.FixedSizeListArray.from_arrays(self.pa.array(rows.ravel()), DIMS)
        ids = self.pa.array(np.arange(first, first + len(rows)))
        return self.pa.table({"id": ids, "vector": vectors})

    def write(self, table):
        self.db.add(table)


class SqliteVec:
    def create(self, folder):
        import pysqlite3 as sqlite3
        import sqlite_vec
        self.db = sqlite3.connect(folder / "vec.db")
        self.db.execute("pragma synchronous = full")
        self.db.enable_load_extension(True)
        sqlite_vec.load(self.db)
        self.db.execute(f"create virtual table v using vec0(e float[{DIMS}])")

    def ready(self, first, rows):
        return [(first + i, r.tobytes()) for i, r in enumerate(rows)]

    def write(self, values):
        self.db.executemany("insert into v(rowid, e) values (?, ?)", values)
        self.db.commit()


SYSTEMS = {
    "plain write and sync": Raw,
    "LanceDB (no sync)": Lance,
    "Qdrant Edge, flush": Qdrant,
    "zvec, flush": Zvec,
    "sqlite-vec, FULL": SqliteVec,
    "plain write and sync again (A/A)": Raw,
}


def run(name):
    rows = np.random.default_rng(1).standard_normal((BATCH, DIMS), dtype=np.float32)
    system = SYSTEMS[name]()
    with tempfile.TemporaryDirectory(dir=os.environ.get("PEERS_DIR")) as folder:
        system.create(pathlib.Path(folder))
        batches = [timed(system, batch * BATCH, rows) for batch in range(BATCHES)]
        singles = [timed(system, BATCHES * BATCH + one, rows[:1]) for one in range(SINGLES)]
    print(json.dumps((BATCHES * BATCH / sum(batches), statistics.median(singles) * 1e3)))


def timed(system, first, rows):
    """Seconds to write rows that are as the system takes them."""
    made = system.ready(first, rows)
    start = time.perf_counter()
    system.write(made)
    return time.perf_counter() - start


def show(name):
    """The medians of some runs, each a process of its own."""
    rates, singles = [], []
    for _ in range(RUNS):
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True)
        if done.returncode:
            return print(f"| {name} | failed: {done.stderr.strip().splitlines()[-1][:100]} | |", flush=True)
        rate, single = json.loads(done.stdout.splitlines()[-1])
        rates.append(rate)
        singles.append(single)
    print(f"| {name} | {statistics.median(rates):,.0f} | {statistics.median(singles):.1f} |", flush=True)


def matryo():
    """The same work by the bench of the crate: as many rows, medians of its runs."""
    environment = dict(os.environ, MATRYO_ROWS=str(BATCH * BATCHES))
    if "PEERS_DIR" in environment:
        environment["MATRYO_DIR"] = environment["PEERS_DIR"]
    done = subprocess.run(["cargo", "bench", "--bench", "ingest"], cwd=pathlib.Path(__file__).parents[2],
                          env=environment, check=True, capture_output=True, text=True)
    rate = re.search(r"batches of 1000, durable +(\d+) rows/s", done.stdout).group(1)
    single = re.search(r"one-row commit +p50 +([0-9.]+) ms", done.stdout).group(1)
    print(f"| **matryo**, full durability | {int(rate):,} | {float(single):.1f} |", flush=True)


def main():
    if len(sys.argv) > 1:
        return run(sys.argv[1])
    print("| store | rows/s, batches of 1000 | one row, p50 ms |\n|---|---:|---:|", flush=True)
    matryo()
    for name in SYSTEMS:
        show(name)
    matryo()


if __name__ == "__main__":
    main()
