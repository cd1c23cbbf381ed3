#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The same checkpoint as a Hugging Face folder and converted to GGUF gives the same ids, tokens
and log probabilities, on each family that GGUF covers; quantised files agree with what Hugging
Face transformers computes on their dequantised weights; a model in parts is the model.

Environment: NVLLM = the binary (default build/nvllm); NVLLM_GOLDEN=short thins it, for builds
with sanitizers."""
import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import to_gguf

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA = os.path.join(ROOT, "tests", "data")
NVLLM = os.environ.get("NVLLM", os.path.join(ROOT, "build", "nvllm"))
SHORT = os.environ.get("NVLLM_GOLDEN") == "short"
EXACT = ["device.activations=f32", "engine.kv_dtype=f32", "engine.max_model_len=512", "engine.memory=256M"]
TEXTS = ["", "Hello", " two  spaces\n\n\tand 12345 numbers, it's", "naïve café – 東京 🦙 ½", "<|im_start|>user\nhi<|im_end|>",
         "<s> </s> <0x41>", "x" * 50 + "\r\n   end "]


def checkpoint(name):
    return os.path.join(DATA, "checkpoints", name)


def goldens(name, n):
    """What Hugging Face transformers says of the folder in float32."""
    with open(os.path.join(DATA, "goldens", name, "goldens.jsonl"), encoding="utf-8") as f:
        return [json.loads(line) for line in f][:n]


def prompts(name, n):
    return [g["prompt_ids"] for g in goldens(name, n)]


def quantised():
    with lzma.open(os.path.join(DATA, "gguf", "goldens", "quantised.json.xz"), "rt") as f:
        return json.load(f)


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="nvllm-gguf-")
        self.addCleanup(shutil.rmtree, self.dir)

    def run_nvllm(self, *words, stdin=None, code=0):
        p = subprocess.run([NVLLM, *words], input=stdin, stdin=subprocess.DEVNULL if stdin is None else None,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
        self.assertEqual(p.returncode, code, p.stderr.decode(errors="replace"))
        return p

    def batch(self, model, prompts_, n=64):
        """Greedy choices and the 20 likeliest tokens after each prompt, in one run."""
        src, dst = os.path.join(self.dir, "in.jsonl"), os.path.join(self.dir, "out.jsonl")
        if os.path.exists(dst):
            os.remove(dst)
        with open(src, "w", encoding="utf-8") as f:
            for i, p in enumerate(prompts_):
                body = {"model": "m", "prompt": p, "max_tokens": n, "temperature": 0, "ignore_eos": True,
                        "return_token_ids": True, "logprobs": 20}
                f.write(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": body}) + "\n")
        words = ["batch", "-i", src, "-o", dst, "--set", "model.path=" + model, "--log-level", "warn"]
        for s in EXACT:
            words += ["--set", s]
        self.run_nvllm(*words)
        with open(dst, encoding="utf-8") as f:
            return [json.loads(line)["response"]["body"]["choices"][0] for line in f]

    def convert(self, folder, kind, split=0):
        return to_gguf.write(to_gguf.convert(folder, kind), os.path.join(self.dir, "%s.gguf" % kind), split)

    def variant(self, name, **changes):
        """A copy of a checkpoint with other values in its config.json."""
        to = os.path.join(self.dir, "variant")
        shutil.copytree(checkpoint(name), to)
        path = os.path.join(to, "config.json")
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
        with open(path, "w", encoding="utf-8") as f:
            json.dump({**config, **changes}, f)
        return to

    def same(self, a, b, who):
        for i, (x, y) in enumerate(zip(a, b)):
            self.assertEqual(x["token_ids"], y["token_ids"], "%s, prompt %d" % (who, i))
            for p, q in zip(x["logprobs"]["token_logprobs"], y["logprobs"]["token_logprobs"]):
                self.assertLess(abs(p - q), 1e-3, "%s, prompt %d" % (who, i))

    def same_model(self, folder, ids, kinds):
        want = self.batch(folder, ids)
        for kind in kinds:
            self.same(self.batch(self.convert(folder, kind), ids), want, "%s as %s" % (os.path.basename(folder), kind))
        return want


class Families(Case):
    """Own: the type of the folder's weights, which the conversion keeps bit for bit."""

    def check(self, name, own):
        kinds = [own] if SHORT or own == "f32" else [own, "f32"]
        golden = goldens(name, 2 if SHORT else 6)
        out = self.same_model(checkpoint(name), [g["prompt_ids"] for g in golden], kinds)
        self.assertEqual([c["token_ids"] for c in out], [g["f32"]["greedy_ids"] for g in golden], name)

    def test_llama2(self):
        self.check("llama2-f16", "f16")

    def test_llama3(self):
        self.check("llama3-bf16", "bf16")

    def test_qwen2(self):
        self.check("qwen2-bf16", "bf16")

    def test_qwen3(self):
        self.check("qwen3-tied-bf16", "bf16")

    @unittest.skipIf(SHORT, "skipped: short run")
    def test_qwen3_untied(self):
        self.check("qwen3-untied-f32-sharded", "f32")

    def test_qwen3_moe(self):
        self.check("qwen3-moe-bf16", "bf16")

    def test_gemma3(self):
        self.check("gemma3-text-bf16", "bf16")


