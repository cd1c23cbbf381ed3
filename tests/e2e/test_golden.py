#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The model's answers against Hugging Face transformers: SmolLM2-135M-Instruct and the tiny
checkpoints. References were made in float32 on dequantised weights.

Environment: NVLLM = the binary (default build/nvllm); NVLLM_GOLDEN=short leaves out the perplexities and all but two
of SmolLM2's prompts, for builds with sanitizers, which are several times slower."""
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.path.join(ROOT, "tests", "data")
NVLLM = os.environ.get("NVLLM", os.path.join(ROOT, "build", "nvllm"))
MODEL = os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
SHORT = os.environ.get("NVLLM_GOLDEN") == "short"
EXACT = ["device.activations=f32", "engine.kv_dtype=f32"]


def read_json(*path):
    with open(os.path.join(DATA, *path), encoding="utf-8") as f:
        return json.load(f)


def batch(model, bodies, sets=()):
    """Runs completions through the batch front end; returns the choices in order."""
    with tempfile.TemporaryDirectory() as d:
        src, dst = os.path.join(d, "in.jsonl"), os.path.join(d, "out.jsonl")
        with open(src, "w") as f:
            for i, body in enumerate(bodies):
                f.write(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions",
                                    "body": {"model": "m", **body}}) + "\n")
        cmd = [NVLLM, "batch", "-i", src, "-o", dst, "--set", "model.path=" + model, "--log-level", "warn"]
        for s in sets:
            cmd += ["--set", s]
        p = subprocess.run(cmd, capture_output=True, text=True)
        if p.returncode:
            raise AssertionError("exit %d: %s" % (p.returncode, p.stderr))
        with open(dst) as f:
            return [json.loads(line)["response"]["body"]["choices"][0] for line in f]


