# SPDX-License-Identifier: MIT
"""nvllm render: real chat templates, byte for byte as transformers renders them.

tests/data/chat/templates.json.xz has the templates whose licences let them be here, 9 conversations
and what comes out of them. With NVLLM_CHAT_ASSETS=FOLDER (templates/, templates.json,
conversations.json, goldens.jsonl) all templates of that folder are rendered too."""
import json
import lzma
import os
import shutil
import subprocess
import tempfile
import unittest

from common import NVLLM, ROOT

DATA = os.path.join(ROOT, "tests", "data", "chat", "templates.json.xz")
NOW = "2025-03-09T14:05:07"


def render(path, body, *words):
    if not isinstance(body, bytes):
        body = json.dumps(body).encode()
    return subprocess.run([NVLLM, "render", path, *words], input=body, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=120)


def user(text, **more):
    return dict({"messages": [{"role": "user", "content": text}]}, **more)


class Folder(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="nvllm-render-")
        self.addCleanup(shutil.rmtree, self.dir)

    def write(self, name, data):
        path = os.path.join(self.dir, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as f:
            f.write(data if isinstance(data, str) else json.dumps(data))
        return path

    def prompt(self, path, body, *words):
        p = render(path, body, *words)
        self.assertEqual(p.returncode, 0, p.stderr.decode(errors="replace"))
        return p.stdout.decode()

    def refused(self, path, body, *words):
        p = render(path, body, *words)
        self.assertEqual(p.returncode, 1, p.stderr.decode(errors="replace"))
        self.assertEqual(p.stdout, b"")
        return p.stderr.decode()


class Goldens(Folder):
    def check(self, templates, conversations, goldens):
        conversations = {c["id"]: c for c in conversations}
        for name, t in templates.items():
            self.write(name + "/chat_template.jinja", t["text"])
            self.write(name + "/tokenizer_config.json", {k: t[k] for k in ("bos_token", "eos_token")})
        for g in goldens:
            c, options = conversations[g["conversation"]], dict(g["options"])
            body = {"messages": c["messages"], "add_generation_prompt": options.pop("add_generation_prompt"),
                    "chat_template_kwargs": options}
            if "tools" in c:
                body["tools"] = c["tools"]
            with self.subTest(template=g["template"], conversation=g["conversation"], options=g["options"]):
                self.check_one(g, render(os.path.join(self.dir, g["template"]), body, "--now", NOW))

    def check_one(self, g, p):
        said = p.stderr.decode(errors="replace")
        if "rendered" in g:
            self.assertEqual(p.returncode, 0, said)
            self.assertIn(p.stdout.decode(), (g["rendered"], g.get("rendered_without_alias")))
            return
        self.assertEqual(p.returncode, 1, said)
        self.assertEqual(p.stdout, b"")
        self.assertRegex(said, r"line \d+: ")
        self.assertIn(g["error"]["message"] or "", said)

    def test_committed(self):
        with lzma.open(DATA) as f:
            d = json.load(f)
        self.assertGreater(len(d["goldens"]), 400)
        self.check(d["templates"], d["conversations"], d["goldens"])

    def test_all(self):
        assets = os.environ.get("NVLLM_CHAT_ASSETS")
        if not assets:
            self.skipTest("NVLLM_CHAT_ASSETS names no folder with the other templates")

        def load(name):
            with open(os.path.join(assets, name), encoding="utf-8") as f:
                return json.load(f)
        templates = load("templates.json")["templates"]
        for name, t in templates.items():
            with open(os.path.join(assets, "templates", name + ".jinja"), encoding="utf-8", newline="") as f:
                t["text"] = f.read()
        with open(os.path.join(assets, "goldens.jsonl"), encoding="utf-8") as f:
            self.check(templates, load("conversations.json"), [json.loads(line) for line in f])


class Sources(Folder):
    """Which file of a checkpoint has the template, and where the special tokens come from."""

    def test_order(self):
        self.write("a/chat_template.jinja", "J{{ bos_token }}")
        self.write("a/chat_template.json", {"chat_template": "C"})
        self.write("a/tokenizer_config.json", {"chat_template": "T", "bos_token": {"content": "<s>", "lstrip": False}})
        self.assertEqual(self.prompt(self.dir + "/a", user("x")), "J<s>")
        os.unlink(self.dir + "/a/chat_template.jinja")
        self.assertEqual(self.prompt(self.dir + "/a", user("x")), "C")
        os.unlink(self.dir + "/a/chat_template.json")
        self.assertEqual(self.prompt(self.dir + "/a", user("x")), "T")

    def test_tokens(self):
        self.write("a/chat_template.jinja", "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token is defined }}"
                                            "|{{ image_token }}|{{ add_bos_token is defined }}")
        self.write("a/tokenizer_config.json", {"bos_token": "<s>", "eos_token": None, "unk_token": None,
                                               "add_bos_token": True, "extra_special_tokens": {"image_token": "<i>"}})
        self.write("a/special_tokens_map.json", {"bos_token": "no", "eos_token": {"content": "</s>"}, "pad_token": "<p>"})
        self.assertEqual(self.prompt(self.dir + "/a", user("x")), "<s>|</s>|<p>|False|<i>|False")
        self.assertEqual(self.prompt(self.dir + "/a", user("x", chat_template_kwargs={"bos_token": "B"}))[:2], "B|")

    def test_named(self):
        self.write("a/tokenizer_config.json", {"chat_template": [
            {"name": "default", "template": "D{{ tools is none }}"}, {"name": "tool_use", "template": "U{{ (tools or [])|length }}"}]})
        path = self.dir + "/a"
        self.assertEqual(self.prompt(path, user("x")), "DTrue")
        self.assertEqual(self.prompt(path, user("x", tools=[{"a": 1}])), "U1")
        self.assertEqual(self.prompt(path, user("x"), "--set", "chat.template=tool_use", "--set", "chat.plugin=jinja")[0], "U")
        self.write("b/chat_template.jinja", "D")
        self.write("b/additional_chat_templates/tool_use.jinja", "U")
        self.assertEqual(self.prompt(self.dir + "/b", user("x", tools=[])), "U")

    def test_single_file(self):
        path = self.write("x.jinja", "{{ messages[0].content }}{{ add_generation_prompt }}\n")
        self.assertEqual(self.prompt(path, user("é")), "éTrue")
        self.assertEqual(self.prompt(path, user("é", add_generation_prompt=False)), "éFalse")

    def test_none(self):
        os.makedirs(self.dir + "/empty")
        self.assertIn("has no chat template", self.refused(self.dir + "/empty", user("x")))
        self.assertIn("has no chat template", self.refused(self.dir + "/empty", user("x"), "--set", "chat.plugin=jinja"))

    def test_other_plugin(self):
        path = self.write("x.jinja", "J")
        self.assertEqual(self.prompt(path, user("Hi"), "--set", "chat.plugin=chatml"),
                         "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")

    def test_chatml_probe(self):
        self.write("a/tokenizer_config.json", {"added_tokens_decoder": {"1": {"content": "<|im_start|>"}}})
        self.assertEqual(self.prompt(self.dir + "/a", user("Hi"))[:12], "<|im_start|>")
        self.write("b/tokenizer.json", {"added_tokens": [{"content": "<|im_start|>"}]})
        self.assertEqual(self.prompt(self.dir + "/b", user("Hi"))[:12], "<|im_start|>")


class Requests(Folder):
    def test_messages(self):
        path = self.write("x.jinja", "{{ messages|tojson }}")
        body = {"messages": [{"role": "assistant", "content": None, "tool_calls": [
            {"function": {"name": "f", "arguments": "{\"b\": 12345678901234567890, \"a\": 3.0}"}},
            {"function": {"name": "g", "arguments": "no JSON"}}, {"function": {"name": "h", "arguments": ""}}]}]}
        self.assertEqual(json.loads(self.prompt(path, body)), [{"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": {"b": 12345678901234567890, "a": 3.0}}},
            {"function": {"name": "g", "arguments": "no JSON"}}, {"function": {"name": "h", "arguments": {}}}]}])
        kept = self.prompt(path, body, "--set", "chat.plugin=jinja", "--set", "chat.arguments=keep")
        self.assertIn("12345678901234567890, \\\"a\\\": 3.0", kept)
        body = user("x")
        body["messages"][0]["thinking"] = "T"
        self.assertEqual(json.loads(self.prompt(path, body)),
                         [{"thinking": "T", "role": "user", "content": "x", "reasoning_content": "T"}])

    def test_parts(self):
        parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
        plain = self.write("x.jinja", "{{ messages[0].content }}")
        looks = self.write("y.jinja", "{% for c in messages[0]['content'] %}{{ c['type'] }}{% endfor %}")

        def with_(path, how):
            return self.prompt(path, user(parts), "--set", "chat.plugin=jinja", "--set", "chat.content=" + how)
        self.assertEqual(self.prompt(plain, user(parts))[:10], "[{'type': ")
        self.assertEqual(with_(plain, "join"), "a\nb")
        self.assertEqual(with_(plain, "auto"), "a\nb")
        self.assertEqual(with_(looks, "auto"), "textimagetext")
        self.assertIn("as_given, auto or join", self.refused(plain, user(parts), "--set", "chat.plugin=jinja",
                                                             "--set", "chat.content=x"))

    def test_continue(self):
        path = self.write("x.jinja", "{% for m in messages %}<{{ m.role }}>{{ m.content|trim }}<end>{% endfor %}"
                                     "{% if add_generation_prompt %}<assistant>{% endif %}")
        body = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "so far "}],
                "continue_final_message": True}
        self.assertEqual(self.prompt(path, body), "<user>q<end><assistant>so far")
        body["add_generation_prompt"] = True
        self.assertIn("exclude each other", self.refused(path, body))

    def test_clock(self):
        path = self.write("x.jinja", "{{ strftime_now('%d %b %Y, %A %H:%M:%S') }}")
        self.assertEqual(self.prompt(path, user("x"), "--now=" + NOW), "09 Mar 2025, Sunday 14:05:07")
        self.assertEqual(self.prompt(path, user("x"), "--now", "2024-02-29T00:00:00"), "29 Feb 2024, Thursday 00:00:00")
        self.assertIn("2025-03-09T14:05:07", self.refused(path, user("x"), "--now", "noon"))
        plain = self.write("plain.jinja", "x")  # told also where the template asks for no time
        for now in ("2025-02-30T00:00:00", "2025-03-09T14:05:07Z", "2025-03-09T14:05:60"):
            self.assertIn(now, self.refused(plain, user("x"), "--now", now))
        self.assertRegex(self.prompt(path, user("x")), r"^\d\d \w{3} 20\d\d, ")

    def test_refused(self):
        path = self.write("x.jinja", "a\n{{ messages[0].nope.x }}")
        self.assertIn("line 2: 'dict object' has no attribute 'nope'", self.refused(path, user("x")))
        bad = self.write("y.jinja", "a\n\n{% if x %}")
        self.assertIn("line 3: Unexpected end of template", self.refused(bad, user("x")))
        for body, why in ((b"", "standard input"), (b"[]", "JSON object"), (b"{}", "\"messages\" is missing"),
                          (b'{"messages": [1]}', "message 1 is no object"), (b'{"messages": "x"}', "no list"),
                          (b'{"messages": [], "chat_template_kwargs": 1}', "no object"),
                          (b'{"messages": [], "chat_template_kwargs": {"chat_template": "x"}}', "cannot set"),
                          (b'{"messages": [], "x": ' + b"[" * 100000 + b"]" * 100000 + b"}", "nested deeper")):
            self.assertIn(why, self.refused(path, body))
        for words in ([], ["a", "b"], [path, "--nope"], [path, "--now"]):
            p = subprocess.run([NVLLM, "render", *words], input=b"", stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
            self.assertEqual(p.returncode, 2, words)


if __name__ == "__main__":
    unittest.main()
