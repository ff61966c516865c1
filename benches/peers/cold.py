"""Searches of data larger than memory: the page cache capped, the vectors on disk."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import one_thread  # noqa: F401  before numpy
import numpy as np

from search import asked, at, load, made_ready, make_collection, memory
from systems import K, PREFIX, FaissHnsw, FaissHnswPrefix, Lance, Qdrant, Zvec

GROUPS = pathlib.Path("/sys/fs/cgroup/memory")
# What a process that is no matryo may take beside its share: an interpreter and its libraries.
EXTRA = 64 << 20
WANTED = [0.90, 0.95, 0.99]
RECALLS = [0.8, 0.9, 0.95, 0.98, 0.99, 0.995]
HERE = pathlib.Path(__file__).parent


class Mapped:
    """An index of FAISS that is written to a file, and mapped."""

    def build(self, base, folder):
        import faiss
        super().build(base, folder)
        faiss.write_index(self.index, str(folder / "index"))

    def open(self, folder):
        import faiss
        faiss.omp_set_num_threads(1)
        self.index = faiss.read_index(str(folder / "index"), faiss.IO_FLAG_MMAP_IFC)


class FaissMapped(Mapped, FaissHnsw):
    pass


class FaissPrefixMapped(Mapped, FaissHnswPrefix):
    pass


class ZvecDiskAnn(Zvec):
    settings = [10, 20, 50, 100, 200, 400]

    def index_param(self, zvec):
        return zvec.DiskAnnIndexParam(metric_type=zvec.MetricType.IP)

    def open(self, folder):
        import zvec
        self.zvec = zvec
        self.collection = zvec.open(path=str(folder / "zvec"))

    def set(self, setting):
        self.param = self.zvec.DiskAnnQueryParam(list_size=setting)


class LanceOpened(Lance):
    def open(self, folder):
        import lancedb
        self.table = lancedb.connect(str(folder / "lance")).open_table("peers")


class QdrantOpened(Qdrant):
    """Codes in RAM, vectors and graph on disk."""

    on_disk = True

    def build(self, base, folder):
        super().build(base, folder)
        self.shard.close()

    def open(self, folder):
        import qdrant_edge as edge
        self.edge = edge
        self.shard = edge.EdgeShard.load(str(folder / "qdrant"))


SYSTEMS = {
    "FAISS HNSW32, mapped": FaissMapped,
    f"FAISS HNSW, prefix {PREFIX}, refined, mapped": FaissPrefixMapped,
    "zvec DiskANN": ZvecDiskAnn,
    "LanceDB IVF_HNSW_SQ": LanceOpened,
    "Qdrant Edge HNSW int8, rescored, on disk": QdrantOpened,
}


class Group:
    """A memory control group (version 1): what is read by who is in it is counted, and what it
    takes."""

    def __init__(self, limit):
        self.path = GROUPS / f"matryo-peers-{os.getpid()}"
        self.path.mkdir()
        (self.path / "memory.limit_in_bytes").write_text(str(limit))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for _ in range(50):
            try:
                return self.path.rmdir()
            except OSError:
                time.sleep(0.1)

    def join(self, process):
        (self.path / "cgroup.procs").write_text(str(process))


def forget(folder):
    """Drops the files of a folder from the page cache."""
    for path in pathlib.Path(folder).rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(system, queries, truth):
    """(recall, queries a second, p99 in ms) of each setting. No query is asked twice: what the first
    time read might be in memory still."""
    points, queries = [], made_ready(system, queries)
    for n, setting in enumerate(system.settings):
        system.set(setting)
        some = range(n, len(queries), len(system.settings))
        times, hits = [], []
        for at in some:
            start = time.perf_counter()
            found = system.query(queries[at])
            times.append(time.perf_counter() - start)
            hits.append(len(set(map(int, found)) & set(truth[at].tolist())) / K)
        recall = np.mean(hits)
        p99 = sorted(times)[len(times) * 99 // 100] * 1e3
        points.append((float(recall), len(times) / sum(times), p99))
        if recall > 0.995 or sum(times) > 60:
            break
    return points


def run_one(name, data, folder, share):
    """Builds in one process, opens in another, which is capped from then on."""
    base, queries, truth = load(data)
    system, scratch = SYSTEMS[name](), pathlib.Path(folder)
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            sys.exit("could not be built")
    else:
        sys.stdout = sys.stderr
        try:
            system.build(base, scratch)
        except BaseException as error:  # noqa: BLE001
            print(error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
    limit = int(base.nbytes * share) + EXTRA
    del base
    forget(scratch)
    system.open(scratch)
    # What it holds already is not counted against the limit.
    held = memory()[0]
    with Group(limit) as group:
        group.join(os.getpid())
        points = measure(system, queries, truth)
        (GROUPS / "cgroup.procs").write_text(str(os.getpid()))
    print(json.dumps({"points": points, "limit": limit, "held": held}))


def run_matryo(program, data, folder, share):
    """The whole process is capped, and gets nothing extra."""
    base, path = np.load(data / "base_f16.npy", mmap_mode="r"), pathlib.Path(folder) / "peers.matryo"
    make_collection(program, data, path)
    limit, points = int(base.size * 4 * share), []
    for recall in RECALLS:
        forget(path)
        bench = [program, "bench", path, "--vectors", data / "queries.npy", "--truth",
                 data / "gt100.npy", "--limit", K, "--repeat", 0, "--json", "--recall", recall]
        with Group(limit) as group:
            join = lambda: group.join(os.getpid())  # noqa: E731
            out = subprocess.run(list(map(str, bench)), check=True, capture_output=True, preexec_fn=join)
        report = json.loads(out.stdout)
        points.append((report[f"recall_at_{K}"], report["queries_per_second"], report["p99_us"] / 1e3))
    return {"points": points, "limit": limit, "held": 0}


def line(name, result):
    speeds = [at([(r, q) for r, q, _ in result["points"]], recall) for recall in WANTED]
    # Of the least setting that finds so much.
    tails = [next((p for r, _, p in result["points"] if r >= recall), None) for recall in WANTED]
    cells = ["-" if s is None else f"{s:,.0f} ({t:,.1f})" for s, t in zip(speeds, tails)]
    memory = f"{result['limit'] >> 20} | {result['held']}"
    return f"| {name} | " + " | ".join(cells) + f" | {memory} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--only", action="append", help="a system whose name has this in it; may be repeated")
    parser.add_argument("--matryo", default=HERE.parents[1] / "target/release/matryo")
    parser.add_argument("--share", type=float, default=0.1, help="memory, as a share of the vectors as f32")
    parser.add_argument("--folder", help="where to write; on the disk that matters")
    parser.add_argument("--system", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.system:
        return run_one(args.system, args.data, args.folder, args.share)
    if not os.access(GROUPS, os.W_OK):
        return print("skipped: no memory control group (version 1) can be made here")
    print("| system | q/s (p99 ms) @.90 | @.95 | @.99 | capped at MB | beside MB held before |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in ["**matryo**", *SYSTEMS, "**matryo again** (A/A)"]:
        if "matryo" not in name and args.only and not any(o in name for o in args.only):
            continue
        with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
            if "matryo" in name:
                result = run_matryo(args.matryo, args.data, scratch, args.share)
            else:
                options = ["--folder", scratch, "--share", str(args.share)]
                result = asked(__file__, name, str(args.data), *options)
            if result:
                print(line(name, result), flush=True)


if __name__ == "__main__":
    main()
