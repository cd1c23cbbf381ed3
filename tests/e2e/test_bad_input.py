#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What bad input gets: a sentence that says what, where and what to do, the right exit code,
and nothing half-written. Each case is a whole run of the program.

Environment: NVLLM = the binary (default build/nvllm)."""
import json
import os
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NVLLM = os.environ.get("NVLLM", os.path.join(ROOT, "build", "nvllm"))
TINY = os.path.join(ROOT, "tests", "data", "gguf", "llama3.q8_0.gguf")
LLAMA2 = os.path.join(ROOT, "tests", "data", "gguf", "llama2.f16.gguf")


def run(*args, stdin=""):
    return subprocess.run([NVLLM, *args], input=stdin.encode() if isinstance(stdin, str) else stdin,
                          capture_output=True, timeout=120)


class Case(unittest.TestCase):
    def refused(self, args, words, code=1, stdin=""):
        p = run(*args, stdin=stdin)
        err = p.stderr.decode()
        self.assertEqual(p.returncode, code, "%s\n%s" % (args, err))
        self.assertEqual(p.stdout, b"", args)
        for w in words:
            self.assertIn(w, err, args)
        return err


class Configuration(Case):
    def ini(self, text, words):
        with tempfile.NamedTemporaryFile("w", suffix=".ini") as f:
            f.write(text)
            f.flush()
            return self.refused(["--config", f.name, "-p", "x"], words)

    def test_sections_and_keys(self):
        model = "[model]\npath = %s\n" % TINY
        self.ini(model + "[atention]\nplugin = paged\n", [":3:", "atention", "attention"])
        self.ini(model + "[attention]\npage_token = 4\n", [":4:", "page_token", "did you mean", "page_tokens"])
        self.ini(model + "[engine]\nmax_seq = 4\n", [":4:", "max_seqs"])
        self.ini(model + "[engine]\nmax_seqs = many\n", [":4:", "many"])
        self.ini(model + "[engine]\nmax_seqs = 0\n", [":4:", "1"])
        self.ini(model + "[engine]\nmax_seqs = 4\nmax_seqs = 5\n", [":5:", "max_seqs", "4"])
        self.ini(model + "[engine]\nkv_dtype = f17\n", [":4:", "f17", "f16"])
        self.ini(model + "[shell]\nnonsense = 1\n", [":4:", "nonsense"])
        self.ini(model + "[sampler]\ntemperature = hot\n", [":4:", "hot"])
        self.ini(model + "[sampler]\ntop_p = 2\n", [":4:", "top_p"])
        self.ini(model + "[engine]\nmemory = lots\n", [":4:", "lots"])

    def test_plugins(self):
        self.ini("[model]\npath = %s\n[attention]\nplugin = pagd\n" % TINY, ["pagd", "paged"])
        self.ini("[model]\npath = %s\n[attention]\nplugin = /nowhere/a.so\n" % TINY, ["/nowhere/a.so"])
        self.ini("[model]\npath = %s\n[attention]\nplugin = %s\n" % (TINY, TINY), [TINY])
        self.ini("[model]\npath = %s\nplugin = mamba\n" % TINY, ["mamba", "llama"])
        self.ini("[model]\npath = %s\n[device]\nisa = avx1024\n" % TINY, ["avx1024"])
        self.ini("[model]\npath = %s\n[engine]\ntp = 0\n" % TINY, [":4:", "tp", "1"])
        self.ini("[model]\npath = %s\n[comm]\nplugin = mpi\n" % TINY, ["mpi"])
        self.ini("[model]\npath = %s\n[comm]\nplugins = auto\n" % TINY, [":4:", "plugins", "plugin"])
        self.ini("[model]\npath = %s\n[graphs]\ncapture = never\n" % TINY, [":4:", "never", "lazy"])
        self.ini("[model]\npath = %s\n[graphs]\nsizes = 1 x\n" % TINY, [":4:", "x"])
        self.ini("[model]\npath = %s\n[chat]\nplugin = jinga\n" % TINY, ["jinga"])
        self.ini("[model]\npath = %s\n[cache]\nplugin = radixx\n" % TINY, ["radixx"])

    def test_config_file(self):
        self.refused(["--config", "/nowhere/x.ini", "-p", "x"], ["/nowhere/x.ini"])
        self.refused(["--config", ROOT, "-p", "x"], [ROOT])
        self.refused(["-p", "x"], ["model", "path"])


class Checkpoint(Case):
    def test_absent(self):
        err = self.refused(["--set", "model.path=/nowhere/m.gguf", "-p", "x"], ["/nowhere/m.gguf", "scripts/run"])
        self.assertIn("[model] path", err)

    def test_truncated(self):
        with open(TINY, "rb") as f:
            data = f.read()
        with tempfile.TemporaryDirectory() as d:
            for n in (0, 3, 20, 1000, len(data) // 2, len(data) - 1):
                path = os.path.join(d, "cut.gguf")
                with open(path, "wb") as f:
                    f.write(data[:n])
                self.refused(["--set", "model.path=" + path, "-p", "x"], ["cut.gguf"])

    def test_wrong_tokenizer(self):
        self.refused(["--set", "model.path=" + LLAMA2, "-p", "x"], ["tokenizer"])

    def test_memory(self):
        self.refused(["--set", "model.path=" + TINY, "--set", "engine.memory=600K", "-p", "x"],
                     ["not enough memory", "weights", "[engine] memory"])
        # a long context does not fit: the model's own is lowered, one asked for is refused
        self.refused(["--set", "model.path=" + TINY, "--set", "engine.memory=8M", "--set", "engine.max_model_len=100000",
                      "-p", "x"], ["not enough memory", "max_model_len"])

    def test_check_reads_no_weights(self):
        p = run("--check", "--set", "model.path=" + TINY)
        self.assertEqual((p.returncode, p.stderr), (0, b""), p.stderr)


class Requests(Case):
    model = ["--set", "model.path=" + TINY, "--log-level", "warn", "--raw"]

    def test_context(self):
        self.refused([*self.model, "-p", "word " * 4000], ["context"])
        self.refused([*self.model, "-p", "a b c", "-n", "100000"], ["max_tokens", "context"])

    def test_text(self):
        self.refused(self.model, ["UTF-8"], stdin=b"caf\xe9")
        self.refused(self.model, [], stdin=b"")

    def test_sampler(self):
        self.refused([*self.model, "-p", "x", "--temp", "-3"], ["temperature"])
        self.refused([*self.model, "-p", "x", "--temp", "nan"], ["temperature"])
        self.refused([*self.model, "-p", "x", "--top-p", "0"], ["top_p"])

    def test_batch_lines(self):
        """Bad lines get their own errors and harm no other."""
        good = {"custom_id": "good", "method": "POST", "url": "/v1/completions",
                "body": {"model": "m", "prompt": "The", "max_tokens": 4, "temperature": 0, "ignore_eos": True}}
        bad = {
            "id range": {"prompt": [0, 99999]}, "id negative": {"prompt": [-1]}, "empty": {"prompt": []},
            "too long": {"prompt": [1] * 600}, "max_tokens": {"max_tokens": 100000}, "zero": {"max_tokens": 0},
            "temperature": {"temperature": -1}, "top_p": {"top_p": 1.5}, "min_p": {"min_p": -1}, "top_k": {"top_k": -2},
            "logprobs": {"logprobs": 1000}, "unknown": {"temprature": 1}, "stop": {"stop": ""}, "type": {"max_tokens": "4"},
            "n": {"n": 129}, "salt": {"cache_salt": ""}, "priority": {"priority": 0.5}, "not there": {"frequency_penalty": 1},
        }
        with tempfile.TemporaryDirectory() as d:
            src, dst = os.path.join(d, "in.jsonl"), os.path.join(d, "out.jsonl")
            with open(src, "wb") as f:
                f.write(json.dumps(good).encode() + b"\n")
                for name, change in bad.items():
                    f.write(json.dumps({**good, "custom_id": name, "body": {**good["body"], **change}}).encode() + b"\n")
                f.write(b"{not json\n\xff\xfe\n" + json.dumps({**good, "custom_id": "last"}).encode() + b"\n")
            p = run("batch", "-i", src, "-o", dst, "--set", "model.path=" + TINY, "--log-level", "error")
            self.assertEqual(p.returncode, 1, p.stderr)
            with open(dst, encoding="utf-8") as f:
                out = [json.loads(line) for line in f]
        self.assertEqual(len(out), len(bad) + 4)
        texts = [r["response"]["body"]["choices"][0]["text"] for r in (out[0], out[-1])]
        self.assertEqual(texts[0], texts[1])
        for r in out[1:-1]:
            status = r["response"]["status_code"] if r["response"] else 400
            self.assertEqual(status, 400, r)
            self.assertTrue(r["error"]["message"], r)


class Usage(Case):
    def test_options(self):
        self.refused(["--confg", "x"], ["--confg", "--config"], code=2)
        self.refused(["frobnicate"], ["frobnicate"], code=2)
        self.refused(["--set"], ["--set"], code=2)
        self.refused(["--set", "nonsense", "-p", "x"], ["nonsense"], code=2)
        self.refused(["--config"], ["--config"], code=2)


if __name__ == "__main__":
    unittest.main()
