#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Each family's tiny checkpoint, as a Hugging Face folder, against transformers in float32: the ids
of its prompts, 64 greedy tokens, log probabilities within 1e-3 of prompt and answer, where it
ends, what its generation config says. Every logit, on more arms: tests/unit/test_families.c.

NVLLM_GOLDEN=short: one arm a checkpoint, and every other checkpoint for what is no family's own."""
import json
import os
import tempfile
import unittest

import common
import to_gguf
from common import CHECKPOINTS, EXACT, SHORT, batch, bodies_of, goldens

NAMES = ["qwen3-tied-bf16", "qwen3-untied-f32-sharded", "llama3-bf16", "llama2-f16", "qwen2-bf16", "mistral-swa-bf16",
         "qwen3-moe-bf16", "gemma3-text-bf16"]
SOME = NAMES[1::2] if SHORT else NAMES
ARMS = [["engine.max_tokens=7"], ["attention.plugin=naive", "engine.tp=2"]]
GREEDY = {"temperature": 0, "return_token_ids": True}


def folder(name):
    return os.path.join(CHECKPOINTS, name)


def config(name, file):
    with open(os.path.join(folder(name), file), encoding="utf-8") as f:
        return json.load(f)


def greedy(model, golden, sets, **more):
    """The choice of each prompt's greedy answer."""
    out = batch(model, [{"prompt": g["prompt_ids"], "max_tokens": len(g["f32"]["greedy_ids"]), **GREEDY, **more}
                        for g in golden], EXACT + sets)
    return [b["choices"][0] for b in bodies_of(out)]


class Families(unittest.TestCase):
    def near(self, got, want, where):
        self.assertEqual(len(got), len(want), where)
        for i, (g, w) in enumerate(zip(got, want)):
            self.assertEqual(g is None, w is None, where)
            if w is not None:
                self.assertLess(abs(g - w), 1e-3, "%s, log probability %d" % (where, i))

    def test_greedy_and_logprobs(self):
        for k, name in enumerate(NAMES):
            for sets in [ARMS[k % 2]] if SHORT else ARMS:
                golden = goldens(name)
                for g, c in zip(golden, greedy(folder(name), golden, sets, ignore_eos=True, logprobs=0, prompt_logprobs=0)):
                    where = "%s %s %s" % (name, g["id"], sets)
                    self.assertEqual(c["token_ids"], g["f32"]["greedy_ids"], where)
                    self.near(c["logprobs"]["token_logprobs"], g["f32"]["greedy_logprobs"], where)
                    own = [e and e[str(t)]["logprob"] for e, t in zip(c["prompt_logprobs"], g["prompt_ids"])]
                    self.near(own, g["f32"]["prompt_logprobs"], where + " prompt")

    def test_ends(self):
        """The first end token ends the answer: any of the list in generation_config.json."""
        ended = 0
        for name in SOME:
            golden = goldens(name)
            eos = config(name, "generation_config.json")["eos_token_id"]
            eos = eos if isinstance(eos, list) else [eos]
            for g, c in zip(golden, greedy(folder(name), golden, [])):
                at, ids = g["f32"]["eos_at"], g["f32"]["greedy_ids"]
                self.assertEqual(at, next((i for i, t in enumerate(ids) if t in eos), None))
                self.assertEqual(c["token_ids"], ids if at is None else ids[:at + 1], "%s %s" % (name, g["id"]))
                self.assertEqual(c["finish_reason"], "length" if at is None else "stop")
                self.assertEqual(c["stop_reason"], None if at is None else ids[at])
                ended += at is not None
        self.assertGreater(ended, 1)

    def test_prompts_as_text(self):
        """Texts and conversations give the ids that transformers gives."""
        chats = 0
        for name in NAMES:
            bodies, want = [], []
            for g in goldens(name):
                if not g.get("text_encodes_to_ids"):
                    continue
                chat = "messages" in g
                if chat and "chat_template" not in config(name, "tokenizer_config.json"):
                    continue
                bodies.append({**({"messages": g["messages"]} if chat else {"prompt": g["text"]}), "max_tokens": 1, **GREEDY})
                want.append(g["prompt_ids"])
                chats += chat
            for b, w in zip(bodies_of(batch(folder(name), bodies)), want):
                self.assertEqual(b["prompt_token_ids"], w, name)
        self.assertGreater(chats, 4)

    def test_generation_config(self):
        """Its temperature, top_p and top_k are the defaults of a request."""
        for name in SOME:
            g = config(name, "generation_config.json")
            own = {k: g[k] for k in ("temperature", "top_p", "top_k") if k in g}
            self.assertGreater(len(own), 1)
            body = {"prompt": goldens(name)[2]["prompt_ids"], "max_tokens": 48, "seed": 5, "ignore_eos": True,
                    "return_token_ids": True}
            off = {"temperature": 1, "top_p": 1, "top_k": 0}
            plain, same, free = (b["choices"][0]["token_ids"]
                                 for b in bodies_of(batch(folder(name), [body, {**body, **own}, {**body, **off}], EXACT)))
            self.assertEqual(plain, same, name)
            self.assertNotEqual(plain, free, name)
            ini, = bodies_of(batch(folder(name), [body], EXACT + ["sampler.%s=%s" % kv for kv in off.items()]))
            self.assertEqual(ini["choices"][0]["token_ids"], free, name)  # [sampler] goes before it

    def test_default_arithmetic(self):
        """As a user runs it, activations rounded and KV in f16: the greedy tokens part from the
        reference only where two logits were close. (A router's tie may break the other way, and then
        all logits differ: the mixture of experts is left out.)"""
        for name in SOME:
            if "moe" in name:
                continue
            golden = goldens(name)
            out = bodies_of(batch(folder(name), [{"prompt": g["prompt_ids"], "max_tokens": 64, "ignore_eos": True, **GREEDY}
                                                 for g in golden]))
            for g, b in zip(golden, out):
                ids, want = b["choices"][0]["token_ids"], g["f32"]["greedy_ids"]
                at = next((i for i in range(64) if ids[i] != want[i]), None)
                if at is not None:
                    self.assertLess(g["f32"]["margins"][at], 0.1, "%s %s at step %d" % (name, g["id"], at))


class Ranks(unittest.TestCase):
    def test_what_cannot_be_cut(self):
        """Heads of 16 elements in blocks of 32: a group of two would part a block. The sentence says
        which tensor, why, and what to do; the weights are not read."""
        with tempfile.TemporaryDirectory(prefix="nvllm-e2e-") as d:
            path = to_gguf.write(to_gguf.convert(folder("qwen2-bf16"), "q8_0"), os.path.join(d, "qwen2.gguf"))
            for tp in 2, 4:
                p = common.run("-p", "x", "--raw", "--set", "model.path=" + path, "--set", "engine.tp=%d" % tp)
                self.assertEqual((p.returncode, p.stdout), (1, b""))
                for word in ("o_proj", "blocks of 32", "rank", "lower [engine] tp"):
                    self.assertIn(word, p.stderr.decode())

    def test_more_ranks_than_heads(self):
        """Six ranks of four query heads: some have none, and the tokens are the same."""
        golden = goldens("llama3-bf16")[1:2]
        self.assertEqual(greedy(folder("llama3-bf16"), golden, ["engine.tp=6"], ignore_eos=True)[0]["token_ids"],
                         golden[0]["f32"]["greedy_ids"])


if __name__ == "__main__":
    unittest.main()
