#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checkpoint folders as a user meets them: what is damaged, incomplete or of another kind is refused by
the whole program in a sentence, before any weight is read; scripts/make-weights and bench/load."""
import hashlib
import json
import os
import shutil
import struct
import subprocess
import unittest

import common

CHECKPOINTS = os.path.join(common.ROOT, "tests", "data", "checkpoints")
TINY = os.path.join(CHECKPOINTS, "qwen3-tied-bf16")
SHARDED = os.path.join(CHECKPOINTS, "qwen3-untied-f32-sharded")
MAKE = os.path.join(common.ROOT, "scripts", "make-weights")


def safetensors(header, data):
    """The file of that header, which is text."""
    return struct.pack("<Q", len(header)) + header + data


def read_safetensors(path):
    """{name: (dtype, shape, bytes)}: the format once more, by other means than the program's."""
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    header.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[8 + n + v["data_offsets"][0]:8 + n + v["data_offsets"][1]])
            for k, v in header.items()}


class Folder(common.Case):
    def copy(self, source):
        if not os.path.isdir(source):
            self.skipTest("%s is not there" % source)
        folder = self.path("ck")
        shutil.copytree(source, folder)
        for name in os.listdir(folder):
            os.chmod(os.path.join(folder, name), 0o644)
        return folder

    def refused(self, path, *words):
        p = subprocess.run([common.NVLLM, "--set", "model.path=" + path, "-p", "x"], stdin=subprocess.DEVNULL,
                           capture_output=True, timeout=120)
        err = p.stderr.decode()
        self.assertEqual((p.returncode, p.stdout), (1, b""), err)
        self.assertEqual(err.count("\n"), 1, err)
        self.assertIn(path, err)
        for word in words:
            self.assertIn(word, err)

    def change(self, folder, name, **values):
        path = os.path.join(folder, name)
        with open(path, encoding="utf-8") as f:
            value = json.load(f)
        value.update(values)
        with open(path, "w", encoding="utf-8") as f:
            json.dump(value, f)