def npy(path):
    """A little-endian float32 .npy of one dimension."""
    with open(path, "rb") as f:
        raw = f.read()
    n = struct.unpack("<H", raw[8:10])[0]
    body = raw[10 + n:]
    return struct.unpack("<%df" % (len(body) // 4), body)


def own_logprob(entry, token):
    return entry[str(token)]["logprob"]


@unittest.skipUnless(os.path.exists(MODEL), "skipped: the model is not there (scripts/test fetches it)")
class SmolLM2(unittest.TestCase):
    golden = read_json("smollm2", "golden_smollm2_public.json")["prompts"][:2 if SHORT else None]
    ppl = read_json("smollm2", "ppl_reference.json")["results"][0]

    def greedy(self, sets):
        return batch(MODEL, [{"prompt": p["prompt_ids"], "max_tokens": len(p["greedy"]["ids"]), "temperature": 0,
                              "ignore_eos": True, "return_token_ids": True, "logprobs": 20}
                             for p in self.golden], sets)

    def test_exact_greedy_and_logits(self):
        """All 12 continuations, and the 20 largest logits within 1e-3, on each attention plugin."""
        largest = 0
        for attention in ("paged", "naive"):
            for p, c in zip(self.golden, self.greedy(EXACT + ["attention.plugin=" + attention])):
                self.assertEqual(c["token_ids"], p["greedy"]["ids"], p["id"])
            for p, e in zip(self.golden, self.first_top(EXACT + ["attention.plugin=" + attention])):
                worst = 0
                for want in p["top20"]:
                    self.assertIn(str(want["id"]), e, p["id"])
                    worst = max(worst, abs(e[str(want["id"])]["logprob"] + p["last_logsumexp"] - want["logit"]))
                self.assertLess(worst, 1e-3, p["id"])
                largest = max(largest, worst)
        print("largest error of a top-20 logit: %.6f" % largest, file=sys.stderr)

    def first_top(self, sets):
        """The 20 likeliest tokens after each prompt: asked as prompt log probabilities of one token more."""
        out = batch(MODEL, [{"prompt": p["prompt_ids"] + [p["greedy"]["ids"][0]], "max_tokens": 1, "temperature": 0,
                             "prompt_logprobs": 20} for p in self.golden], sets)
        return [c["prompt_logprobs"][len(p["prompt_ids"])] for p, c in zip(self.golden, out)]

    def perplexity(self, sets):
        """llama-perplexity's protocol: windows of 512 without BOS, tokens 257..511 of each are scored."""
        with open(os.path.join(DATA, "smollm2", "ppl_text.txt"), encoding="utf-8") as f:
            text = f.read()
        ids = json.loads(subprocess.run([NVLLM, "tokenize", MODEL, "--no-special"], input=json.dumps(text) + "\n",
                                        capture_output=True, text=True, check=True).stdout)
        self.assertEqual(len(ids), self.ppl["n_tokens"])
        windows = [ids[i * 512:(i + 1) * 512] for i in range(self.ppl["chunks"])]
        out = batch(MODEL, [{"prompt": w, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0} for w in windows], sets)
        nll, n = 0.0, 0
        for w, c in zip(windows, out):
            for i in range(257, 512):
                nll -= own_logprob(c["prompt_logprobs"][i], w[i])
                n += 1
        self.assertEqual(n, self.ppl["scored"])
        return math.exp(nll / n)

    @unittest.skipIf(SHORT, "skipped: short run")
    def test_exact_perplexity(self):
        got, want = self.perplexity(EXACT), self.ppl["ppl_llamacpp_protocol"]
        print("perplexity, exact: %.4f, reference %.4f" % (got, want), file=sys.stderr)
        self.assertLess(abs(got - want) / want, 1e-4)

    def parts_little(self, what, sets):
        """At most half of the continuations part, and only at margins below 0.35."""
        parted = []
        for p, c in zip(self.golden, self.greedy(sets)):
            ids = p["greedy"]["ids"]
            at = next((i for i, (a, b) in enumerate(zip(c["token_ids"], ids)) if a != b), None)
            if at is not None:
                parted.append((p["id"], at, p["greedy"]["margins"][at]))
        print("%s activations part in %d of %d: %s" % (what, len(parted), len(self.golden), parted), file=sys.stderr)
        self.assertLessEqual(len(parted), len(self.golden) // 2)
        for who, at, margin in parted:
            self.assertLess(margin, 0.35, "%s at step %d" % (who, at))

    def perplexity_is_near(self, what, sets):
        got, want = self.perplexity(sets), self.ppl["ppl_llamacpp_protocol"]
        print("perplexity, %s activations: %.4f, reference %.4f" % (what, got, want), file=sys.stderr)
        self.assertLess(abs(got - want) / want, 5e-3)

    def test_default_greedy(self):
        self.parts_little("default", [])

    @unittest.skipIf(SHORT, "skipped: short run")
    def test_default_perplexity(self):
        self.perplexity_is_near("default", [])

    @unittest.skipIf(SHORT, "skipped: short run")
    def test_q12(self):
        """The default where the CPU has AMX, on any CPU."""
        self.parts_little("q12", ["device.activations=q12"])
        self.perplexity_is_near("q12", ["device.activations=q12"])

    def test_capital(self):
        p = subprocess.run([NVLLM, "--config", os.path.join(ROOT, "conf", "smollm2.ini"), "--set", "model.path=" + MODEL,
                            "-p", "What is the capital of France?", "--temp", "0", "-n", "32"],
                           capture_output=True, text=True)
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertIn("Paris", p.stdout)


class Tiny(unittest.TestCase):
    """llama3 rope scaling, a vocabulary that nothing divides, Q4_1 and Q8_0 weights."""

    def check(self, name):
        path = os.path.join(DATA, "gguf", name + ".gguf")
        with open(os.path.join(DATA, "gguf", "goldens", name, "goldens.jsonl"), encoding="utf-8") as f:
            golden = [json.loads(line) for line in f]
        for attention in ("paged", "naive"):
            sets = EXACT + ["attention.plugin=" + attention, "engine.max_tokens=7"]
            out = batch(path, [{"prompt": g["prompt_ids"], "max_tokens": len(g["greedy_ids"]), "temperature": 0,
                                "ignore_eos": True, "return_token_ids": True} for g in golden], sets)
            for g, c in zip(golden, out):
                self.assertEqual(c["token_ids"], g["greedy_ids"], "%s %s" % (name, g["id"]))
            # every logit after the prompt: by the log probability of the 20 likeliest
            out = batch(path, [{"prompt": g["prompt_ids"] + [g["greedy_ids"][0]], "max_tokens": 1, "temperature": 0,
                                "prompt_logprobs": 20} for g in golden], sets)
            for g, c in zip(golden, out):
                logits = npy(os.path.join(DATA, "gguf", "goldens", name, g["id"] + ".f32.npy"))
                top = max(logits)
                lse = top + math.log(sum(math.exp(x - top) for x in logits))
                for token, e in c["prompt_logprobs"][len(g["prompt_ids"])].items():
                    self.assertLess(abs(e["logprob"] - (logits[int(token)] - lse)), 1e-3, "%s %s" % (name, g["id"]))

    def test_llama3_q8_0(self):
        self.check("llama3.q8_0")

    def test_llama3_q4_1(self):
        self.check("llama3.q4_1")


if __name__ == "__main__":
    unittest.main()
