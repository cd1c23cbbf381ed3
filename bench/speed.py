# SPDX-License-Identifier: MIT
"""The questions of bench/offline, also asked by scripts/gpu-check: each a function of a Bench that gives a
dict for the JSON, with what other engines reached on the same GPU beside it."""
import json
import os
import random
import re
import statistics
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCE = "measured by this project on one H100 80GB HBM3, driver 580, CUDA 13.0, bf16, random weights of the same shapes"
OTHERS = {  # tokens of output per second, by seed or by batch
    "Qwen3-0.6B": {
        "offline": {"vLLM 0.26.0": [18578, 18979, 18889], "nano-vLLM": [13568, 16681, 16242], "roofline, measured rates": [26300]},
        "sweep": {"nano-vLLM": {1: 473, 2: 967, 4: 1830, 8: 3321, 16: 7077, 32: 11373, 64: 18631, 128: 27337, 256: 35619},
                  "vLLM 0.26.0": {1: 459, 2: 901, 4: 1582, 8: 2640, 16: 5801, 32: 8376, 64: 16167, 128: 24541, 256: 29865}},
        "ttft": {"vLLM 0.26.0": "11-14 ms", "nano-vLLM": "50-57 ms"},
        "prefill": {"vLLM 0.26.0": "299,000-325,000", "nano-vLLM": "287,000-333,000"},
        "cold": {"vLLM 0.26.0": "65-86 s", "nano-vLLM": "32-45 s"},
    },
    "Qwen3-8B": {
        "offline": {"vLLM 0.26.0": [7592, 8100]},
        "sweep": {"vLLM 0.26.0": {1: 146, 2: 294, 4: 575, 8: 1125, 16: 2232, 32: 4236, 64: 7728, 128: 13498}},
        "cold": {"vLLM 0.26.0": "117 s"},
    },
}
SEED_0_OUTPUT = 133966  # as nano-vLLM publishes it


class Failed(Exception):
    """A run that failed, or a workload that is not what it should be."""


class Bench:
    """The program, its options, the checkpoint. quick: small shapes, to see that it runs."""

    def __init__(self, nvllm, model, path, sets=(), quick=False):
        self.nvllm, self.model, self.path, self.quick = nvllm, model, path, quick
        self.sets = ["model.path=" + path, *sets]

    def words(self, more=()):
        return [w for s in [*self.sets, *more] for w in ("--set", s)]

    def run(self, *words, sets=()):
        p = subprocess.run([self.nvllm, "bench", "--log-level", "warn", *map(str, words), *self.words(sets)], capture_output=True, text=True)
        if p.returncode:
            raise Failed("exit %d: %s" % (p.returncode, p.stderr.strip()[-800:]))
        return json.loads(p.stdout)

    def others(self, what):
        return {"source": SOURCE, **OTHERS.get(self.model, {}).get(what, {})}

    def header(self, what, report=None):
        commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        start = (report or {}).get("start", "")
        return {"benchmark": what, "model": self.model, "weights": "random", "commit": commit, "date": time.strftime("%Y-%m-%d"),
                "device": "".join(re.findall(r"device \w+: ([^,]*)", start)[:1]), "start": start.splitlines(),
                "options": [s for s in self.sets if not s.startswith("model.path")], "quick": self.quick}


# ---- nano-vLLM's workload ----

