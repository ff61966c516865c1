"""Recall and queries per second of matryo and other systems on the same data."""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import one_thread  # noqa: F401  before numpy
import numpy as np

from systems import K, SYSTEMS, unit

HERE = pathlib.Path(__file__).parent
WANTED = [0.90, 0.95, 0.99]
RECALLS = [0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
# Recalls at which batches are shown, on so many threads.
BATCHED = [0.95, 0.99]
THREADS = 2
PASSES = 3
# Queries of a batch, at least; of fewer all are asked several times.
BATCH = 1000


def load(folder, most=None):
    base = unit(np.load(folder / "base_f16.npy").astype(np.float32))
    queries = unit(np.load(folder / "queries.npy").astype(np.float32))
    return base, queries[:most], np.load(folder / "gt100.npy")[:most, :K]


def memory(process="self"):
    """Megabytes a process keeps in RAM: of its own, and pages of files that it has mapped."""
    try:
        lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return [0, 0]
    kilobytes = dict(line.split()[:2] for line in lines if line.startswith("Rss"))
    return [int(kilobytes.get(kind, 0)) >> 10 for kind in ["RssAnon:", "RssFile:"]]


@contextlib.contextmanager
def one_core():
    """All threads of the process on one core: some systems answer one query with several."""
    def allow(cores):
        for thread in os.listdir("/proc/self/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cores)
    cores = os.sched_getaffinity(0)
    allow({min(cores)})
    yield
    allow(cores)


def made_ready(system, queries):
    """Queries as the system takes them."""
    return [getattr(system, "ready", lambda q: q)(q) for q in queries]


def tiled(rows):
    """As many as a batch has, in turns."""
    return np.concatenate([rows] * -(-BATCH // len(rows)))


def timed(work):
    """Seconds, the median of the passes."""
    times = []
    for _ in range(PASSES):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def recall_of(found, truth):
    return float(np.mean([len(set(map(int, f)) & set(t.tolist())) / K for f, t in zip(found, truth)]))


def measure(system, queries, truth):
    """(recall, queries a second) of each setting, one query at a time."""
    points, queries = [], made_ready(system, queries)
    for setting in system.settings:
        system.set(setting)
        with one_core():
            recall = recall_of([system.query(q) for q in queries], truth)
            points.append((recall, len(queries) / timed(lambda: [system.query(q) for q in queries])))
        if recall > 0.999:
            break
    return points


def measure_batches(system, queries, truth, points):
    """The same with all queries as one batch, for the settings of `points`, which must find as
    much; none where the system takes no batch."""
    batches, queries, truth = [], tiled(queries), tiled(truth)
    for setting, (alone, _) in zip(system.settings, points if hasattr(system, "batch") else []):
        system.set(setting)
        recall = recall_of(system.batch(queries, THREADS), truth)
        assert abs(recall - alone) < 0.01, f"a batch finds {recall}, queries alone {alone}"
        batches.append((recall, len(queries) / timed(lambda: system.batch(queries, THREADS))))
    return batches


def run_one(name, folder, most):
    """In a process of its own: builds, measures, prints one line of JSON."""
    base, queries, truth = load(folder, most)
    system = SYSTEMS[name]()
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        system.build(base, pathlib.Path(scratch))
        seconds = time.perf_counter() - start
        # Who ranks again by full vectors keeps them.
        del base
        points = measure(system, queries, truth)
        batches = measure_batches(system, queries, truth, points)
        result = {"build": seconds, "points": points, "batches": batches, "memory": memory()}
        print(json.dumps(result))


def run_bench(command):
    """What a program printed, and the most memory it had."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
    most = [0, 0]
    while process.poll() is None:
        most = list(map(max, most, memory(process.pid)))
        time.sleep(0.02)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return json.loads(process.stdout.read()), most


def make_collection(program, folder, path):
    """Merged, with a graph where there are rows enough for one, and calibrated: as the background
    thread of a program that keeps the collection open would leave it."""
    load = [program, "import", path, "--npy", folder / "base_f16.npy", "--stored", "f16"]
    for command in [load, [program, "compact", path], [program, "calibrate", path]]:
        subprocess.run(list(map(str, command)), check=True, capture_output=True)


def run_matryo(program, folder, scratch, most=None):
    base = np.load(folder / "base_f16.npy", mmap_mode="r")
    scratch = pathlib.Path(scratch)
    path = scratch / "peers.matryo"
    for name in ["queries.npy", "gt100.npy"]:
        np.save(scratch / name, tiled(np.load(folder / name)[:most]))
    start = time.perf_counter()
    make_collection(program, folder, path)
    seconds = time.perf_counter() - start
    # matryo knows rows by id; import numbers them from 0, as the truth does.
    points, batches, taken = [], [], [0, 0]
    for method in [["--recall", str(r)] for r in RECALLS] + [["--exact"]]:
        bench = [program, "bench", path, "--vectors", scratch / "queries.npy", "--truth",
                 scratch / "gt100.npy", "--limit", K, "--repeat", PASSES, "--threads", THREADS,
                 "--json", *method]
        report, held = run_bench(bench)
        taken = list(map(max, taken, held))
        recall = report[f"recall_at_{K}"]
        points.append((recall, report["queries_per_second"]))
        batches.append((recall, report["batch_queries_per_second"]))
    exact = points.pop()
    assert exact[0] > 0.999, f"exact() found {exact[0]}"
    result = {"build": seconds, "points": points, "batches": batches[:-1], "memory": taken}
    return {**result, "exact": exact[1], "rows": len(base)}


def at(points, recall):
    """Queries a second at a recall, on straight lines between the points measured. Of points with
    one recall the median counts; those that another beats in both are left out."""
    alike = itertools.groupby(sorted(points), lambda point: point[0])
    points = [(found, statistics.median(speed for _, speed in some)) for found, some in alike]
    best = [p for p in points if not any(o[0] >= p[0] and o[1] > p[1] for o in points)]
    above = next((i for i, p in enumerate(best) if p[0] >= recall), None)
    if above is None:
        return None
    if above == 0:
        return best[0][1]
    (r0, q0), (r1, q1) = best[above - 1], best[above]
    return q0 + (q1 - q0) * (recall - r0) / (r1 - r0)


def line(name, result):
    cells = [at(result["points"], recall) for recall in WANTED]
    cells += [at(result["batches"], recall) for recall in BATCHED]
    cells = ["-" if cell is None else f"{cell:,.0f}" for cell in cells]
    best = max((recall for recall, _ in result["points"]), default=0)
    own, files = result["memory"]
    return f"| {name} | " + " | ".join(cells) + f" | {best:.3f} | {result['build']:.0f} | {own:,} | {files:,} |"


def as_asked(result):
    """What `recall(r)` finds and how fast, without lines between."""
    asked = zip(RECALLS, result["points"], result["batches"])
    return "; ".join(f"{r}: {found:.3f}, {alone:,.0f} q/s, batch {batch:,.0f}"
                     for r, (found, alone), (_, batch) in asked)


def empty_call():
    """Microseconds that FAISS takes to search a single row: what asking from Python costs."""
    import faiss
    index, row = faiss.IndexFlatIP(1024), np.ones((1, 1024), np.float32)
    index.add(row)
    return 1e6 * timed(lambda: [index.search(row, 1) for _ in range(1000)]) / 1000


def asked(script, name, *arguments):
    """What a script says of a system, in a process of its own; nothing but a line where it failed."""
    command = [sys.executable, script, *arguments, "--system", name]
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode:
        said = out.stderr.strip().splitlines()[-1][:100]
        why = said if out.returncode > 0 else f"ended by signal {-out.returncode}"
        print(f"| {name} | failed: {why} |", flush=True)
        return None
    return json.loads(out.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--only", action="append", help="a system whose name has this in it; may be repeated")
    parser.add_argument("--matryo", default=HERE.parents[1] / "target/release/matryo")
    parser.add_argument("--queries", type=int, help="ask only the first so many")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--system", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.list:
        return print("\n".join(SYSTEMS))
    if args.system:
        return run_one(args.system, args.data, args.queries)
    names = [n for n in SYSTEMS if not args.only or any(o in n for o in args.only)]
    print("| system | q/s @.90 | @.95 | @.99 | batch @.95 | @.99 | best recall | build s | RAM MB | mapped MB |")
    print("|---|" + "---:|" * 9)
    with tempfile.TemporaryDirectory() as scratch:
        first = run_matryo(args.matryo, args.data, scratch, args.queries)
    print(line("**matryo**", first), flush=True)
    for name in names:
        few = ["--queries", str(args.queries)] if args.queries else []
        if result := asked(__file__, name, str(args.data), *few):
            print(line(name, result), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        again = run_matryo(args.matryo, args.data, scratch, args.queries)
    print(line("**matryo again** (A/A)", again))
    print(f"\nmatryo exact: {first['exact']:.0f} and {again['exact']:.0f} q/s; {first['rows']:,} rows")
    for result in [first, again]:
        print(f"matryo as asked (recall asked: found, queries a second): {as_asked(result)}")
    print(f"an empty call of FAISS from Python takes {empty_call():.1f} us")


if __name__ == "__main__":
    main()
