#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""SentencePiece tokenizers through the program: every recorded case of the tokenizers library
and of SentencePiece itself, and one vocabulary in all its files (tokenizer.json,
tokenizer.model, GGUF) giving the same ids."""
import json
import lzma
import os
import random
import shutil
import unittest

from common import Case, ROOT

TOKENIZERS = os.path.join(ROOT, "tests", "data", "tokenizers")
CHECKPOINTS = os.path.join(ROOT, "tests", "data", "checkpoints")
GOLDENS = os.path.join(ROOT, "tests", "data", "goldens")


def lines_of(*path):
    with lzma.open(os.path.join(TOKENIZERS, *path)) as f:
        return [json.loads(line) for line in f]


class Spm(Case):
    def unpack(self, name, *path):
        with lzma.open(os.path.join(TOKENIZERS, *path)) as f:
            return self.write(name, f.read())

    def lines(self, word, path, values, *flags):
        """One line in, one line out: nvllm tokenize or detokenize."""
        text = "".join(json.dumps(v) + "\n" for v in values).encode()
        out = self.nvllm(word, path, *flags, stdin=text).stdout.decode("utf-8").split("\n")
        self.assertEqual(len(out), len(values) + 1)
        return [json.loads(line) for line in out[:-1]]

    def same(self, word, path, given, want, *flags):
        got = self.lines(word, path, given, *flags)
        for g, w, x in zip(given, want, got):
            self.assertEqual(x, w, "%s %s of %r" % (word, path, g))

    def test_mistral_v1(self):
        self.unpack("tokenizer.json", "mistral-v1", "tokenizer.json.xz")
        path = self.path("tokenizer.json")
        cases = lines_of("mistral-v1", "encode.jsonl.xz")
        self.assertEqual(len(cases), 200)
        texts = [c["text"] for c in cases]
        self.same("tokenize", path, texts, [c["ids"] for c in cases], "--no-special")
        self.same("tokenize", path, texts, [c.get("ids_with_special", c["ids"]) for c in cases])
        self.same("tokenize", path, texts, [c.get("ids_plain", c["ids"]) for c in cases], "--no-special", "--plain")
        cases += lines_of("mistral-v1", "decode.jsonl.xz")
        ids = [c["ids"] for c in cases]
        self.same("detokenize", path, ids, [c["decoded"] for c in cases])
        self.same("detokenize", path, ids, [c.get("decoded_skip_special", c["decoded"]) for c in cases], "--no-special")

    def test_sentencepiece_models(self):
        """Ids that sentencepiece itself gave, for each kind of model and normalizer."""
        texts = lines_of("spm-tiny", "texts.jsonl.xz")
        names = sorted(f[:-9] for f in os.listdir(os.path.join(TOKENIZERS, "spm-tiny")) if f.endswith(".model.xz"))
        self.assertEqual(len(names), 8)
        for name in names:
            path = self.unpack("tokenizer.model", "spm-tiny", name + ".model.xz")
            want = lines_of("spm-tiny", name + ".ids.xz")
            pairs = [(t, w) for t, w in zip(texts, want) if w is not None]
            self.assertGreater(len(pairs), 100)
            with self.subTest(name):
                self.same("tokenize", path, [t for t, _ in pairs], [w for _, w in pairs], "--no-special")

    def test_unigram_json(self):
        """A tokenizer.json with the model Unigram: ids and texts of the tokenizers library."""
        texts = lines_of("spm-tiny", "texts.jsonl.xz")
        for name in ("uni-rules", "uni-bytes", "uni-user"):
            path = self.unpack("tokenizer.json", "spm-tiny", name + ".json.xz")
            want = lines_of("spm-tiny", name + ".json.ids.xz")
            with self.subTest(name):
                self.same("tokenize", path, texts, [w["ids"] for w in want], "--no-special")
                self.same("detokenize", path, [w["ids"] for w in want], [w["decoded"] for w in want])

    def texts(self):
        """Recorded texts, and some more of the same characters."""
        rand = random.Random(2)
        texts = [c["text"] for c in lines_of("mistral-v1", "encode.jsonl.xz")]
        for _ in range(200):
            texts.append("".join(rand.choice(texts)[:rand.randint(1, 12)] for _ in range(rand.randint(1, 6))))
        return texts

    def checkpoint(self, name, *files):
        for f in files:
            shutil.copyfile(os.path.join(CHECKPOINTS, name, f), self.path(f))

    def test_folders(self):
        """tokenizer.json and the tokenizer.model beside it: the same ids for the same text."""
        texts = self.texts()
        for name in ("llama2-f16", "mistral-swa-bf16", "gemma3-text-bf16"):
            if not os.path.isfile(os.path.join(CHECKPOINTS, name, "tokenizer.json")):
                self.skipTest("no checkpoint " + name)
            with self.subTest(name):
                folder = os.path.join(CHECKPOINTS, name)
                for flags in ([], ["--no-special"]):
                    want = self.lines("tokenize", os.path.join(folder, "tokenizer.json"), texts, *flags)
                    self.assertTrue(all(w for t, w in zip(texts, want) if t))
                    self.checkpoint(name, "tokenizer.model", "tokenizer_config.json")
                    self.same("tokenize", self.path("tokenizer.model"), texts, want, *flags)
                decoded = self.lines("detokenize", os.path.join(folder, "tokenizer.json"), want)
                self.same("detokenize", self.path("tokenizer.model"), want, decoded)

    def test_goldens(self):
        """The prompts of the tiny checkpoints, as transformers encoded them."""
        n = 0
        for name in ("llama2-f16", "mistral-swa-bf16", "gemma3-text-bf16"):
            file = os.path.join(GOLDENS, name, "goldens.jsonl")
            if not os.path.isfile(file):
                continue
            with open(file, encoding="utf-8") as f:
                rows = [json.loads(line) for line in f]
            rows = [r for r in rows if r.get("text") is not None and r.get("text_encodes_to_ids")]
            for flags, part in ([], [r for r in rows if not r.get("messages")]), \
                    (["--no-special"], [r for r in rows if r.get("messages")]):  # a template brings its own BOS
                self.same("tokenize", os.path.join(CHECKPOINTS, name), [r["text"] for r in part],
                          [r["prompt_ids"] for r in part], *flags)
            n += len(rows)
        self.assertGreater(n, 5)

    def test_gguf(self):
        """The vocabulary of a GGUF, and of the folder it was made of."""
        gguf = os.path.join(ROOT, "tests", "data", "gguf", "llama2.f16.gguf")
        texts = self.texts()
        folder = os.path.join(CHECKPOINTS, "llama2-f16", "tokenizer.json")
        for flags in ([], ["--no-special"], ["--no-special", "--plain"]):
            self.same("tokenize", gguf, texts, self.lines("tokenize", folder, texts, *flags), *flags)
        ids = self.lines("tokenize", gguf, texts)
        self.same("detokenize", gguf, ids, self.lines("detokenize", folder, ids))


if __name__ == "__main__":
    unittest.main()
