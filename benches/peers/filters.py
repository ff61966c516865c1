"""Searches of which a filter lets one row in a hundred or in ten through.

Row i passes if i * 7919 % rows is below rows / 100 or rows / 10, as in benches/filters.rs, which
measures matryo first and last. Recall is of the nearest rows that pass, found by numpy.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import one_thread  # noqa: F401  before numpy
import numpy as np

from search import asked, at, load, measure
from systems import K, PREFIX, FaissFlat, FaissHnsw, FaissHnswPrefix, Lance, Qdrant, Zvec

ONE_IN = [100, 10]
WANTED = [0.95, 0.99]


def number(rows):
    return np.arange(rows) * 7919 % rows


class Flat(FaissFlat):
    """Compares the rows that pass."""

    def restrict(self, passing):
        import faiss
        # An array is gone through by itself; any other selector is asked for every row.
        self.passing = passing
        selector = faiss.IDSelectorArray(len(passing), faiss.swig_ptr(passing))
        self.params = faiss.SearchParameters(sel=selector)


class Bitmap:
    """The rows that pass, as a graph's walk asks for them."""

    def restrict(self, passing):
        import faiss
        bits = np.zeros(self.index.ntotal, bool)
        bits[passing] = True
        self.bits = np.packbits(bits, bitorder="little")
        self.selector = faiss.IDSelectorBitmap(self.bits)


class Hnsw(Bitmap, FaissHnsw):
    def set(self, setting):
        import faiss
        self.params = faiss.SearchParametersHNSW(sel=self.selector, efSearch=setting)


class HnswPrefix(Bitmap, FaissHnswPrefix):
    def within(self, shortlist):
        import faiss
        return faiss.SearchParametersHNSW(sel=self.selector, efSearch=shortlist)


class QdrantFiltered(Qdrant):
    def declare(self, edge):
        # Without an index of the field few of the rows that pass are found.
        kind = edge.PayloadSchemaType.Integer
        self.shard.update(edge.UpdateOperation.create_field_index("n", kind))

    def payload(self, row):
        return {"n": int(self.numbers[row])}

    def restrict(self, passing):
        edge = self.edge
        below = edge.RangeFloat(lt=float(len(passing)))
        self.filter = edge.Filter(must=[edge.FieldCondition(key="n", range=below)])

    def query(self, q):
        query = self.edge.Query.Nearest(q, using="v")
        request = self.edge.QueryRequest(limit=K, query=query, params=self.params, filter=self.filter)
        return [hit.id for hit in self.shard.query(request)]

    def build(self, base, folder):
        self.numbers = number(len(base))
        super().build(base, folder)


class ZvecFiltered(Zvec):
    def build(self, base, folder):
        self.numbers = number(len(base))
        super().build(base, folder)

    def fields(self, zvec):
        return [zvec.FieldSchema("n", zvec.DataType.INT64, index_param=zvec.InvertIndexParam())]

    def values(self, row):
        return {"n": int(self.numbers[row])}

    def restrict(self, passing):
        self.filter = f"n < {len(passing)}"

    def query(self, q):
        query = self.zvec.VectorQuery("v", vector=q, param=self.param)
        hits = self.collection.query(query, topk=K, filter=self.filter, output_fields=[])
        return [int(hit.id) for hit in hits]


class LanceFiltered(Lance):
    def columns(self, pa, rows):
        return {"n": pa.array(number(rows))}

    def build(self, base, folder):
        super().build(base, folder)
        self.table.create_scalar_index("n")

    def restrict(self, passing):
        self.where = f"n < {len(passing)}"

    def query(self, q):
        search = self.table.search(q).distance_type("dot").limit(K).nprobes(20)
        search = search.where(self.where, prefilter=True).refine_factor(self.refine)
        return search.select(["id"]).to_arrow()["id"].to_numpy()


SYSTEMS = {
    "FAISS flat, the rows that pass": Flat,
    "FAISS HNSW32": Hnsw,
    f"FAISS HNSW, prefix {PREFIX}, refined": HnswPrefix,
    "Qdrant Edge HNSW int8, rescored": QdrantFiltered,
    "zvec HNSW int8, refined": ZvecFiltered,
    "LanceDB IVF_HNSW_SQ": LanceFiltered,
}


def run_one(name, folder):
    """In a process of its own: builds, measures each filter, prints one line of JSON."""
    base, queries, _ = load(folder)
    system = SYSTEMS[name]()
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        system.build(base, pathlib.Path(scratch))
        result = {"build": time.perf_counter() - start}
        for one_in in ONE_IN:
            passing = np.flatnonzero(number(len(base)) < len(base) // one_in)
            truth = passing[np.argsort(-(queries @ base[passing].T), axis=1)[:, :K]]
            system.restrict(passing)
            result[one_in] = measure(system, queries, truth)
    print(json.dumps(result))


def run_matryo(bench, folder):
    out = subprocess.run([bench, "--bench"], env={**os.environ, "MATRYO_DATA": str(folder)},
                         check=True, capture_output=True, text=True).stdout
    result = {one_in: [] for one_in in ONE_IN}
    for line in re.finditer(r"one in (\d+) .* found ([\d.]+) speed (\d+)", out):
        result[int(line[1])].append((float(line[2]), float(line[3])))
    return result


def line(name, result):
    cells = [at(result[one_in], recall) for one_in in ONE_IN for recall in WANTED]
    best = [max((p[0] for p in result[one_in]), default=0) for one_in in ONE_IN]
    cells = ["-" if cell is None else f"{cell:,.0f}" for cell in cells]
    return f"| {name} | " + " | ".join(cells) + f" | {best[0]:.3f}, {best[1]:.3f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("bench", help="the program that `cargo bench --bench filters --no-run` made")
    parser.add_argument("--only", action="append", help="a system whose name has this in it; may be repeated")
    args = parser.parse_args()
    names = [n for n in SYSTEMS if not args.only or any(o in n for o in args.only)]
    head = " | ".join(f"1/{one_in} @{recall}" for one_in in ONE_IN for recall in WANTED)
    print(f"| system | {head} | best recall |\n|---|---:|---:|---:|---:|---|")
    print(line("**matryo**", run_matryo(args.bench, args.data)), flush=True)
    for name in names:
        if result := asked(__file__, name, str(args.data)):
            print(line(name, {one_in: result[str(one_in)] for one_in in ONE_IN}), flush=True)
    print(line("**matryo again** (A/A)", run_matryo(args.bench, args.data)))


if __name__ == "__main__":
    if "--system" in sys.argv:
        run_one(sys.argv[sys.argv.index("--system") + 1], pathlib.Path(sys.argv[1]))
    else:
        main()
