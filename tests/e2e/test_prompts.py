#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What a request may ask: prompts of all lengths, several answers, what ends an answer, what may be
drawn. Tiny checkpoints: qwen3 (byte-level BPE, 1009 tokens of 1024 rows) and llama2
(SentencePiece with byte fallback)."""
import json
import os
import re
import shutil
import tempfile
import unittest

from common import CHECKPOINTS, EXACT, batch, bodies_of, goldens, run

QWEN, LLAMA2 = (os.path.join(CHECKPOINTS, n) for n in ("qwen3-untied-f32-sharded", "llama2-f16"))
GOLDEN = goldens("qwen3-untied-f32-sharded")
LONG = 2048  # max_position_embeddings of QWEN


def tokenize(model, *texts):
    p = run("tokenize", model, "--no-special", stdin="".join(json.dumps(t) + "\n" for t in texts).encode())
    assert p.returncode == 0, p.stderr
    return [json.loads(s) for s in p.stdout.decode().splitlines()]


def words(text):
    """Pieces of one to three letters and the words of a text, as they stand in it."""
    found = re.findall(r"[A-Za-z]+|[^\sA-Za-z]+", text)
    return sorted(set(found) | {w[i:i + n] for w in found for n in (2, 3) for i in range(len(w) - n + 1)})


def ask(*bodies, model=QWEN, sets=()):
    """One choice each, of bodies that must all be good: greedy, end tokens ignored, unless they say otherwise."""
    base = {"temperature": 0, "ignore_eos": True, "return_token_ids": True, "max_tokens": 24}
    return [b["choices"][0] for b in bodies_of(batch(model, [{**base, **b} for b in bodies], [*EXACT, *sets]))]


def refusals(*bodies, model=QWEN, sets=()):
    out = batch(model, bodies, [*EXACT, *sets], code=1)
    return [a["error"]["message"] if a["error"] else None for a in out]


class Case(unittest.TestCase):
    def says(self, text, *words):
        self.assertIsNotNone(text)
        for w in words:
            self.assertIn(w, text)


class EndTokens(Case):
    def test_generation_config(self):
        """Any number of end tokens, of which a device may be told eight; what is no token is passed over, with a
        warning, and those behind it count."""
        free, = ask({"prompt": "Hello"})
        end = free["token_ids"][7]
        with tempfile.TemporaryDirectory(prefix="nvllm-e2e-") as d:
            m = os.path.join(d, "m")
            shutil.copytree(QWEN, m)
            with open(os.path.join(m, "generation_config.json"), "w") as f:
                json.dump({"eos_token_id": [*(i for i in range(900, 912) if i not in free["token_ids"]), -1, 9999, "x", end]}, f)
            p = run("-p", "Hello", "--raw", "--max-tokens", "1", "--log-level", "warn", "--set", "model.path=" + m,
                    "--set", "engine.memory=256M")
            c, still = ask({"prompt": "Hello", "ignore_eos": False}, {"prompt": "Hello"}, model=m)
        self.assertEqual(p.returncode, 0)
        for bad in ("'-1'", "'9999'", "'x'"):
            self.assertIn("eos_token_id " + bad, p.stderr.decode())
        at = free["token_ids"].index(end)
        self.assertEqual((c["token_ids"], c["finish_reason"]), (free["token_ids"][:at + 1], "stop"))
        self.assertEqual(still["token_ids"], free["token_ids"])


class Lengths(Case):
    def test_ids(self):
        """Ids beyond the tokenizer's 1009 but within the 1024 rows are tokens; beyond that, no more."""
        a, b = refusals({"prompt": [5, 1024], "max_tokens": 1}, {"prompt": [2**31 - 1], "max_tokens": 1})
        self.says(a, "1024", "1023")
        self.says(b, "2147483647")
        for c in ask({"prompt": [5, 1023]}, {"prompt": [1009]}, {"prompt": [1000, 1001, 1002]}):
            self.assertEqual(len(c["token_ids"]), 24)

    def test_empty(self):
        """Without a BOS an empty text has no token; with one it has that."""
        a, b = refusals({"prompt": ""}, {"prompt": []})
        self.says(a, "empty")
        self.says(b, "empty")
        c, = ask({"prompt": ""}, model=LLAMA2)
        self.assertEqual(c["prompt_token_ids"], [1])

    def test_one_token(self):
        g = GOLDEN[0]
        self.assertEqual(len(g["prompt_ids"]), 1)
        c, = ask({"prompt": g["prompt_ids"]})
        self.assertEqual(c["token_ids"], g["f32"]["greedy_ids"][:24])

    def test_context(self):
        """A prompt may fill the context but for one token; an answer goes on to its end."""
        ids = [(7 * i * i + 3 * i) % 1000 for i in range(LONG)]
        a, b, c = ask({"prompt": ids[:-1], "max_tokens": 1}, {"prompt": ids[:-9], "max_tokens": 9},
                      {"prompt": ids[:-1], "max_tokens": 1, "prompt_logprobs": 0}, sets=["engine.max_tokens=500"])
        self.assertEqual([len(x["token_ids"]) for x in (a, b, c)], [1, 9, 1])
        self.assertEqual(a["token_ids"], c["token_ids"])
        self.assertEqual(len(c["prompt_logprobs"]), LONG - 1)
        one, whole, more = refusals({"prompt": ids, "max_tokens": 1}, {"prompt": ids + [5], "max_tokens": 1},
                                    {"prompt": ids[:-9], "max_tokens": 10})
        self.says(one, "2048", "context")
        self.says(whole, "2049", "2048")
        self.says(more, "max_tokens", "9")
        chat, = bodies_of(batch(QWEN, [{"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "ignore_eos": True}],
                                ["engine.max_model_len=64"]))
        self.assertEqual(chat["usage"]["total_tokens"], 64)
        self.assertEqual(chat["choices"][0]["finish_reason"], "length")


class Choices(Case):
    def test_n(self):
        """Answers to one prompt differ from each other, and are the same in the next run."""
        body = {"prompt": "The lighthouse", "n": 6, "seed": 3, "temperature": 1.2, "top_k": 0, "top_p": 1, "max_tokens": 12,
                "ignore_eos": True, "return_token_ids": True}
        a, b, c = bodies_of(batch(QWEN, [body, body, {**body, "seed": 4}]))
        ids = [[x["token_ids"] for x in r["choices"]] for r in (a, b, c)]
        self.assertEqual(ids[0], ids[1])
        self.assertEqual(len({str(x) for x in ids[0]}), 6)
        self.assertFalse({str(x) for x in ids[0]} & {str(x) for x in ids[2]})
        again, = bodies_of(batch(QWEN, [body], ["engine.tp=2", "attention.page_tokens=8"]))
        self.assertEqual([x["token_ids"] for x in again["choices"]], ids[0])


class Ends(Case):
    def test_stop_spans_tokens(self):
        """A stop text that begins in one token and ends in a later one; nothing of it is in the answer."""
        free, = ask({"prompt": GOLDEN[1]["prompt_ids"], "logprobs": 0, "max_tokens": 48})
        text, offsets = free["text"], free["logprobs"]["text_offset"]
        stops = []
        for k in range(2, 40):
            at, end = offsets[k] - 1, offsets[k] + 1
            s = text[at:end]
            if offsets[k] - offsets[k - 1] > 1 and len(s) == 2 and "\ufffd" not in s:
                stops.append(s)
        self.assertGreater(len(stops), 5)
        for s, c in zip(stops, ask(*({"prompt": GOLDEN[1]["prompt_ids"], "max_tokens": 48, "stop": ["no such text", s]}
                                     for s in stops))):
            self.assertEqual(c["text"], text[:text.index(s)])
            self.assertEqual((c["finish_reason"], c["stop_reason"]), ("stop", s))
            self.assertLess(len(c["token_ids"]), 48)

    def test_stop_within_characters(self):
        """Characters that come byte by byte: a stop text is found once its last byte is there, also where
        the bytes around it are no characters."""
        for model, text in (QWEN, "é"), (QWEN, "漢"), (LLAMA2, "漢"), (LLAMA2, "é"):
            ids, = tokenize(model, text + text)
            ids = sorted(set(t for t in ids if t > 2))
            if len(ids) < 2:
                continue
            draw = {"prompt": [5, 6], "temperature": 50, "top_k": 0, "top_p": 1, "allowed_token_ids": ids, "max_tokens": 200}
            free = ask(*({**draw, "seed": s} for s in range(6)), model=model)
            cut = ask(*({**draw, "seed": s, "stop": text} for s in range(6)), model=model)
            after = ask(*({**draw, "seed": s, "stop": [text + text[0], "x" + text]} for s in range(6)), model=model)
            for f, c, a in zip(free, cut, after):
                at = f["text"].find(text)
                self.assertEqual(c["text"], f["text"] if at < 0 else f["text"][:at], (model, text))
                self.assertEqual(c["stop_reason"], None if at < 0 else text)
                at = f["text"].find(text + text)
                self.assertEqual(a["text"], f["text"] if at < 0 else f["text"][:at])
            self.assertTrue(any(text in f["text"] for f in free), (model, text))

    def test_stop_token_ids(self):
        """Other tokens that end an answer, also where end tokens do not."""
        g = GOLDEN[2]
        ids = g["f32"]["greedy_ids"]
        at = next(i for i in range(5, 24) if ids[i] not in ids[:i])
        a, b = ask({"prompt": g["prompt_ids"], "stop_token_ids": [1023, ids[at]]},
                   {"prompt": g["prompt_ids"], "stop_token_ids": [ids[at]], "ignore_eos": False})
        self.assertEqual(a["token_ids"], ids[:at + 1])
        self.assertEqual((a["finish_reason"], a["stop_reason"]), ("stop", ids[at]))
        self.assertEqual(b["stop_reason"], ids[at] if ids[at] not in (1000, 1002) else 1000)

    def test_min_tokens(self):
        """End tokens are not drawn before, and stop texts do not end it before."""
        g = next(g for g in GOLDEN + goldens("qwen3-tied-bf16") if g["f32"]["eos_at"] is not None)
        model = QWEN if g in GOLDEN else os.path.join(CHECKPOINTS, "qwen3-tied-bf16")
        at, ids = g["f32"]["eos_at"], g["f32"]["greedy_ids"]
        body = {"prompt": g["prompt_ids"], "ignore_eos": False, "max_tokens": 64}
        free, held, stopped = ask(body, {**body, "min_tokens": at + 4},
                                  {**body, "min_tokens": 6, "ignore_eos": True, "stop_token_ids": [ids[2]]}, model=model)
        self.assertEqual(free["token_ids"], ids[:at + 1])
        self.assertGreaterEqual(len(held["token_ids"]), at + 4)
        self.assertEqual(held["token_ids"][:at], ids[:at])
        self.assertFalse({1000, 1002} & set(held["token_ids"][:at + 4]))
        self.assertGreaterEqual(len(stopped["token_ids"]), 6)
        self.assertNotIn(ids[2], stopped["token_ids"][:6])
        text, = ask({"prompt": g["prompt_ids"], "max_tokens": 40}, model=model)
        stop = text["text"][3:5]
        early, late = ask({"prompt": g["prompt_ids"], "stop": stop}, {"prompt": g["prompt_ids"], "stop": stop, "min_tokens": 20},
                          model=model)
        self.assertLess(len(early["token_ids"]), 20)
        self.assertGreaterEqual(len(late["token_ids"]), 20)
        self.assertEqual(late["text"][:5], text["text"][:5])


class Drawn(Case):
    prompt, ids = GOLDEN[2]["prompt_ids"], GOLDEN[2]["f32"]["greedy_ids"]

    def test_logit_bias(self):
        for draw in {}, {"temperature": 1, "seed": 1, "top_k": 0, "top_p": 1}:
            forced, = ask({"prompt": self.prompt, "logit_bias": {"77": 100}, **draw})
            self.assertEqual(forced["token_ids"], [77] * 24)
        first = self.ids[0]
        a, b, c = ask({"prompt": self.prompt, "logit_bias": {str(first): -100}}, {"prompt": self.prompt, "logit_bias": {}},
                      {"prompt": self.prompt, "logit_bias": {str(t): -1000 for t in self.ids[:24]}})
        self.assertNotIn(first, a["token_ids"])
        self.assertEqual(b["token_ids"], self.ids[:24])
        self.assertFalse(set(self.ids[:24]) & set(c["token_ids"]))

    def test_logprobs_are_raw(self):
        """What was asked of the drawing does not change the log probabilities that are told."""
        a, b = ask({"prompt": self.prompt, "max_tokens": 1, "logprobs": 5},
                   {"prompt": self.prompt, "max_tokens": 1, "logprobs": 5, "logit_bias": {"77": 100}, "repetition_penalty": 2})
        self.assertEqual(b["token_ids"], [77])
        for text, lp in a["logprobs"]["top_logprobs"][0].items():
            self.assertEqual(b["logprobs"]["top_logprobs"][0][text], lp)
        self.assertLess(b["logprobs"]["token_logprobs"][0], a["logprobs"]["token_logprobs"][0])

    def test_allowed(self):
        a, b, c = ask({"prompt": self.prompt, "allowed_token_ids": [3, 5, 900]}, {"prompt": self.prompt, "allowed_token_ids": [7]},
                      {"prompt": self.prompt, "allowed_token_ids": list(range(0, 1000, 2)), "temperature": 2, "seed": 1})
        self.assertLessEqual(set(a["token_ids"]), {3, 5, 900})
        self.assertEqual(b["token_ids"], [7] * 24)
        self.assertTrue(all(t % 2 == 0 for t in c["token_ids"]))

    def test_bad_words(self):
        """Words as they stand, and with a space before them where that is as many tokens (as in vLLM); of
        several tokens all but the last may be drawn."""
        free, = ask({"prompt": self.prompt, "max_tokens": 64})
        ids = free["token_ids"]
        here = [w for w in words(free["text"]) if "\ufffd" not in w]
        banned = []
        for w, plain, spaced in zip(here, tokenize(QWEN, *here), tokenize(QWEN, *(" " + w for w in here))):
            forms = [plain] + [spaced] * (len(spaced) == len(plain))
            if any(f == ids[i:i + len(f)] for f in forms for i in range(64)):
                banned.append((w, forms))
        self.assertGreater(len(banned), 4)
        self.assertTrue(any(len(forms[0]) > 1 for _, forms in banned))
        out = ask(*({"prompt": self.prompt, "max_tokens": 64, "bad_words": ["unlikely", w]} for w, _ in banned))
        for (w, forms), c in zip(banned, out):
            for f in forms:
                self.assertNotIn(f, [c["token_ids"][i:i + len(f)] for i in range(64)], w)
            self.assertNotEqual(c["token_ids"], ids, w)

    def test_penalties(self):
        """Each changes a greedy answer, first where the likeliest token had been there before."""
        g = goldens("qwen3-tied-bf16")[0]  # says one token 14 times in a row
        model, ids = os.path.join(CHECKPOINTS, "qwen3-tied-bf16"), g["f32"]["greedy_ids"]
        asked = [{"presence_penalty": 2}, {"frequency_penalty": 2}, {"repetition_penalty": 1.8}, {"presence_penalty": -2},
                 {"presence_penalty": 0, "frequency_penalty": 0, "repetition_penalty": 1}]
        out = [c["token_ids"] for c in ask(*({"prompt": g["prompt_ids"], "max_tokens": 64, **p} for p in asked), model=model)]
        self.assertEqual(out[4], ids)
        for p, got in zip(asked[:3], out):
            at = next(i for i in range(64) if got[i] != ids[i])
            self.assertIn(ids[at], g["prompt_ids"] + ids[:at], p)
            self.assertNotIn(got[at], g["prompt_ids"] + ids[:at], p)
        self.assertNotEqual(out[3], ids)  # what was said becomes likelier
        runs = max(out[1].count(t) for t in set(out[1]))
        self.assertLess(runs, max(ids.count(t) for t in set(ids)))

    def test_typical_and_min_p(self):
        """At their tightest they leave the one token that they would keep first."""
        draw = {"prompt": self.prompt, "temperature": 1, "top_k": 0, "top_p": 1, "seed": 2}
        a, b, c = ask({**draw, "min_p": 1}, {**draw, "typical_p": 1}, draw)
        self.assertEqual(a["token_ids"], self.ids[:24])
        self.assertEqual(b["token_ids"], c["token_ids"])
        d, e = ask({**draw, "typical_p": 1e-6, "max_tokens": 1}, {**draw, "typical_p": 1e-6, "max_tokens": 1, "seed": 3})
        self.assertEqual(d["token_ids"], e["token_ids"])

    def test_refused_not_ignored(self):
        """greedy takes none of the sampler's parameters, and without processors no one takes theirs."""
        asked = {"temperature": 0.5, "top_p": 0.5, "top_k": 5, "min_p": 0.5, "typical_p": 0.5, "repetition_penalty": 1.5,
                 "presence_penalty": 1, "frequency_penalty": 1}
        for (key, _), text in zip(asked.items(), refusals(*({"prompt": "x", k: v} for k, v in asked.items()),
                                                          sets=["sampler.plugin=greedy"])):
            self.says(text, "greedy", key, "[sampler] plugin")
        asked = {"logit_bias": {"5": 1}, "allowed_token_ids": [5], "bad_words": ["x"], "min_tokens": 2}
        for (key, _), text in zip(asked.items(), refusals(*({"prompt": "x", k: v} for k, v in asked.items()),
                                                          sets=["logits.plugin=none"])):
            self.says(text, key, "[logits] plugin")
        self.says(refusals({"prompt": "x", "vllm_xargs": {"grammar": "a"}})[0], "grammar", "[logits] plugin")
        # what does nothing is taken by all; the checkpoint's own temperature is no request for it
        same, = ask({"prompt": self.prompt, "temperature": None, "top_p": 1, "repetition_penalty": 1, "logit_bias": {},
                     "min_tokens": 0}, sets=["sampler.plugin=greedy", "logits.plugin=none"])
        self.assertEqual(same["token_ids"], self.ids[:24])


if __name__ == "__main__":
    unittest.main()
