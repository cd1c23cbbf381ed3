#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The ready INI files: each shows every key of what it chooses, with its default; each loads, and
answers, with the tiny checkpoint of its family in place of the path."""
import json
import os
import re
import unittest

from common import CHECKPOINTS, ROOT, Case, MODEL, run

FAMILY = {"qwen.ini": "qwen3-tied-bf16", "llama3.ini": "llama3-bf16", "gemma3.ini": "gemma3-text-bf16",
          "qwen3-moe.ini": "qwen3-moe-bf16", "smollm2.ini": None, "reference.ini": None}
ON_A_GPU = {"cuda.ini"}  # scripts/gpu-check runs it
NO_TEMPLATE = ("llama3.ini", "gemma3.ini")  # the tiny ones come without
SMALL = ["--set", "engine.memory=64M", "--set", "device.threads=1", "--set", "sampler.temperature=0", "--log-level", "warn"]


def conf(name):
    return os.path.join(ROOT, "conf", name)


def tiny(name):
    return os.path.join(CHECKPOINTS, FAMILY[name]) if FAMILY[name] else MODEL


def read_ini(path):
    """{section: {key: (value, note, set)}}: lines that are commented out count too."""
    out, section = {}, None
    with open(path, encoding="utf-8") as f:
        for line in f:
            head = re.match(r"\[(\w+)\]", line)
            m = re.match(r"(; )?(\w+) =(.*)", line)
            if head:
                section = out.setdefault(head.group(1), {})
            elif m and section is not None:
                value, _, note = re.sub(r"(^|\s);", "\0", m.group(3), count=1).partition("\0")
                section[m.group(2)] = (value.strip(), note, not m.group(1))
    return out


class Conf(Case):
    def printed(self, *words):
        """What --print-config says: {section: {key: value}}."""
        p = run("--print-config", *words)
        self.assertEqual((p.returncode, p.stderr), (0, b""), words)
        out, section = {}, None
        for line in p.stdout.decode().splitlines():
            if line.startswith("["):
                section = out.setdefault(line.strip("[]"), {})
            elif line and not line.startswith(";"):
                key, value = re.match(r"(\S+) = (.*?) *; .*$", line).groups()
                section[key] = value
        return out

    def test_every_file_is_here(self):
        self.assertEqual(sorted(ON_A_GPU | set(FAMILY)), sorted(os.listdir(os.path.join(ROOT, "conf"))))

    def test_check(self):
        for name in FAMILY:
            p = run("--config", conf(name), "--check", "--set", "model.path=" + tiny(name))
            self.assertEqual((p.returncode, p.stderr), (0, b""), name)
            self.assertEqual(p.stdout.decode(), conf(name) + ": ok\n")

    def test_every_key_with_its_default(self):
        for name in FAMILY:
            if name == "reference.ini":
                continue  # points to smollm2.ini
            path, shown = ["--set", "model.path=" + tiny(name)], read_ini(conf(name))
            chosen = self.printed("--config", conf(name), *path)
            words = [w for s, keys in chosen.items() if "plugin" in keys for w in ("--set", "%s.plugin=%s" % (s, keys["plugin"]))]
            for section, keys in self.printed(*words, *path).items():
                for key, default in keys.items():
                    where = "%s: [%s] %s" % (name, section, key)
                    self.assertIn(key, shown.get(section, {}), where)
                    value, note, is_set = shown[section][key]
                    if key == "plugin" or (section, key) == ("model", "path"):
                        continue
                    self.assertTrue(value == default or (is_set and "default" in note) or (is_set and not default),
                                    "%s: the default is '%s'" % (where, default))

    def test_one_prompt(self):
        for name in FAMILY:
            path = ["--config", conf(name), "--set", "model.path=" + tiny(name), *SMALL]
            for way in (["--raw"], [] if name not in NO_TEMPLATE else ["--set", "chat.plugin=chatml"]):
                p = run(*path, *way, "-p", "Hello there", "-n", "4")
                self.assertEqual(p.returncode, 0, "%s: %s" % (name, p.stderr.decode()))
                self.assertGreater(len(p.stdout), 1, name)
                self.assertRegex(p.stderr.decode(), r"generated [1-4] tokens")

    def test_batch(self):
        """Shown with Qwen's: a completion and a chat through the batch front end."""
        body = {"max_tokens": 4, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
        lines = [{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Hello", **body}},
                 {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions",
                  "body": {"messages": [{"role": "user", "content": "Hi"}], **body}},
                 {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions",
                  "body": {"messages": [{"role": "user", "content": "Hi"}],
                           "chat_template_kwargs": {"enable_thinking": False}, **body}}]
        src = self.write("in.jsonl", "".join(json.dumps(v) + "\n" for v in lines))
        p = run("batch", "--config", conf("qwen.ini"), "--set", "model.path=" + tiny("qwen.ini"), *SMALL, "-i", src,
                "-o", self.path("out.jsonl"))
        self.assertEqual(p.returncode, 0, p.stderr)
        out = [json.loads(s)["response"]["body"] for s in self.read("out.jsonl").decode().splitlines()]
        self.assertEqual([len(b["choices"][0]["token_ids"]) for b in out], [4, 4, 4])
        # an empty thought stands in the prompt that asks for none
        self.assertGreater(len(out[2]["prompt_token_ids"]), len(out[1]["prompt_token_ids"]))


if __name__ == "__main__":
    unittest.main()
