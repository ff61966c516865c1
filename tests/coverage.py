#!/usr/bin/env python3
"""Lines and regions of the storage modules that tests run.

Builds this crate (no other) with `-C instrument-coverage` into `target/coverage`, runs the
tests that are named below, and prints a table. Needs a nightly toolchain with `llvm-tools`.
Code of unit tests does not count; a generic function counts once, whatever it is made for.

    tests/coverage.py [--show] [TEST..]

With names of tests, the unit tests and those; `--show` also prints the regions that were not
run.
"""

import glob
import json
import os
import subprocess
import sys

# Left out: the searches' own tests (`recall`, `graph`, `batch`, ...), those that
# need other features, and the longest that repeat what others reach.
TESTS = (
    "api backup bad_input compact crash filters golden hostile locks options odd_use process "
    "readers reembed repair syncs versions write"
).split()
MODULES = (
    "wal codec manifest segment memtable view vfs payload index filter rows collection"
).split()
OUT = os.path.join("target", "coverage")
# What only tests have: folders in RAM and recordings.
NOT_STORAGE = ("src/vfs/mem.rs", "src/vfs/record.rs")


def run(*args, **env):
    return subprocess.run(args, env={**os.environ, **env}, check=True, stdout=subprocess.PIPE).stdout


def build():
    """The test programs."""
    named = [name for name in sys.argv[1:] if name != "--show"]
    selected = [arg for name in named or TESTS for arg in ("--test", name)]
    out = run(
        "cargo", "test", "--locked", "--no-default-features", "--features", "testing",
        "--no-run", "--message-format=json", "--lib", *selected,
        RUSTC_WORKSPACE_WRAPPER=os.path.abspath(__file__), CARGO_TARGET_DIR=OUT,
    )
    messages = [json.loads(line) for line in out.splitlines()]
    programs = [m["executable"] for m in messages if m.get("profile", {}).get("test")]
    return [program for program in programs if program]


def measure(programs):
    """Runs them; regions and lines of the storage modules, by file."""
    for old in glob.glob(os.path.join(OUT, "*.profraw")):
        os.remove(old)
    profile = os.path.abspath(os.path.join(OUT, "tests.profdata"))
    for program in programs:
        name = os.path.basename(program)
        print("running", name, flush=True, file=sys.stderr)
        raw = os.path.abspath(os.path.join(OUT, name + "-%8m.profraw"))
        # Of the unit tests those of the storage modules: counting slows down arithmetic most.
        only = [module + "::" for module in MODULES] if name.startswith("matryo-") else []
        run(program, "--test-threads=2", *only, LLVM_PROFILE_FILE=raw)
    tools = glob.glob(os.path.join(run("rustc", "+nightly", "--print", "sysroot").decode().strip(),
                                   "lib/rustlib/*/bin"))[0]
    # Those of processes that were killed may be cut short.
    raw = glob.glob(os.path.join(OUT, "*.profraw"))
    run(os.path.join(tools, "llvm-profdata"), "merge", "-sparse", "-failure-mode=all",
        "-o", profile, *raw)
    objects = [arg for program in programs[1:] for arg in ("-object", program)]
    sources = [path for module in MODULES for path in files(module)]
    export = [os.path.join(tools, "llvm-cov"), "export", "-instr-profile", profile, programs[0],
              *objects, "-sources", *sources]
    functions = json.loads(run(*export))["data"][0]["functions"]
    return regions(functions), lines(run(*export, "-format=lcov"))


def files(module):
    """Source files of a module."""
    found = glob.glob(f"src/{module}.rs") + glob.glob(f"src/{module}/**/*.rs", recursive=True)
    return sorted(f for f in found if f not in NOT_STORAGE and not f.endswith("tests.rs"))


def first_test_line(path):
    """Where the unit tests of a file begin."""
    lines = open(path, encoding="utf-8").read().splitlines()
    for number, line in enumerate(lines, 1):
        if line == "#[cfg(test)]":
            return number
    return len(lines) + 1


def regions(functions):
    """For each file, its regions of code, and how often each was run."""
    found = {}
    for function in functions:
        for line, col, end_line, end_col, count, file_id, _, kind in function["regions"]:
            if kind == 0:
                path = os.path.relpath(function["filenames"][file_id])
                place = (line, col, end_line, end_col)
                of_file = found.setdefault(path, {})
                of_file[place] = max(of_file.get(place, 0), count)
    return found


def lines(lcov):
    """For each file, its lines of code, and how often each was run."""
    found, of_file = {}, {}
    for line in lcov.decode().splitlines():
        what, _, rest = line.partition(":")
        if what == "SF":
            of_file = found.setdefault(os.path.relpath(rest), {})
        elif what == "DA":
            number, count = rest.split(",")[:2]
            of_file[int(number)] = int(count)
    return found


def percent(hit, all_):
    return f"{100 * hit / all_:.1f}" if all_ else "-"


def main():
    all_regions, all_lines = measure(build())
    print("| module | lines | run, % | regions | run, % |\n|---|---:|---:|---:|---:|")
    total = [0, 0, 0, 0]
    for module in MODULES:
        sums = [0, 0, 0, 0]
        for path in files(module):
            end = first_test_line(path)
            run_lines = [n > 0 for line, n in all_lines.get(path, {}).items() if line < end]
            run_regions = [n > 0 for place, n in all_regions.get(path, {}).items() if place[0] < end]
            row = [len(run_lines), sum(run_lines), len(run_regions), sum(run_regions)]
            sums = [a + b for a, b in zip(sums, row)]
        total = [a + b for a, b in zip(total, sums)]
        table_row(f"`{module}`", sums)
    table_row("all", total)
    if "--show" in sys.argv:
        show(all_regions)


def table_row(name, sums):
    lines_, hit, regions_, run_ = sums
    print(f"| {name} | {lines_} | {percent(hit, lines_)} | {regions_} | {percent(run_, regions_)} |")


def show(found):
    for module in MODULES:
        for path in files(module):
            source = open(path, encoding="utf-8").read().splitlines()
            for place, count in sorted(found.get(path, {}).items()):
                if count == 0 and place[0] < first_test_line(path):
                    line, col, end_line, end_col = place
                    last = end_col - 1 if end_line == line else None
                    print(f"{path}:{line}:{col}-{end_line}:{end_col}: {source[line - 1][col - 1:last]}")


if __name__ == "__main__":
    if os.path.basename(sys.argv[1] if sys.argv[1:] else "") == "rustc":
        # Called by cargo, to call the compiler.
        os.execvp(sys.argv[1], [*sys.argv[1:], "-C", "instrument-coverage"])
    main()