class Refusals(Folder):
    def test_truncated(self):
        folder = self.copy(TINY)
        path = os.path.join(folder, "model.safetensors")
        size = os.path.getsize(path)
        for n in (size - 1, size // 2, 5000, 9, 8, 7, 0):
            os.truncate(path, n)
            self.refused(folder, "model.safetensors", "download it again")

    def test_headers(self):
        folder = self.copy(TINY)
        path = os.path.join(folder, "model.safetensors")
        w = b'{"w": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}}'
        good = safetensors(w, b"abcd")
        for data, words in (
                (struct.pack("<Q", 2 ** 64 - 1) + good[8:], ["claims 18446744073709551615 bytes"]),
                (struct.pack("<Q", 2 ** 63) + good[8:], ["claims 9223372036854775808 bytes"]),
                (struct.pack("<Q", len(good)) + good[8:], ["claims"]),
                (good + b"x", ["1 bytes follow"]),
                (safetensors(w.replace(b"[4]", b"[5]"), b"abcd"), ["tensor 'w'", "5 elements"]),
                (safetensors(w.replace(b"[4]", b"[4611686018427387904, 8]"), b"abcd"), ["tensor 'w'", "64 bits"]),
                (safetensors(w[:-1] + b", " + w[1:], b"abcd"), ["\"w\" occurs twice"]),
                (safetensors(w.replace(b"I8", b"I\xff"), b"abcd"), ["UTF-8"]),
                (struct.pack("<Q", 4000) + b"{\"a\":" + b"[" * 3995, ["deeper"]),
                (b"version https://git-lfs.github.com/spec/v1\n", ["git lfs pull"]),
                (b"<html>no such file</html>", ["no safetensors file"])):
            with open(path, "wb") as f:
                f.write(data)
            self.refused(folder, "model.safetensors", *words)
            self.refused(path, *words)

    def test_shards(self):
        folder = self.copy(SHARDED)
        name = "model-00002-of-00003.safetensors"
        os.rename(os.path.join(folder, name), self.path("away"))
        self.refused(folder, name, "no such file", "incomplete")
        shutil.copy(os.path.join(folder, "model-00001-of-00003.safetensors"), os.path.join(folder, name))
        self.refused(folder, "is in", "too")
        os.replace(self.path("away"), os.path.join(folder, name))
        index = "model.safetensors.index.json"
        with open(os.path.join(folder, index), encoding="utf-8") as f:
            weights = json.load(f)["weight_map"]
        for tensor, file, words in (("no.such.weight", name, ["no.such.weight", name, "does not hold"]),
                                    ("lm_head.weight", "../" + name, ["lm_head.weight", "plain name"]),
                                    ("lm_head.weight", "/etc/passwd", ["lm_head.weight", "plain name"])):
            self.change(folder, index, weight_map={**weights, tensor: file})
            self.refused(folder, index, *words)

    def test_config(self):
        folder = self.copy(TINY)
        path = os.path.join(folder, "config.json")
        self.change(folder, "config.json", quantization_config={"quant_method": "fp8", "activation_scheme": "dynamic"})
        self.refused(folder, "config.json", "quantised by 'fp8'", "BF16")
        self.change(folder, "config.json", quantization_config=None, architectures=["MambaForCausalLM"])
        with open(path, "rb") as f:
            text = f.read()
        with open(path, "wb") as f:
            f.write(text[:-1] + b",\n}")
        self.refused(folder, "config.json: line 2")
        with open(path, "wb") as f:
            f.write(b"{" + b"\"a\":{" * 5000)
        self.refused(folder, "config.json", "deeper")
        os.remove(path)
        self.refused(folder, "config.json: no such file")

    def test_other_weights(self):
        folder = self.copy(TINY)
        for name, word in (("pytorch_model.bin", "convert"), ("consolidated.safetensors", "convert"),
                           ("adapter_model.safetensors", "LoRA"), ("consolidated.00.pth", "convert"),
                           ("tiny.gguf", "name the file itself")):
            os.rename(os.path.join(folder, "model.safetensors"), os.path.join(folder, name))
            self.refused(folder, name, word)
            os.rename(os.path.join(folder, name), os.path.join(folder, "model.safetensors"))
        os.remove(os.path.join(folder, "model.safetensors"))
        self.refused(folder, "holds no weights")


class Make(Folder):
    def make(self, name, *words):
        folder = self.path(name)
        subprocess.run([MAKE, "SmolLM2-135M", folder, "--layers", "1", *words], check=True, timeout=120)
        return folder

    def test_same_seed_same_bytes(self):
        one, parts, other = self.make("one"), self.make("parts", "--shards", "4"), self.make("other", "--seed", "2")
        with open(os.path.join(parts, "model.safetensors.index.json"), encoding="utf-8") as f:
            weights = json.load(f)["weight_map"]
        self.assertEqual(len(set(weights.values())), 4)
        whole, seen = read_safetensors(os.path.join(one, "model.safetensors")), {}
        for shard in sorted(set(weights.values())):
            got = read_safetensors(os.path.join(parts, shard))
            self.assertEqual({weights[name] for name in got}, {shard})
            seen.update(got)
        self.assertEqual(seen, whole)
        q = "model.layers.0.self_attn.q_proj.weight"
        self.assertEqual(whole[q][:2], ("BF16", [576, 576]))
        self.assertNotEqual(read_safetensors(os.path.join(other, "model.safetensors"))[q][2], whole[q][2])
        self.assertEqual(whole["model.norm.weight"][2], b"\x80\x3f" * 576)
        values = struct.unpack("<%df" % (576 * 576), b"".join(
            b"\0\0" + whole[q][2][i:i + 2] for i in range(0, 2 * 576 * 576, 2)))
        self.assertLess(abs(sum(values) / len(values)), 2e-4)
        self.assertLess(abs((sum(v * v for v in values) / len(values)) ** 0.5 - 0.02), 1e-4)
        again = subprocess.run([MAKE, "SmolLM2-135M", one], capture_output=True, text=True)
        self.assertNotEqual(again.returncode, 0)
        self.assertIn("holds weights already", again.stderr)
        self.assertEqual(hashlib.sha256(whole[q][2]).hexdigest(), hashlib.sha256(seen[q][2]).hexdigest())

    def test_starts(self):
        """Whole starts, by bench/load: its figures are there, and the process keeps little but the weights."""
        bench = os.path.join(common.ROOT, "bench", "load")
        out = self.path("load.json")
        subprocess.run([bench, "--quick", "--nvllm", common.NVLLM, "--model", "SmolLM2-135M", "--out", out,
                        "--tokenizers", "small,full", "--set", "engine.max_model_len=256"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
        with open(out, encoding="utf-8") as f:
            rows = json.load(f)["rows"]
        self.assertEqual([r["tokenizer"] for r in rows], ["small", "full"])
        for r in rows:
            self.assertAlmostEqual(r["weights_mib"], 60.8, delta=1.5)
            self.assertGreater(r["ready_ms"], r["weights_ms"])
            self.assertGreater(r["peak_mib"], r["weights_mib"])


if __name__ == "__main__":
    unittest.main()
