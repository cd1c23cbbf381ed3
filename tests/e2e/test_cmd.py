#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The command line: which words are taken, what the commands beside the front ends print,
which value wins, and the exit codes."""
import json
import os
import re
import shutil
import signal
import subprocess
import unittest

import common

KINDS = ["model", "attention", "sampler", "cache", "device", "comm", "loader", "tokenizer", "chat", "frontend", "logits"]


def run(*words, stdin=b"", env=None, cwd=None):
    return subprocess.run([common.NVLLM, *words], input=stdin, capture_output=True, timeout=120,
                          env=dict(os.environ, **(env or {})), cwd=cwd)


class Words(unittest.TestCase):
    def usage(self, words, *says):
        p = run(*words)
        self.assertEqual((p.returncode, p.stdout), (2, b""), words)
        for s in says:
            self.assertIn(s, p.stderr.decode(), words)

    def test_version_and_help(self):
        p = run("--version")
        self.assertEqual(p.returncode, 0)
        self.assertRegex(p.stdout.decode(), r"^nvllm \d+\.\d+\.\d+ \(plugin ABI \d+\)\n$")
        for words in (["--help"], ["-h"], ["plugins", "--help"], ["--config", "/nowhere.ini", "--help"]):
            p = run(*words)
            self.assertEqual((p.returncode, p.stderr), (0, b""), words)
            for s in ("usage: nvllm", "--config", "--print-config", "tokenize", "batch", "130"):
                self.assertIn(s, p.stdout.decode(), words)
        self.assertIn("--resume", run("batch", "--help").stdout.decode())
        self.assertNotIn("--resume", run("--help").stdout.decode())

    def test_unknown_words(self):
        self.usage(["batch", "--inptu", "x"], "'batch' knows no option '--inptu'", "did you mean '--input'?")
        self.usage(["batch", "--confi"], "--config")
        self.usage(["batch", "-x"], "'-x'")
        self.usage(["batch", "two"], "'two' is one word too many for 'batch'")
        self.usage(["batch", "-"], "'-' is one word too many")
        self.usage(["btach"], "no command or front end 'btach'", "did you mean 'batch'?")
        self.usage(["plugin"], "did you mean 'plugins'?")
        self.usage(["zzzzzz"], "there are: plugins, explain", "batch")
        self.usage([""], "no command or front end ''")

    def test_missing_values(self):
        self.usage(["batch", "-i"], "-i needs a value")
        self.usage(["batch", "--input"], "--input needs a value")
        self.usage(["batch", "-i", "--check"], "-i needs a value", "'--check' is an option of nvllm")
        self.usage(["batch", "--resume=1"], "--resume takes no value")
        self.usage(["--check=1"], "--check takes no value")
        self.usage(["--config"], "--config needs FILE")
        self.usage(["--set", "x", "batch"], "--set: 'x' is not section.key=value")
        self.usage(["tokenize"], "needs the PATH")
        self.usage(["tokenize", "a", "b"], "'tokenize' takes no 'b'")
        self.usage(["detokenize", "a", "--plain"], "takes no '--plain'")
        self.usage(["plugins", "x"], "'plugins' takes no 'x'")
        self.usage(["explain", "a", "b"], "one word")

    def test_log_level(self):
        p = run("--log-level", "loud", "plugins")
        self.assertEqual(p.returncode, 1)
        self.assertIn("--log-level: [core] log_level: 'loud' is not error, warn, info or debug", p.stderr.decode())

    def test_full_disk(self):
        with open("/dev/full", "wb") as full:
            p = subprocess.run([common.NVLLM, "plugins"], stdout=full, stderr=subprocess.PIPE, timeout=60)
        self.assertEqual(p.returncode, 1)
        self.assertIn(b"standard output cannot be written", p.stderr)


class Plugins(unittest.TestCase):
    def setUp(self):
        self.dir = common.tempfile.mkdtemp(prefix="nvllm-e2e-")
        self.addCleanup(shutil.rmtree, self.dir)

    def test_plugins(self):
        p = run("plugins")
        self.assertEqual((p.returncode, p.stderr), (0, b""))
        lines = p.stdout.decode().splitlines()
        self.assertEqual(lines[0].split(), ["KIND", "NAME", "SUMMARY", "FILE", "ABI"])
        kinds = [line.split()[0] for line in lines[1:]]
        self.assertEqual(sorted(set(kinds)), sorted(KINDS))
        self.assertEqual(kinds, sorted(kinds, key=KINDS.index))
        for line in lines[1:]:
            kind, name, file = re.match(r"(\w+) +(\w+)  .*  (/\S+\.so) +\d+$", line).groups()
            self.assertTrue(os.path.isfile(file), line)
            self.assertTrue(os.path.basename(file).startswith(kind + "_"), line)

    def test_broken_ones(self):
        with open(os.path.join(self.dir, "sampler_text.so"), "w") as f:
            f.write("not a shared object at all")
        os.mkdir(os.path.join(self.dir, "cache_folder.so"))
        p = run("plugins", env={"NVLLM_PLUGIN_PATH": self.dir})
        self.assertEqual(p.returncode, 0)
        broken = [line for line in p.stdout.decode().splitlines() if line.startswith("broken: ")]
        self.assertEqual(len(broken), 2)
        self.assertIn("sampler_text.so: not a shared object", p.stdout.decode())
        self.assertIn("cache_folder.so: not a file but a folder", p.stdout.decode())
        p = run("--set", "core.plugin_dirs=" + self.dir, "explain", "sampler.text")
        self.assertEqual(p.returncode, 1)
        self.assertIn("sampler_text.so: not a shared object", p.stderr.decode())

    def test_missing_folder(self):
        p = run("plugins", env={"NVLLM_PLUGIN_PATH": "/nowhere/at/all"})
        self.assertEqual(p.returncode, 0)
        self.assertIn("warning: plugin folder '/nowhere/at/all' is not there", p.stderr.decode())

    def test_explain(self):
        def text(*words):
            p = run("explain", *words)
            self.assertEqual((p.returncode, p.stderr), (0, b""), words)
            return p.stdout.decode()

        everything = text().split()
        for name in ("engine", "attention", "attention.paged", "frontend.batch", "device.cpu"):
            self.assertIn(name, everything)
        for name in everything:
            if name not in ("Sections:", "Components:"):
                self.assertTrue(text(name), name)
        self.assertRegex(text("attention.paged"), r"page_tokens = \d+ +whole number, \d+\.\.\d+\n +\S")
        self.assertRegex(text("engine"), r"kv_dtype = auto +one of auto, f32, f16, bf16 or fp8")
        self.assertIn("--input", text("batch"))
        self.assertIn("num_hidden_layers", text("model.llama"))
        file = re.search(r"^(/\S+\.so)$", text("cache.none"), re.M).group(1)
        self.assertEqual(text(file), text("cache.none"))

    def test_explain_unknown(self):
        for word, code, says in (("attention.pagd", 1, "did you mean 'paged'? There are: naive, paged"),
                                 ("attntion", 1, "did you mean 'attention'?"),
                                 ("foo.bar", 2, "'foo' is no kind of plugin"),
                                 ("/nowhere.so", 1, "/nowhere.so: cannot be opened")):
            p = run("explain", word)
            self.assertEqual((p.returncode, p.stdout), (code, b""), word)
            self.assertIn(says, p.stderr.decode())

    def test_check(self):
        file = re.search(r"^(/\S+\.so)$", run("explain", "cache.none").stdout.decode(), re.M).group(1)
        self.assertEqual(run("check", file).returncode, 0)
        self.assertNotEqual(run("check", __file__).returncode, 0)

    def test_found_from_anywhere(self):
        """By way of a link and from another folder, the plugins beside the program are found."""
        link = os.path.join(self.dir, "linked")
        os.symlink(os.path.abspath(common.NVLLM), link)
        env = {k: v for k, v in os.environ.items() if k != "NVLLM_PLUGIN_PATH"}
        p = subprocess.run([link, "plugins"], capture_output=True, env=env, cwd="/", timeout=60)
        self.assertEqual(p.stdout, run("plugins").stdout)
        env["PATH"] = os.path.dirname(link) + ":" + env["PATH"]
        p = subprocess.run(["linked", "plugins"], capture_output=True, env=env, cwd="/", timeout=60)
        self.assertIn("/attention_paged.so", p.stdout.decode())


class Configuration(common.Case):
    def values(self, *words):
        """--print-config as {section: {key: (value, origin)}}."""
        p = run("--config", self.conf, "--print-config", *words)
        self.assertEqual((p.returncode, p.stderr), (0, b""), words)
        out, section = {}, None
        for line in p.stdout.decode().splitlines():
            if line.startswith("["):
                section = out.setdefault(line.strip("[]"), {})
            elif line and not line.startswith(";"):
                key, value, origin = re.match(r"(\S+) = (.*?) *; (.*)$", line).groups()
                section[key] = (value.strip(), origin)
        return p.stdout, out

    def test_check(self):
        p = run("--check", "--config", self.conf)
        self.assertEqual((p.returncode, p.stdout.decode()), (0, self.conf + ": ok\n"))

    def test_precedence(self):
        _, v = self.values()
        self.assertEqual(v["engine"]["max_seqs"], ("4", self.conf + ":2"))
        self.assertEqual(v["engine"]["tp"], ("1", "default"))
        self.assertEqual(v["sampler"]["temperature"], ("auto", "default"))
        _, v = self.values("--set", "engine.max_seqs=2", "--temp", "0.5")
        self.assertEqual(v["engine"]["max_seqs"], ("2", "--set"))
        self.assertEqual(v["sampler"]["temperature"], ("0.5", "--temp"))
        _, v = self.values("--temp", "0.5", "--set=sampler.temperature=1", "--raw", "-n8")
        self.assertEqual(v["sampler"]["temperature"], ("1", "--set"))
        self.assertEqual(v["shell"]["raw"], ("true", "--raw"))
        self.assertEqual(v["shell"]["max_tokens"], ("8", "-n"))
        _, v = self.values("--set", "sampler.temperature=1", "--temp=0.25", "--set", "attention.plugin=naive")
        self.assertEqual(v["sampler"]["temperature"], ("0.25", "--temp"))
        self.assertEqual(v["attention"]["plugin"], ("naive", "--set"))

    def test_printed_config_reads_back(self):
        first, v = self.values("--set", "sampler.top_k=5")
        again = self.write("again.ini", first)
        p = run("--config", again, "--print-config")
        self.assertEqual(p.returncode, 0, p.stderr)
        strip = re.compile(rb" *;.*")
        self.assertEqual(strip.sub(b"", p.stdout), strip.sub(b"", first))
        self.assertIn((again + ":").encode(), p.stdout)

    def test_unwritable_value(self):
        out, _ = self.values("-p", "two\nlines ; and more")
        self.assertIn(b"; prompt, set by -p, does not fit into an INI file: two\\x0alines ; and more\n", out)
        self.assertEqual(run("--check", "--config", self.write("again.ini", out)).returncode, 0)

    def test_other_front_ends_are_checked(self):
        self.conf = self.write("conf.ini", common.CONF % common.MODEL + "[batch]\ninputt = x\n")
        p = run("--check", "--config", self.conf)
        self.assertEqual((p.returncode, p.stdout), (1, b""))
        self.assertIn(self.conf + ":10: [batch] has no key 'inputt'; did you mean 'input'?", p.stderr.decode())


class Tokens(unittest.TestCase):
    def lines(self, command, *words, stdin):
        p = run(command, common.MODEL, *words, stdin=stdin)
        return p.returncode, p.stdout.decode().splitlines(), p.stderr.decode()

    def test_round_trip(self):
        texts = ["Hello, world", "", "  two  blanks", "tab\tand\nline", "caf\u00e9 \u4f60\u597d \U0001f600", '"quoted" \\ back']
        src = "".join(json.dumps(t, ensure_ascii=i % 2 == 0) + "\n" for i, t in enumerate(texts)).encode()
        code, out, err = self.lines("tokenize", "--no-special", stdin=src[:-1])
        self.assertEqual((code, err, len(out)), (0, "", len(texts)))
        self.assertEqual(json.loads(out[1]), [])
        code, back, err = self.lines("detokenize", stdin="\n".join(out).encode())
        self.assertEqual((code, err), (0, ""))
        self.assertEqual([json.loads(s) for s in back], texts)

    def test_cut_characters(self):
        _, out, _ = self.lines("tokenize", "--no-special", stdin='"\U0001f600"\n'.encode())
        ids = json.loads(out[0])
        self.assertGreater(len(ids), 1)
        code, out, _ = self.lines("detokenize", stdin=(json.dumps(ids[:1]) + "\n").encode())
        self.assertEqual((code, json.loads(out[0])), (0, "\ufffd"))

    def test_bad_lines(self):
        for command, stdin, says in (
                ("tokenize", b'"a"\n"b\n', "line 2, byte 1"), ("tokenize", b'"a"\n7\n', "line 2, byte 1: not a JSON string"),
                ("tokenize", b'"a"\n\n', "line 2"), ("tokenize", b'"a"\n"\xff"\n', "line 2"),
                ("tokenize", b'"a"\n"\\ud800"\n', "line 2"), ("tokenize", b'"a"\n"b" x\n', "line 2"),
                ("detokenize", b'[1]\n"a"\n', "line 2: not a JSON array"), ("detokenize", b"[1]\n[1.0]\n", "line 2: a token id"),
                ("detokenize", b"[1]\n[1,]\n", "line 2"), ("detokenize", b"[1]\n[[1]]\n", "line 2")):
            code, out, err = self.lines(command, stdin=stdin)
            self.assertEqual((code, len(out)), (1, 1), (command, stdin, err))
            self.assertIn(says, err, stdin)

    def test_ids_outside_the_vocabulary(self):
        """They are passed over, as Hugging Face's tokenizers do."""
        code, out, err = self.lines("detokenize", stdin=b"[1]\n[-1, 1, 99999999999999, 1111, 1]\n[2147483648]\n")
        self.assertEqual((code, err), (0, ""))
        out = [json.loads(line) for line in out]
        self.assertEqual(out[1:], [out[0] * 2, ""])

    def test_flushed_line_by_line(self):
        p = subprocess.Popen([common.NVLLM, "tokenize", common.MODEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for text in ("one", "two"):
            p.stdin.write(json.dumps(text).encode() + b"\n")
            p.stdin.flush()
            self.assertTrue(json.loads(p.stdout.readline()))
        p.stdin.close()
        self.assertEqual(p.wait(timeout=60), 0)
        p.stdout.close()

    def test_interrupted(self):
        p = subprocess.Popen([common.NVLLM, "tokenize", common.MODEL], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        p.stdin.write(b'"one"\n')
        p.stdin.flush()
        self.assertTrue(p.stdout.readline())
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(timeout=60), 130)
        p.stdin.close()
        p.stdout.close()

    def test_reader_gone(self):
        """A closed pipe is a failed write, not a death by signal."""
        r, w = os.pipe()
        os.close(r)
        p = subprocess.run([common.NVLLM, "tokenize", common.MODEL], input=b'"a"\n' * 3, stdout=w,
                           stderr=subprocess.PIPE, timeout=60)
        os.close(w)
        self.assertEqual(p.returncode, 1)
        self.assertIn(b"standard output cannot be written", p.stderr)

    def test_bad_path(self):
        for path in ("/nowhere", "/dev/null", __file__, os.path.dirname(__file__)):
            p = run("tokenize", path, stdin=b'"a"\n')
            self.assertEqual((p.returncode, p.stdout), (1, b""), path)
            self.assertIn(path, p.stderr.decode())


if __name__ == "__main__":
    unittest.main()
