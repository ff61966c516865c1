"""From opening to the first result: files in the page cache, a process of its own each time. What
is found of the true neighbours of the first query is shown, and must be half of them."""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import one_thread  # noqa: F401  before numpy
import numpy as np

from cold import HERE, FaissMapped, FaissPrefixMapped
from search import load, make_collection, recall_of
from systems import K, PREFIX, Usearch

TIMES = 7


class UsearchViewed(Usearch):
    def build(self, base, folder):
        super().build(base, folder)
        self.index.save(str(folder / "index"))

    def open(self, folder):
        from usearch.index import Index
        self.index = Index.restore(str(folder / "index"), view=True)


SYSTEMS = {
    "usearch bf16, viewed": UsearchViewed,
    "FAISS HNSW32, mapped": FaissMapped,
    f"FAISS HNSW, prefix {PREFIX}, refined, mapped": FaissPrefixMapped,
}
# Of settings some are as thorough as recall .95 asks for, about.
SETTING = {"usearch bf16, viewed": 128, "FAISS HNSW32, mapped": 160}


def run_one(name, data, folder):
    """Milliseconds to open an index and answer one query, and the share found; libraries are
    loaded before."""
    import faiss  # noqa: F401
    import usearch.index  # noqa: F401
    system, query = SYSTEMS[name](), np.load(data / "queries.npy")[0].astype(np.float32)
    truth = np.load(data / "gt100.npy")[:1, :K]
    start = time.perf_counter()
    system.open(folder)
    system.set(SETTING.get(name, 80))
    found = system.query(query)
    print(json.dumps([1e3 * (time.perf_counter() - start), recall_of([found], truth)]))


def run_matryo(program, path, folder, *options):
    bench = [program, "bench", path, "--vectors", folder / "queries.npy", "--truth", folder / "gt100.npy",
             "--limit", 10, "--repeat", 1, "--recall", 0.95, "--json", *options]
    out = subprocess.run(list(map(str, bench)), check=True, capture_output=True).stdout
    report = json.loads(out)
    return (report["open_us"] + report["first_search_us"]) / 1e3, report["recall_at_10"]


def show(name, once):
    once()
    times, found = zip(*[once() for _ in range(TIMES)])
    assert min(found) >= 0.5, f"{name} found {min(found)}"
    span = f"{min(times):,.1f} to {max(times):,.1f}"
    print(f"| {name} | {statistics.median(times):,.1f} | {span} | {min(found):.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--only", action="append", help="a system whose name has this in it; may be repeated")
    parser.add_argument("--matryo", default=HERE.parents[1] / "target/release/matryo")
    parser.add_argument("--collection", type=pathlib.Path, help="of these rows, with its graph, calibrated")
    parser.add_argument("--folder", help="where to write")
    parser.add_argument("--system", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.system:
        return run_one(args.system, args.data, pathlib.Path(args.folder))
    print("| system | ms, median | range | found |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        few, path = pathlib.Path(scratch), args.collection
        for name in ["queries.npy", "gt100.npy"]:
            np.save(few / name, np.load(args.data / name)[:1])
        if path is None:
            path = few / "peers.matryo"
            make_collection(args.matryo, args.data, path)
        for budget in [None, 0]:
            options = [] if budget is None else ["--ram-budget", budget]
            name = "**matryo**" if budget is None else "**matryo**, nothing pinned"
            show(name, lambda: run_matryo(args.matryo, path, few, *options))
    base, _, _ = load(args.data, 1)
    for name, kind in SYSTEMS.items():
        if args.only and not any(o in name for o in args.only):
            continue
        with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
            kind().build(base, pathlib.Path(scratch))
            command = [sys.executable, __file__, str(args.data), "--system", name, "--folder", scratch]
            show(name, lambda: json.loads(subprocess.run(command, check=True, capture_output=True).stdout))


if __name__ == "__main__":
    main()