class Variants(Case):
    """What real files have and the checkpoints here have not."""

    def check(self, name, kind, **changes):
        folder, ids = self.variant(name, **changes), prompts(name, 2)
        self.same_model(folder, ids, [kind])
        plain, other = self.batch(checkpoint(name), ids), self.batch(folder, ids)
        self.assertNotEqual([c["token_ids"] for c in plain], [c["token_ids"] for c in other], "the change changes nothing")

    def test_yarn(self):
        self.check("qwen3-tied-bf16", "bf16", rope_scaling={
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 16.0})

    @unittest.skipIf(SHORT, "skipped: short run")
    def test_yarn_attention_factor(self):
        self.check("qwen2-bf16", "bf16", rope_scaling={
            "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "attention_factor": 1.5})

    @unittest.skipIf(SHORT, "skipped: short run")
    def test_linear(self):
        self.check("llama2-f16", "f16", rope_scaling={"rope_type": "linear", "factor": 4.0})

    @unittest.skipIf(SHORT, "skipped: short run")
    def test_gemma3_pattern_bases_and_scaling(self):
        self.check("gemma3-text-bf16", "bf16", sliding_window_pattern=3, rope_local_base_freq=5000, query_pre_attn_scalar=40,
                   rope_scaling={"rope_type": "linear", "factor": 8.0})

    @unittest.skipIf(SHORT, "skipped: short run")
    def test_gemma3_without_window(self):
        self.check("gemma3-text-bf16", "bf16", sliding_window_pattern=1)


class Quantised(Case):
    """Against Hugging Face transformers in float32 on the dequantised weights."""

    def check(self, name):
        ckpt, kind = name.split(".")
        folder = next(checkpoint(n) for n in os.listdir(os.path.join(DATA, "checkpoints")) if n.startswith(ckpt + "-"))
        golden = quantised()[name][:2 if SHORT else 6]
        path = self.convert(folder, kind)
        for g, c in zip(golden, self.batch(path, [g["prompt_ids"] for g in golden])):
            self.assertEqual(c["token_ids"], g["greedy_ids"], "%s %s" % (name, g["id"]))
        worst = 0
        for g, first in zip(golden, self.first(path, golden)):
            got = {int(t): e["logprob"] for t, e in first.items()}
            for token, logprob in g["logprobs"][:15]:  # the last may change places
                worst = max(worst, abs(got[token] - logprob))
        self.assertLess(worst, 1e-3, name)
        print("%s: largest error of a log probability %.6f" % (name, worst), file=sys.stderr)

    def first(self, path, golden):
        """The 20 likeliest tokens after each prompt, by id."""
        src, dst = os.path.join(self.dir, "first.jsonl"), os.path.join(self.dir, "first.out")
        with open(src, "w", encoding="utf-8") as f:
            for g in golden:
                body = {"model": "m", "prompt": g["prompt_ids"] + g["greedy_ids"][:1], "max_tokens": 1, "temperature": 0,
                        "prompt_logprobs": 20}
                f.write(json.dumps({"custom_id": g["id"], "method": "POST", "url": "/v1/completions", "body": body}) + "\n")
        words = ["batch", "-i", src, "-o", dst, "--set", "model.path=" + path, "--log-level", "warn"]
        for s in EXACT:
            words += ["--set", s]
        self.run_nvllm(*words)
        with open(dst, encoding="utf-8") as f:
            choices = [json.loads(line)["response"]["body"]["choices"][0] for line in f]
        return [c["prompt_logprobs"][len(g["prompt_ids"])] for g, c in zip(golden, choices)]

    def test_qwen3_moe_q8_0(self):
        self.check("qwen3-moe.q8_0")

    def test_qwen3_q5_1(self):
        self.check("qwen3-tied.q5_1")

    @unittest.skipIf(SHORT, "skipped: short run")
    def test_qwen3_q4_0(self):
        self.check("qwen3-tied.q4_0")

    @unittest.skipIf(SHORT, "skipped: short run")
    def test_qwen3_q8_0(self):
        self.check("qwen3-tied.q8_0")

    @unittest.skipIf(SHORT, "skipped: short run")
    def test_qwen2_q8_0(self):
        self.check("qwen2.q8_0")

    @unittest.skipIf(SHORT, "skipped: short run")
    def test_llama2_q5_0(self):
        self.check("llama2.q5_0")


class Parts(Case):
    def test_parts(self):
        """Three parts, by the first's name or another's, are the model; without the third there is none."""
        folder, ids = checkpoint("qwen3-moe-bf16"), prompts("qwen3-moe-bf16", 2)
        want = self.batch(self.convert(folder, "bf16"), ids, 16)
        first = self.convert(folder, "bf16", split=3)
        self.assertTrue(first.endswith("bf16-00001-of-00003.gguf"))
        os.remove(os.path.join(self.dir, "bf16.gguf"))
        for path in (first, first.replace("-00001-", "-00002-")):
            self.same(self.batch(path, ids, 16), want, path)
        os.remove(first.replace("-00001-", "-00003-"))
        p = self.run_nvllm("batch", "-i", os.path.join(self.dir, "in.jsonl"), "-o", os.path.join(self.dir, "none"), "--set",
                           "model.path=" + first, code=1)
        self.assertIn(b"bf16-00003-of-00003.gguf: no such file: it is part 3 of 3 of the model", p.stderr)


class Tokens(Case):
    """The vocabulary's two forms give the same ids and the same text back."""

    def check(self, name):
        path = self.convert(checkpoint(name), "bf16")
        texts = "".join(json.dumps(t) + "\n" for t in TEXTS).encode()
        for flags in ([], ["--no-special"]):
            want = self.run_nvllm("tokenize", checkpoint(name), *flags, stdin=texts).stdout
            self.assertEqual(self.run_nvllm("tokenize", path, *flags, stdin=texts).stdout, want, name)
        back = self.run_nvllm("detokenize", path, stdin=want).stdout
        self.assertEqual(self.run_nvllm("detokenize", checkpoint(name), stdin=want).stdout, back, name)

    def test_qwen3(self):
        self.check("qwen3-tied-bf16")

    def test_llama3(self):
        self.check("llama3-bf16")

    def test_llama2(self):
        self.check("llama2-f16")

    def test_gemma3(self):
        self.check("gemma3-text-bf16")


if __name__ == "__main__":
    unittest.main()
