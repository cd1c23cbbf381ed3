# SPDX-License-Identifier: MIT
"""What the benchmarks share: `nvllm bench` run once, arms that take turns, the report."""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def options(doc, quick=True):
    """The options that all of them take."""
    p = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--nvllm", default=os.path.join(ROOT, "build", "nvllm"))
    p.add_argument("--config", default=os.path.join(ROOT, "conf", "smollm2.ini"))
    p.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for every arm")
    p.add_argument("--repeat", type=int, default=5, help="counted runs of each arm")
    if quick:
        p.add_argument("--quick", action="store_true", help="small shapes, one round: does it run at all?")
    p.add_argument("--out", help="file for the JSON")
    return p


def bench(args, sets, words, repeat=1):
    """The report of `nvllm bench`: one run that is not counted, then `repeat` that are."""
    cmd = [args.nvllm, "bench", "--config", args.config, "--log-level", "warn", "-r", str(repeat)]
    for s in list(args.set) + list(sets):
        cmd += ["--set", s]
    p = subprocess.run(cmd + [str(w) for w in words], cwd=ROOT, capture_output=True, text=True)
    if p.returncode:
        sys.exit("%s\nfailed: %s" % (" ".join(p.args), p.stderr))
    return json.loads(p.stdout)


def rounds(args, arms):
    """arms: {name: (sets, words)}. They take turns, so that a change of the machine's speed meets
    them all. {name: [report of each round]}."""
    out = {name: [] for name in arms}
    for _ in range(1 if args.quick else args.repeat):
        for name, (sets, words) in arms.items():
            out[name].append(bench(args, sets, words))
    return out


def middle(reports, *path):
    """The median over rounds of a figure; None where a round has none."""
    values = []
    for r in reports:
        for key in path:
            r = r[key] if r is not None else None
        values.append(r)
    return None if None in values else statistics.median(values)


def ratio(reports, others, *path):
    """The median over rounds of this arm's figure by the other's of the same round."""
    pairs = [(middle([a], *path), middle([b], *path)) for a, b in zip(reports, others)]
    if any(None in p or not p[1] for p in pairs):
        return None
    return round(statistics.median(a / b for a, b in pairs), 3)


def row(reports, figures):
    """figures: {name: path}."""
    return {name: middle(reports, *path) for name, path in figures.items()}


def show(title, rows):
    """A table for people, on standard error; columns are those of the first row."""
    keys = list(rows[0])
    text = [[k for k in keys]] + [["-" if r[k] is None else str(r[k]) for k in keys] for r in rows]
    width = [max(len(line[i]) for line in text) for i in range(len(keys))]
    print(title, file=sys.stderr)
    for line in text:
        print("  " + "  ".join(cell.rjust(w) for cell, w in zip(line, width)), file=sys.stderr)


def cpu_name():
    with open("/proc/cpuinfo") as f:
        return next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), platform.machine())


def header(name):
    """What the figures depend on. Taken before the first run."""
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout
    return {"benchmark": name, "cpu": cpu_name(), "cores": os.cpu_count(), "commit": commit.strip(),
            "date": time.strftime("%Y-%m-%d"), "load_before": os.getloadavg()[0]}


def finish(args, out):
    """The JSON to standard output and to --out."""
    text = json.dumps(out, indent=1)
    if args.out:
        with open(args.out, "w") as f:
            f.write(text + "\n")
    print(text)
