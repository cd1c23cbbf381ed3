# SPDX-License-Identifier: MIT
"""What end-to-end tests share: the program under test, a tiny model, a scratch folder.

NVLLM is the program (default build/nvllm), NVLLM_MODEL a GGUF file (default the tiny
llama3 of tests/data: random weights, a context of 512 tokens, no download)."""
import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NVLLM = os.environ.get("NVLLM", os.path.join(ROOT, "build", "nvllm"))
MODEL = os.environ.get("NVLLM_MODEL", os.path.join(ROOT, "tests", "data", "gguf", "llama3.q8_0.gguf"))

CONF = """[engine]
max_seqs = 4
memory = 64M
seed = 1
[model]
path = %s
[chat]
plugin = chatml
"""


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
