#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Byte-level tokenizers of tokenizer.json through the program: every recorded case of Hugging Face's
tokenizers library. NVLLM_TOKENIZERS (default models/tokenizers, where scripts/test puts one)
names a folder with more of them, one folder each, with tokenizer.json(.gz, .xz), encode.jsonl and decode.jsonl:
those whose licence keeps them out of here."""
import glob
import gzip
import json
import lzma
import os
import subprocess
import unittest

from common import CHECKPOINTS, GOLDENS, ROOT, Case

TOKENIZERS = os.path.join(ROOT, "tests", "data", "tokenizers")
BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))
MORE = os.environ.get("NVLLM_TOKENIZERS", os.path.join(ROOT, "models", "tokenizers"))


def read(folder, name):
    """A file of the folder, packed or not; None: it is not there."""
    for end, opener in (("", open), (".xz", lzma.open), (".gz", gzip.open)):
        path = os.path.join(folder, name + end)
        if os.path.exists(path):
            with opener(path, "rb") as f:
                return f.read()
    return None


def lines_of(folder, name):
    return [json.loads(line) for line in read(folder, name).splitlines()]


class Tokenizers(Case):
    def unpack(self, folder):
        """A folder as it comes from a hub."""
        name = os.path.basename(folder)
        for f in ("tokenizer.json", "tokenizer_config.json"):
            data = read(folder, f)
            if data is not None:
                self.write(os.path.join(name, f), data)
        return self.path(name)

    def write(self, name, data):
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        return super().write(name, data)

    def lines(self, word, path, values, *flags):
        text = "".join(json.dumps(v) + "\n" for v in values).encode()
        out = self.nvllm(word, path, *flags, stdin=text).stdout.decode("utf-8").split("\n")
        self.assertEqual(len(out), len(values) + 1)
        return [json.loads(line) for line in out[:-1]]

    def same(self, word, path, given, want, *flags):
        for g, w, x in zip(given, want, self.lines(word, path, given, *flags)):
            self.assertEqual(x, w, "%s %s %s of %r" % (word, path, flags, g))

    def streams(self, path, cases):
        """What is sent after each token, and at the end."""
        cases = [c for c in cases if c.get("stream") is not None]
        text = "".join(json.dumps(c["ids"]) + "\n" for c in cases).encode()
        env = dict(os.environ, NVLLM_PLUGIN_PATH=os.path.join(BUILD, "plugins"))
        p = subprocess.run([os.path.join(BUILD, "tests", "unit", "test_hf"), path], input=text, env=env,
                           capture_output=True, timeout=300, check=True)
        got = p.stdout.decode("utf-8").split("\n")
        self.assertEqual(len(got), len(cases) + 1)
        for c, line in zip(cases, got):
            self.assertEqual(json.loads(line), c["stream"], "%s: %s" % (path, c["id"]))

    def check(self, folder, path=None):
        path = path or self.unpack(folder)
        cases = lines_of(folder, "encode.jsonl")
        texts = [c["text"] for c in cases]
        self.same("tokenize", path, texts, [c["ids"] for c in cases], "--no-special")
        self.same("tokenize", path, texts, [c.get("ids_with_special", c["ids"]) for c in cases])
        self.same("tokenize", path, texts, [c.get("ids_plain", c["ids"]) for c in cases], "--no-special", "--plain")
        cases += lines_of(folder, "decode.jsonl")
        ids = [c["ids"] for c in cases]
        self.same("detokenize", path, ids, [c["decoded"] for c in cases])
        self.same("detokenize", path, ids, [c.get("decoded_skip_special", c["decoded"]) for c in cases], "--no-special")
        return cases

    def golden(self, name):
        folder = os.path.join(TOKENIZERS, name)
        path = self.unpack(folder)
        cases = self.check(folder, path)
        self.assertEqual(len(cases), 260)
        self.streams(path, cases)

    def test_qwen3(self):
        self.golden("qwen3")

    def test_smollm2(self):
        self.golden("smollm2")

    def test_flags_tiny(self):
        self.golden("flags-tiny")

    @unittest.skipUnless(os.path.isdir(MORE), "no more tokenizers in " + MORE + " (scripts/test fetches one)")
    def test_more(self):
        folders = [f for f in sorted(glob.glob(os.path.join(MORE, "*"))) if read(f, "encode.jsonl")]
        self.assertTrue(folders, "no tokenizers in " + MORE)
        for folder in folders:
            with self.subTest(os.path.basename(folder)):
                path = self.unpack(folder)
                cases = self.check(folder, path)
                if b'"ByteFallback"' not in read(folder, "tokenizer.json"):
                    self.streams(path, cases)

    def test_file_alone(self):
        """A tokenizer.json of any name; without tokenizer_config.json nobody says what ends a text."""
        folder = os.path.join(TOKENIZERS, "smollm2")
        path = self.write("some.json", read(folder, "tokenizer.json"))
        cases = lines_of(folder, "encode.jsonl")[:40]
        self.same("tokenize", path, [c["text"] for c in cases], [c["ids"] for c in cases])

    def test_checkpoints(self):
        """The prompts of the goldens; those of chats have their special tokens in the text."""
        seen = 0
        for folder in sorted(f for f in glob.glob(os.path.join(CHECKPOINTS, "*")) if os.path.isdir(f)):
            cases = [c for c in lines_of(os.path.join(GOLDENS, os.path.basename(folder)), "goldens.jsonl")
                     if c.get("text_encodes_to_ids")]
            for words, some in (([], [c for c in cases if "messages" not in c]),
                                (["--no-special"], [c for c in cases if "messages" in c])):
                self.same("tokenize", folder, [c["text"] for c in some], [c["prompt_ids"] for c in some], *words)
                seen += len(some)
        self.assertGreater(seen, 20)

    def test_pipelines(self):
        """Steps of all kinds and orders, and added tokens, on one small vocabulary: recorded from the library."""
        folder = os.path.join(TOKENIZERS, "flags-tiny")
        base = json.loads(read(folder, "tokenizer.json"))
        n = 0
        for i, row in enumerate(lines_of(folder, "pipelines.jsonl")):
            root = dict(base, model=dict(base["model"], **row["model"]),
                        added_tokens=base["added_tokens"] + row["added_tokens"],
                        **{k: row[k] for k in ("normalizer", "pre_tokenizer", "post_processor", "decoder")})
            path = self.write("pipelines/%d.json" % i, json.dumps(root).encode())
            flags = ["--set", "tokenizer.plugin=bpe"]
            texts = [c["text"] for c in row["cases"]]
            for key, words in (("ids", ["--no-special"]), ("special", []), ("plain", ["--no-special", "--plain"])):
                self.same("tokenize", path, texts, [c[key] for c in row["cases"]], *words, *flags)
            self.same("detokenize", path, [c["ids"] for c in row["cases"]], [c["decoded"] for c in row["cases"]], *flags)
            n += len(texts)
        self.assertGreater(n, 700)


if __name__ == "__main__":
    unittest.main()
