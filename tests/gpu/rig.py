# SPDX-License-Identifier: MIT
"""What the parts of scripts/gpu-check share: the device under test, runs of nvllm on it, the
references of tests/data, and the rule by which two greedy answers are the same."""
import concurrent.futures
import json
import os
import random
import shutil
import struct
import subprocess
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.path.join(ROOT, "tests", "data")
NAMES = ["qwen3-tied-bf16", "qwen3-untied-f32-sharded", "llama3-bf16", "llama2-f16", "qwen2-bf16", "mistral-swa-bf16",
         "qwen3-moe-bf16", "gemma3-text-bf16"]
EXACT = ["device.activations=f32", "engine.kv_dtype=f32"]
CLOSE = 0.01  # logits nearer than this may change places between two exact runs


class Failed(Exception):
    """A check that did not hold; its text is the reason."""


class Skipped(Exception):
    """A part that cannot run here."""


class Rig:
    """The device, the build folder, and a scratch folder."""

    def __init__(self, build, device):
        self.build, self.device = os.path.abspath(build), device
        self.nvllm = os.path.join(self.build, "nvllm")
        self.scratch = tempfile.mkdtemp(prefix="nvllm-gpu-")
        self.at_once = 1 if device == "cpu" else 4  # processes: most of the time of a small run is its start
        self.facts = {}

    def close(self):
        shutil.rmtree(self.scratch, ignore_errors=True)

    def sets(self, more=(), device=None):
        device = device or self.device
        own = ["device.plugin=" + device] + (["device.threads=1"] if device == "cpu" == self.device else [])
        return [w for s in own + list(more) for w in ("--set", s)]

    def why_not(self):
        """None, or why there is no such device here."""
        if not os.path.exists(self.nvllm):
            return "no program %s: build it first" % self.nvllm
        if self.device == "cpu":
            return None
        so = os.path.join(self.build, "backends", "cuda", "device_cuda.so")
        if not os.path.exists(so):
            return "no CUDA device: the build folder has no device_cuda.so"
        p = self.run("-p", "x", "--raw", "-n", "1", "--set", "model.path=" + checkpoint("llama3-bf16"),
                     *self.sets(["engine.memory=1G"]), check=False)
        text = (p.stderr.strip() or "no sentence").splitlines()
        return None if p.returncode == 0 else "no CUDA device: " + text[-1]

    def run(self, *words, check=True, stdin=None, timeout=500):
        p = subprocess.run([self.nvllm, *map(str, words)], input=stdin, capture_output=True, text=True, timeout=timeout,
                           errors="replace", cwd=ROOT)
        if check and p.returncode:
            raise Failed("exit %d of %s: %s" % (p.returncode, " ".join(p.args[:2]), p.stderr.strip()[-600:]))
        return p

    def batch(self, model, bodies, sets=(), memory="1G", prefix=(), device=None):
        """Bodies of completions through the batch front end; their choices, a list each. prefix: words
        before the program, as compute-sanitizer's."""
        with tempfile.TemporaryDirectory(dir=self.scratch) as d:
            src, dst = os.path.join(d, "in.jsonl"), os.path.join(d, "out.jsonl")
            with open(src, "w") as f:
                for i, body in enumerate(bodies):
                    f.write(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}) + "\n")
            words = ["batch", "-i", src, "-o", dst, "--log-level", "warn", "--set", "model.path=" + model,
                     *self.sets(["engine.memory=" + memory, *sets], device)]
            p = subprocess.run([*prefix, self.nvllm, *words], capture_output=True, text=True, timeout=500, errors="replace")
            if p.returncode:
                raise Failed("exit %d: %s" % (p.returncode, (p.stderr + (p.stdout if prefix else "")).strip()[-1500:]))
            with open(dst) as f:
                out = [json.loads(line) for line in f]
        for a in out:
            if a["error"] is not None:
                raise Failed(a["error"]["message"])
        return [a["response"]["body"]["choices"] for a in out]

    def many(self, jobs):
        """jobs: {name: function}. Runs them, some at once; their results by name. The first failure is
        raised with its name."""
        with concurrent.futures.ThreadPoolExecutor(self.at_once) as pool:
            running = {name: pool.submit(fn) for name, fn in jobs.items()}
            out = {}
            for name, f in running.items():
                try:
                    out[name] = f.result()
                except Failed as e:
                    for g in running.values():
                        g.cancel()
                    raise Failed("%s: %s" % (name, e)) from None
            return out


# ---- references ----

def checkpoint(name):
    return os.path.join(DATA, "checkpoints", name)


def goldens(name):
    """One dict a prompt: prompt_ids, and of float32 greedy_ids, margins, log probabilities."""
    with open(os.path.join(DATA, "goldens", name, "goldens.jsonl"), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def npy(path):
    """A little-endian float32 .npy of version 1.0, flat."""
    with open(path, "rb") as f:
        raw = f.read()
    body = raw[10 + struct.unpack("<H", raw[8:10])[0]:]
    return struct.unpack("<%df" % (len(body) // 4), body)


def records(path):
    """What sampler_record kept: {(seed, position): logits}."""
    with open(path, "rb") as f:
        raw = f.read()
    vocab, n, lost = struct.unpack_from("<3q", raw)
    if lost:
        raise Failed("%d rows of logits did not fit" % lost)
    size = (16 + 4 * vocab + 7) // 8 * 8
    out = {}
    for i in range(n):
        at = 24 + i * size
        out[struct.unpack_from("<2Q", raw, at)] = struct.unpack_from("<%df" % vocab, raw, at + 16)
    return out


# ---- requests ----

def ask(ids, length, **more):
    return {"prompt": list(ids), "max_tokens": length, "temperature": 0, "ignore_eos": True, "return_token_ids": True, **more}


def parted(got, want, margins, limit=CLOSE):
    """None where got is want, or parts from it first where the reference's two likeliest were closer than
    limit; else a sentence. Returns (sentence or None, step or None)."""
    at = next((i for i in range(len(want)) if i >= len(got) or got[i] != want[i]), None)
    if at is None or (at < len(got) and margins[at] < limit):
        return None, at
    return "token %d is %s, not %d, at a margin of %g" % (at, got[at] if at < len(got) else "missing", want[at],
                                                         margins[at]), at


def random_ids(n, vocab, seed):
    r = random.Random(seed)
    return [r.randrange(1, vocab) for _ in range(n)]
