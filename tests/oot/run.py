#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Out of the tree: installs nvllm to a temporary folder, builds docs/PLUGIN.md's own code
and a project beside it with nothing but the installed headers and nvllm.pc, checks the
plugins, runs them by path from an INI file, and embeds libnvllm.so.
Usage: run.py BUILD_FOLDER SOURCE_FOLDER"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

BUILD, SOURCE = (os.path.abspath(p) for p in sys.argv[1:3])
MODEL = os.path.join(SOURCE, "tests/data/gguf/llama3.q8_0.gguf")
PROMPT = "Hello there, world"
EXACT = {"engine.kv_dtype": "f32", "device.activations": "f32", "sampler.plugin": "greedy"}


def run(cmd, cwd=None, env=None, ok=(0,)):
    got = subprocess.run(cmd, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if got.returncode not in ok:
        raise AssertionError("%s\nexit code %d\n%s%s" % (" ".join(cmd), got.returncode, got.stdout, got.stderr))
    return got


def read(path):
    with open(path, encoding="utf-8") as f:
        return f.read()


def write(path, text):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def blocks():
    """The code of docs/PLUGIN.md by file name."""
    text = read(os.path.join(SOURCE, "docs/PLUGIN.md"))
    return dict(re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", text, flags=re.S | re.M))


class OutOfTree(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.mkdtemp(prefix="nvllm-oot-")
        cls.prefix = os.path.join(cls.tmp, "prefix")
        tree = os.path.join(cls.tmp, "tree")
        # The build folder's own prefix is kept: a DESTDIR, then one folder for all of it.
        run(["meson", "install", "-C", BUILD, "--no-rebuild", "--quiet", "--destdir", tree])
        top = [base for base, dirs, names in os.walk(tree) if "bin" in dirs and "include" in dirs]
        shutil.move(top[0], cls.prefix)
        pc = [os.path.join(b, "nvllm.pc") for b, _, names in os.walk(cls.prefix) if "nvllm.pc" in names][0]
        write(pc, re.sub(r"^prefix=.*", "prefix=" + cls.prefix, read(pc), flags=re.M))
        cls.lib = os.path.dirname(os.path.dirname(pc))
        cls.env = dict(os.environ, PKG_CONFIG_PATH=os.path.dirname(pc), LD_LIBRARY_PATH=cls.lib,
                       PATH=os.path.join(cls.prefix, "bin") + ":" + os.environ["PATH"],
                       NVLLM_PLUGIN_PATH=os.path.join(cls.lib, "nvllm/plugins"))
        cls.nvllm = os.path.join(cls.prefix, "bin/nvllm")
        cls.project = os.path.join(cls.tmp, "project")
        cls.doc = os.path.join(cls.tmp, "doc")
        cls.write_sources()
        run(["meson", "setup", "build"], cwd=cls.project, env=cls.env)
        run(["ninja", "-C", "build", "-j1"], cwd=cls.project, env=cls.env)
        cls.so = {n: os.path.join(cls.project, "build", n + ".so") for n in ("gumbel", "tinyllama", "attention", "older")}

    @classmethod
    def write_sources(cls):
        os.makedirs(cls.doc)
        shutil.copytree(os.path.join(SOURCE, "tests/oot"), cls.project)
        shutil.copy(os.path.join(SOURCE, "tests/broken/attention.c"), cls.project)
        for name, text in blocks().items():
            write(os.path.join(cls.doc, name), text)
            if name.endswith(".c"):
                write(os.path.join(cls.project, name), text)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.tmp, ignore_errors=True)

    def ini(self, **over):
        """An INI file of these 'section_key' values over the exact ones; returns its path."""
        values = dict(EXACT, **{"model.path": MODEL, "sampler.temperature": "0"})
        values.update({k.replace("_", ".", 1): v for k, v in over.items()})
        path = os.path.join(self.tmp, "test.ini")
        with open(path, "w") as f:
            for section in sorted({k.split(".")[0] for k in values}):
                f.write("[%s]\n" % section)
                for k, v in values.items():
                    if k.split(".")[0] == section:
                        f.write("%s = %s\n" % (k.split(".", 1)[1], v))
        return path

    def answer(self, *args, **over):
        got = run([self.nvllm, "--config", self.ini(**over), "-p", PROMPT, "-n", "12", "--raw"] + list(args), env=self.env)
        return got.stdout

    def test_document_builds_by_its_own_lines(self):
        self.assertEqual(set(blocks()), {"gumbel.c", "tinyllama.c", "build.sh", "meson.build"})
        out = run(["sh", "-e", "build.sh"], cwd=self.doc, env=self.env).stdout
        self.assertRegex(out, r"\d+ checks, 0 failed")
        run(["meson", "setup", "build", "--prefix", self.prefix], cwd=self.doc, env=self.env)
        run(["ninja", "-C", "build", "-j1", "install"], cwd=self.doc, env=self.env)
        out = run([self.nvllm, "explain", "sampler.gumbel"], env=self.env).stdout
        self.assertIn("floor", out)
        found = run([self.nvllm, "plugins"], env=self.env).stdout
        self.assertIn("gumbel", found)
        self.assertEqual(self.answer(sampler_plugin="gumbel"), self.answer())

    def test_every_plugin_passes_the_check(self):
        for name in ("tinyllama", "attention", "older"):  # the document's own lines check gumbel
            so = self.so[name]
            with self.subTest(name):
                self.assertRegex(run([self.nvllm, "check", so], env=self.env).stdout, r"\d+ checks, 0 failed")

    def test_sampler_by_path(self):
        want = self.answer()
        self.assertTrue(want.strip())
        self.assertEqual(self.answer(sampler_plugin=self.so["gumbel"]), want)
        self.assertEqual(self.answer(sampler_plugin=self.so["gumbel"], sampler_floor="1"), want)
        hot = self.answer("--temp", "1.5", "--seed", "7", sampler_plugin=self.so["gumbel"])
        self.assertEqual(self.answer("--temp", "1.5", "--seed", "7", sampler_plugin=self.so["gumbel"]), hot)
        self.assertNotEqual(hot, self.answer("--temp", "1.5", "--seed", "8", sampler_plugin=self.so["gumbel"]))

    def test_model_by_path(self):
        self.assertEqual(self.answer(model_plugin=self.so["tinyllama"]), self.answer(model_plugin="llama"))

    def test_attention_by_path(self):
        want = self.answer(attention_plugin="naive")
        self.assertEqual(self.answer(attention_plugin=self.so["attention"]), want)
        got = run([self.nvllm, "--config", self.ini(attention_plugin=self.so["attention"], engine_kv_dtype="f16"),
                   "-p", PROMPT], env=self.env, ok=(1,))
        self.assertIn("set kv_dtype = f32", got.stderr)

    def test_all_three_at_once(self):
        self.assertEqual(self.answer(sampler_plugin=self.so["gumbel"], model_plugin=self.so["tinyllama"],
                                     attention_plugin=self.so["attention"]), self.answer(attention_plugin="naive"))

    def test_older_shorter_vtable(self):
        self.assertEqual(self.answer(sampler_plugin=self.so["older"]), self.answer())

    def test_bad_option_of_a_plugin_by_path(self):
        got = run([self.nvllm, "--config", self.ini(sampler_plugin=self.so["gumbel"], sampler_flor="0.5"), "-p", "x"],
                  env=self.env, ok=(1,))
        self.assertIn("floor", got.stderr)
        self.assertIn("test.ini:", got.stderr)

    def test_embedding(self):
        self.assertLessEqual(read(os.path.join(SOURCE, "tests/oot/embed.c")).count("\n"), 70)
        got = run([os.path.join(self.project, "build/embed"), self.ini(), PROMPT, "12"], env=self.env)
        self.assertEqual(got.stdout.strip("\n"), self.answer().strip("\n"))
        self.assertIn("12 answered", got.stderr)
        got = run([os.path.join(self.project, "build/embed"), self.ini(model_path="/nonexistent.gguf"), PROMPT, "1"],
                  env=self.env, ok=(1,))
        self.assertIn("/nonexistent.gguf", got.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
