# SPDX-License-Identifier: MIT
"""What end-to-end tests share: the program under test, a tiny model, a scratch folder.

NVLLM is the program (default build/nvllm), NVLLM_MODEL a GGUF file (default the tiny
llama3 of tests/data: random weights, a context of 512 tokens, no download)."""
import json
import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NVLLM = os.environ.get("NVLLM", os.path.join(ROOT, "build", "nvllm"))
MODEL = os.environ.get("NVLLM_MODEL", os.path.join(ROOT, "tests", "data", "gguf", "llama3.q8_0.gguf"))

CHECKPOINTS = os.path.join(ROOT, "tests", "data", "checkpoints")
GOLDENS = os.path.join(ROOT, "tests", "data", "goldens")
SHORT = os.environ.get("NVLLM_GOLDEN") == "short"  # builds with sanitizers are several times slower
EXACT = ["device.activations=f32", "engine.kv_dtype=f32"]

CONF = """[engine]
max_seqs = 4
memory = 64M
seed = 1
[model]
path = %s
[chat]
plugin = chatml
"""


def run(*words, stdin=b""):
    """nvllm with these words; output as bytes."""
    return subprocess.run([NVLLM, *words], input=stdin, capture_output=True, timeout=300)


def goldens(name):
    """What the reference says of a checkpoint of tests/data: one dict a prompt."""
    with open(os.path.join(GOLDENS, name, "goldens.jsonl"), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def batch(model, bodies, sets=(), code=0):
    """Bodies through the batch front end, chats those with messages; the whole answers, in order."""
    with tempfile.TemporaryDirectory(prefix="nvllm-e2e-") as d:
        src, dst = os.path.join(d, "in.jsonl"), os.path.join(d, "out.jsonl")
        with open(src, "w") as f:
            for i, body in enumerate(bodies):
                url = "/v1/chat/completions" if "messages" in body else "/v1/completions"
                f.write(json.dumps({"custom_id": str(i), "method": "POST", "url": url, "body": body}) + "\n")
        p = run("batch", "-i", src, "-o", dst, "--set", "model.path=" + model, "--set", "engine.memory=256M",
                "--set", "device.threads=1", "--log-level", "warn", *(w for s in sets for w in ("--set", s)))
        if p.returncode != code:
            raise AssertionError("exit %d: %s" % (p.returncode, p.stderr.decode(errors="replace")))
        with open(dst) as f:
            return [json.loads(line) for line in f]


def bodies_of(answers):
    """The bodies of answers that must all be good."""
    for a in answers:
        if a["error"] is not None:
            raise AssertionError(a["error"]["message"])
    return [a["response"]["body"] for a in answers]


class Case(unittest.TestCase):
    """A test with a folder of its own and a configuration for the tiny model in it."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="nvllm-e2e-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.conf = self.write("conf.ini", CONF % MODEL)

    def path(self, name):
        return os.path.join(self.dir, name)

    def write(self, name, data):
        with open(self.path(name), "wb") as f:
            f.write(data.encode() if isinstance(data, str) else data)
        return self.path(name)

    def read(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def command(self, *words):
        """nvllm with the configuration, and one thread: small and the same everywhere."""
        front = [words[0]] if words and words[0] == "batch" else []
        return [NVLLM, *front, "--config", self.conf, "--set", "device.threads=1", *words[len(front):]]

    def nvllm(self, *words, stdin=None, code=0):
        """Runs it to its end; the exit code must be as given. Output as bytes."""
        p = subprocess.run(self.command(*words), input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
        self.assertEqual(p.returncode, code, p.stderr.decode(errors="replace"))
        return p