def workload(seed, quick=False):
    """bench.py of nano-vLLM: 256 prompts of 100 to 1,024 tokens of 0 to 10,000, then the lengths of their answers,
    all by Python's random with this seed."""
    r = random.Random(seed)
    prompts = [[r.randint(0, 10000) for _ in range(r.randint(100, 1024))] for _ in range(256)]
    lengths = [r.randint(100, 1024) for _ in range(256)]
    if seed == 0 and sum(lengths) != SEED_0_OUTPUT:
        raise Failed("seed 0 asks for %d tokens, not %d: this Python has another random" % (sum(lengths), SEED_0_OUTPUT))
    return list(zip(prompts, lengths)) if not quick else [(p[:40], n // 100 + 1) for p, n in zip(prompts[:12], lengths)]


def offline(b, seeds=(0, 1, 2)):
    """All 256 requests at once after one that warms up; the whole time, detokenising included."""
    rows, report = [], None
    for seed in seeds:
        asks = workload(seed, b.quick)
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
            for ids, n in asks:
                f.write(json.dumps({"ids": ids, "max_tokens": n}) + "\n")
            f.flush()
            report = b.run("--trace", f.name, "--temperature", "0.6", "-r", 1)
        if report["output_tokens"] != sum(n for _, n in asks) or report["prompt_tokens"] != sum(len(p) for p, _ in asks):
            raise Failed("seed %d: %d tokens of output and %d of prompts came, not all" %
                         (seed, report["output_tokens"], report["prompt_tokens"]))
        keep = ("run_s", "run_output_tokens_per_s", "run_tokens_per_s", "prompt_tokens", "output_tokens", "cached_tokens", "ttft_ms",
                "tpot_ms", "gap_ms", "steps", "graph_steps", "computed_tokens", "preempted", "pages", "pages_peak", "run_ahead",
                "weight_bytes", "kv_bytes", "work_bytes")
        rows.append({"seed": seed, **{k: report[k] for k in keep}})
    return {**b.header("offline", report), "unit": "tokens of output per second of the whole run", "rows": rows, "others": b.others("offline")}


def sweep(b, batches=(1, 2, 4, 8, 16, 32, 64, 128, 256), repeat=3):
    """Prompts of 128 tokens, 256 new tokens, so many at once."""
    rows, report = [], None
    prompt, new = (16, 8) if b.quick else (128, 256)
    for n in batches:
        report = b.run("-p", prompt, "-n", new, "-b", n, "-r", repeat, "--temperature", "0.6", sets=["engine.max_seqs=%d" % max(batches)])
        rows.append({"batch": n, **{k: report[k] for k in ("run_output_tokens_per_s", "gen_tokens_per_s", "run_s", "ttft_ms", "tpot_ms",
                                                           "gap_ms", "steps", "graph_steps")}})
    return {**b.header("sweep", report), "prompt": prompt, "new": new, "repeat": repeat,
            "unit": "tokens of output per second: of the whole run, and (gen) while all answers ran; medians over runs", "rows": rows,
            "others": b.others("sweep")}


def ttft(b, requests=20):
    """Time to first token of a prompt of 128 on an idle engine."""
    r = b.run("-p", 128, "-n", 2, "-b", 1, "--requests", requests, "-r", 1)
    return {**b.header("ttft", r), "requests": requests, "ttft_ms": r["ttft_ms"], "graph_steps": r["graph_steps"], "others": b.others("ttft")}


def prefill(b, repeat=3):
    """64 prompts of 1,024 tokens: prompt tokens per second until the last first token."""
    n, tokens = (2, 64) if b.quick else (64, 1024)
    r = b.run("-p", tokens, "-n", 1, "-b", n, "-r", repeat)
    return {**b.header("prefill", r), "prompts": n, "tokens": tokens, "prompt_tokens_per_s": r["prompt_tokens_per_s"],
            "run_prompt_tokens_per_s": r["run_prompt_tokens_per_s"], "run_s": r["run_s"], "steps": r["steps"], "others": b.others("prefill")}


def cold(b, repeat=3):
    """Process start to the first token of an answer, the file's pages in memory. The first start is not counted."""
    runs, said = [], ""
    for i in range(repeat + 1):
        begin = time.monotonic()
        p = subprocess.Popen([b.nvllm, "-p", "Hello", "--raw", "-n", "1", *b.words()], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        p.stdout.read(1)  # or its end: a token need not be a whole character
        first = time.monotonic() - begin
        _, err = p.communicate()
        if p.returncode:
            raise Failed("exit %d: %s" % (p.returncode, err.decode(errors="replace").strip()[-800:]))
        said = err.decode(errors="replace")
        if i:
            runs.append({"first_token_s": round(first, 4), "exit_s": round(time.monotonic() - begin, 4),
                         "phases": "".join(re.findall(r"start: (.*)", said)[:1])})
    return {**b.header("cold", {"start": said}), "runs": runs, "first_token_s": statistics.median(r["first_token_s"] for r in runs),
            "others": b.others("cold")}


QUESTIONS = {"offline": offline, "sweep": sweep, "ttft": ttft, "prefill": prefill, "cold": cold}


def lines(out):
    """The table for people."""
    what, others = out["benchmark"], out["others"]
    text = ["%s, %s on %s" % (what, out["model"], out["device"] or "?")]
    if what == "offline":
        for i, r in enumerate(out["rows"]):
            peers = ", ".join("%s %s" % (k, "{:,}".format(v[i])) for k, v in others.items() if isinstance(v, list) and i < len(v))
            text.append("  seed %d: %s tok/s, %.3f s, %d steps, %d of graphs; %s" % (
                r["seed"], "{:,.0f}".format(r["run_output_tokens_per_s"]), r["run_s"], r["steps"], r["graph_steps"], peers or "no other figures"))
    elif what == "sweep":
        for r in out["rows"]:
            peers = ", ".join("%s %s" % (k, v[r["batch"]]) for k, v in others.items() if isinstance(v, dict) and r["batch"] in v)
            text.append("  batch %3d: %s tok/s of the run, %s while all ran; %s" % (
                r["batch"], "{:,.0f}".format(r["run_output_tokens_per_s"]), "{:,.0f}".format(r["gen_tokens_per_s"] or 0), peers))
    else:
        key = {"ttft": "ttft_ms", "prefill": "prompt_tokens_per_s", "cold": "first_token_s"}[what]
        text.append("  %s: %s; %s" % (key, out[key], ", ".join("%s %s" % kv for kv in others.items() if kv[0] != "source")))
        text += ["  " + r["phases"] for r in out.get("runs", [])[:1]]
    return "\n".join(text)


# ---- as parts of scripts/gpu-check ----

def part(rig, question, weights=False, **more):
    """On the device with Qwen3-0.6B's shape: weights made on the device, or those of a file."""
    import rig as shared
    folder, cpu = os.path.join(rig.scratch, "qwen3-0.6b"), rig.device == "cpu"
    layers = ["--layers", "2"] if cpu else []
    p = subprocess.run([os.path.join(ROOT, "scripts", "make-weights"), "Qwen3-0.6B", folder, *layers, *([] if weights else ["--no-weights"])],
                       capture_output=True, text=True)
    if p.returncode:
        raise shared.Failed("scripts/make-weights: " + p.stderr.strip()[-400:])
    sets = ["device.plugin=" + rig.device, "engine.max_model_len=4096"] + (["engine.memory=3G", "engine.max_seqs=16"] if cpu else [])
    try:
        out = QUESTIONS[question](Bench(rig.nvllm, "Qwen3-0.6B", folder, sets, quick=cpu), **more)
    except Failed as e:
        raise shared.Failed(str(e)) from None
    print(lines(out), flush=True)
    return out


def part_offline(rig):
    """nano-vLLM's workload, seeds 0, 1, 2."""
    return part(rig, "offline", **({"seeds": (0,)} if rig.device == "cpu" else {}))


def part_sweep(rig):
    """Prompt 128, 256 new tokens, batch 1 to 256."""
    return part(rig, "sweep", **({"batches": (1, 2), "repeat": 1} if rig.device == "cpu" else {}))


def part_ttft(rig):
    """Time to first token of a 128-token prompt on an idle engine."""
    return part(rig, "ttft", **({"requests": 2} if rig.device == "cpu" else {}))


def part_prefill(rig):
    """64 prompts of 1,024 tokens."""
    return part(rig, "prefill", **({"repeat": 1} if rig.device == "cpu" else {}))


def part_cold(rig):
    """Process start to first token, the checkpoint's pages in memory."""
    return part(rig, "cold", weights=True)
