#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""What bad input gets: a sentence that says what, where and what to do, the right exit code,
and nothing half-written. Each case is a whole run of the program.

Environment: NVLLM = the binary (default build/nvllm)."""
import json
import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NVLLM = os.environ.get("NVLLM", os.path.join(ROOT, "build", "nvllm"))
TINY = os.path.join(ROOT, "tests", "data", "gguf", "llama3.q8_0.gguf")
CHECKPOINTS = os.path.join(ROOT, "tests", "data", "checkpoints")
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
        self.ini(model + "[engine]\nmax_seqs = -1\n", [":4:", "0"])
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


class Folders(Case):
    """A checkpoint's folder with one thing wrong in it."""

    def broken(self, words, base="qwen3-tied-bf16", config=(), change=None):
        """The folder with keys of config.json changed (KeyError: taken out), then change(folder)."""
        with tempfile.TemporaryDirectory() as d:
            m = os.path.join(d, "m")
            shutil.copytree(os.path.join(CHECKPOINTS, base), m)
            path = os.path.join(m, "config.json")
            with open(path) as f:
                c = json.load(f)
            c.update(config)
            with open(path, "w") as f:
                json.dump({k: v for k, v in c.items() if v is not KeyError}, f)
            if change:
                change(m)
            return self.refused(["-p", "x", "--raw", "--set", "model.path=" + m, "--set", "engine.memory=64M"], words)

    def write(self, name, text):
        def change(folder):
            with open(os.path.join(folder, name), "w") as f:
                f.write(text)
        return change

    def remove(self, name):
        return lambda folder: os.remove(os.path.join(folder, name))

    def test_architecture(self):
        known = ["Gemma3ForCausalLM", "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM",
                 "Qwen3MoeForCausalLM"]
        self.broken(["MambaForCausalLM", "docs/PLUGIN.md", *known], config={"architectures": ["MambaForCausalLM"]})
        self.broken(["architecture", "[model] plugin"], config={"architectures": KeyError})
        self.broken(["architecture"], config={"architectures": 7})

    def test_missing_keys(self):
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "intermediate_size"):
            self.broken(["/m: ", "'%s'" % key, "qwen3"], config={key: KeyError})
        self.broken(["num_experts"], base="qwen3-moe-bf16", config={"num_experts": KeyError})

    def test_other_types(self):
        for key, v, why in [("hidden_size", "64x", "64x"), ("num_hidden_layers", 3.5, "whole number"),
                            ("num_hidden_layers", True, "whole number"), ("hidden_size", -1, "-1"),
                            ("hidden_size", 1e30, "1e"), ("num_attention_heads", {}, "no '"), ("rope_theta", "big", "big"),
                            ("rope_theta", -5, "-5"), ("tie_word_embeddings", "maybe", "true or false"),
                            ("hidden_act", "swish9", "silu"), ("rms_norm_eps", "tiny", "tiny")]:
            self.broken(["/m: ", key, why], config={key: v})
        self.broken(["rope_scaling", "factor"], config={"rope_scaling": {"rope_type": "linear"}})
        self.broken(["config.json", "rope_scaling"], config={"rope_scaling": "linear"})
        self.broken(["rope_scaling.rope_type", "foo", "yarn"], config={"rope_scaling": {"rope_type": "foo", "factor": 2}})

    def test_contradictions(self):
        """Sizes that are not those of the tensors: which tensor, what it has, what was said."""
        for key, v, words in [("hidden_size", 128, ["embed_tokens", "[1024][64]", "128"]),
                              ("intermediate_size", 200, ["layers.0.mlp.gate_proj", "384", "400"]),
                              ("num_attention_heads", 16, ["layers.0.self_attn.q_proj", "2048", "3072"]),
                              ("head_dim", 64, ["layers.0.self_attn.q_proj", "2048", "1024"]),
                              ("vocab_size", 2000, ["embed_tokens", "1024", "2000"]),
                              ("num_hidden_layers", 4, ["model.layers.3.input_layernorm.weight", "missing"]),
                              ("tie_word_embeddings", False, ["lm_head.weight", "missing"]),
                              ("partial_rotary_factor", 0, ["0 of the 128", "partial_rotary_factor", "head_dim"]),
                              ("rope_dims", 130, ["130 of the 128", "rope_dims"]),
                              ("layer_types", ["full_attention"], ["layer_types", "1 layers", "3"]),
                              ("layer_types", ["full_attention", "linear_attention", "full_attention"],
                               ["linear_attention", "layer 1", "sliding_attention"])]:
            self.broken(["/m: ", *words], config={key: v})
        self.broken(["/m: ", "num_attention_heads 8", "num_key_value_heads 3"], config={"num_key_value_heads": 3})
        self.broken(["mlp.gate", "8", "9"], base="qwen3-moe-bf16", config={"num_experts": 9})
        self.broken(["/m: ", "num_experts_per_tok", "20", "8"], base="qwen3-moe-bf16", config={"num_experts_per_tok": 20})

    def test_missing_files(self):
        self.broken(["config.json", "no such file"], change=self.remove("config.json"))
        self.broken(["model.safetensors", "incomplete"], change=self.remove("model.safetensors"))
        self.broken(["tokenizer"], change=self.remove("tokenizer.json"))
        self.broken(["model-00002-of-00003.safetensors", "index", "incomplete"], base="qwen3-untied-f32-sharded",
                    change=self.remove("model-00002-of-00003.safetensors"))

    def test_no_json(self):
        for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            self.broken([name], change=self.write(name, "{"))
            self.broken([name], change=self.write(name, "[" * 100000))
        self.broken(["config.json", "object"], change=self.write("config.json", "[]"))
        self.broken(["index.json"], base="qwen3-untied-f32-sharded", change=self.write("model.safetensors.index.json", "{"))

    def test_truncated(self):
        for n in (0, 4, 8, 100, 5000, 1538023):
            self.broken(["model.safetensors"], change=lambda m: os.truncate(os.path.join(m, "model.safetensors"), n))


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
            "n": {"n": 129}, "salt": {"cache_salt": ""}, "priority": {"priority": 0.5},
            "penalty": {"frequency_penalty": 3}, "repetition": {"repetition_penalty": 0}, "typical": {"typical_p": 0},
            "bias id": {"logit_bias": {"99999": 1}}, "bias key": {"logit_bias": {"x": 1}}, "bias": {"logit_bias": {"5": "1"}},
            "stop id": {"stop_token_ids": [99999]}, "allowed id": {"allowed_token_ids": [99999]},
            "allowed": {"allowed_token_ids": []}, "bad word": {"bad_words": [""]}, "min_tokens": {"min_tokens": 5},
            "xargs": {"vllm_xargs": {"grammar": "x"}}, "tools": {"tools": []},
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
