#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The shell as a user has it: one prompt and its answer, and a chat at a terminal."""
import os
import pty
import re
import select
import signal
import subprocess
import time
import unittest

from common import CHECKPOINTS, Case

FIGURES = r"prompt (\d+) tokens \((\d+) cached\), generated (\d+) tokens"


class OnePrompt(Case):
    def ask(self, *words, stdin=None, code=0):
        p = self.nvllm("--temp", "0", *words, stdin=stdin, code=code)
        return p.stdout, p.stderr.decode()

    def test_answer_and_figures(self):
        out, said = self.ask("-p", "Hello", "-n", "8")
        self.assertTrue(out.endswith(b"\n"))
        out.decode()  # whole characters
        n_prompt, n_cached, n = map(int, re.search(FIGURES, said).groups())
        self.assertGreater(n_prompt, 1)
        self.assertEqual(n_cached, 0)
        self.assertIn(n, range(1, 9))
        self.assertRegex(said, r"first token after [\d.]+ s, [\d.]+ tokens/s\n$")

    def test_same_prompt_three_ways(self):
        out, said = self.ask("-p", "Hello", "-n", "8")
        n = int(re.search(FIGURES, said).group(1))
        for given, more in (b"Hello", 0), (b"Hello\n", 0), (b"Hello\r\n", 0), (b"Hello\n\n", 1):
            again, said = self.ask("-n", "8", stdin=given)
            self.assertEqual(int(re.search(FIGURES, said).group(1)), n + more)  # one newline goes, not two
            if not more:
                self.assertEqual(again, out)

    def test_raw(self):
        _, chat = self.ask("-p", "Hello", "-n", "1")
        raw_out, raw = self.ask("-p", "Hello", "-n", "8", "--raw")
        self.assertLess(int(re.search(FIGURES, raw).group(1)), int(re.search(FIGURES, chat).group(1)))
        self.assertEqual(self.ask("-n", "8", "--raw", stdin=b"Hello\n")[0], raw_out)

    def test_system_message(self):
        _, without = self.ask("-p", "Hello", "-n", "1")
        _, having = self.ask("-p", "Hello", "-n", "1", "--system", "Be brief. Be very, very brief.")
        self.assertGreater(int(re.search(FIGURES, having).group(1)), int(re.search(FIGURES, without).group(1)))

    def test_seed(self):
        def text(seed):
            return self.nvllm("--temp", "1.5", "--top-k", "0", "--top-p", "1", "--min-p", "0", "-p", "Hello", "-n", "12",
                              "--seed", str(seed)).stdout
        self.assertEqual(text(5), text(5))
        self.assertNotEqual(text(5), text(6))

    def test_refusals(self):
        for stdin, words, why in [(b"", (), "standard input is empty"), (b"\n", (), "standard input is empty"),
                                  (b"a\xffb", (), "not valid UTF-8 (byte 1 is 0xff)"),
                                  (None, ("-p", b"a\xff"), "not valid UTF-8"),
                                  (None, ("-p", "word " * 2000), "context"),
                                  (None, ("-p", "x", "-n", "100000"), "max_tokens"),
                                  (None, ("-p", "x", "--set", "chat.plugin=none"), "none"),
                                  (None, ("-p", "x", "--top-p", "2"), "top_p")]:
            out, said = self.ask(*words, stdin=stdin, code=1)
            self.assertEqual(out, b"")
            self.assertIn(why, said)

    def test_no_chat_template(self):
        with open(self.conf) as f:
            text = f.read()
        self.write("conf.ini", text[:text.index("[chat]")])
        _, said = self.ask("-p", "x", code=1)
        self.assertIn("--raw", said)
        self.ask("-p", "x", "--raw", "-n", "2")

    def test_interrupted(self):
        """Ctrl-C once the answer streams: exit code 130, and what was said ends with a newline."""
        for _ in range(5):  # the answer may end before the signal comes
            p = subprocess.Popen(self.command("-p", "Hello", "--raw", "--temp", "0"), stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            first = os.read(p.stdout.fileno(), 1)
            p.send_signal(signal.SIGINT)
            out, said = p.communicate(timeout=120)
            if p.returncode == 130:
                break
        self.assertEqual(p.returncode, 130, said)
        self.assertTrue((first + out).endswith(b"\n"))
        self.assertLess(int(re.search(FIGURES, said.decode()).group(3)), 512)

    def test_reader_that_leaves(self):
        p = subprocess.Popen(self.command("-p", "Hello", "--raw", "--temp", "0"), stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        p.stdout.close()
        said = p.stderr.read().decode()
        p.stderr.close()
        self.assertEqual(p.wait(timeout=120), 1)
        self.assertNotIn("error", said)

    def test_head(self):
        """nvllm | head: the reader takes one byte and leaves. Exit code 1, quietly."""
        for _ in range(5):  # the answer may end before head does
            p = subprocess.Popen(self.command("-p", "Hello", "--raw", "--temp", "0"), stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            head = subprocess.run(["head", "-c", "1"], stdin=p.stdout, stdout=subprocess.PIPE, timeout=120)
            p.stdout.close()
            said = p.stderr.read().decode()
            p.stderr.close()
            self.assertEqual(len(head.stdout), 1)
            if p.wait(timeout=120) == 1:
                break
        self.assertEqual(p.returncode, 1, said)
        self.assertNotIn("error", said)

    def test_full_disk(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full")
        with open("/dev/full", "wb") as full:
            p = subprocess.run(self.command("-p", "Hello", "-n", "4"), stdin=subprocess.DEVNULL, stdout=full,
                               stderr=subprocess.PIPE, timeout=120)
        self.assertEqual(p.returncode, 1)
        self.assertIn(b"cannot write", p.stderr)


class Folder(Case):
    """A checkpoint's folder with a template of its own."""
    qwen = ["--set", "model.path=" + os.path.join(CHECKPOINTS, "qwen3-tied-bf16"), "--set", "chat.plugin=auto", "--temp", "0"]

    def ask(self, *words, code=0):
        p = self.nvllm(*self.qwen, "-p", "Hello there", "-n", "24", *words, code=code)
        return p.stdout, p.stderr.decode()

    def prompt(self, *words):
        return int(re.search(FIGURES, self.ask(*words)[1]).group(1))

    def test_template(self):
        """The conversation goes through the checkpoint's template, with its arguments."""
        raw, chat = self.prompt("--raw"), self.prompt()
        self.assertLess(raw, chat)
        self.assertEqual(self.prompt("--template-kwargs", '{"enable_thinking": true}'), chat)
        self.assertGreater(self.prompt("--template-kwargs", '{"enable_thinking": false}'), chat)
        self.assertGreater(self.prompt("--system", "Be brief."), chat)
        for bad, why in ("{", "cannot be read as JSON"), ("[]", "must be a JSON object"), ('"x"', "must be a JSON object"):
            self.assertIn(why, self.ask("--template-kwargs", bad, code=1)[1])
        self.assertIn("template_kwargs", self.ask("--template-kwargs", "{'a': 1}", code=1)[1])

    def test_penalties(self):
        """Words of llama.cpp and of vLLM for one thing; each changes a greedy answer."""
        plain = self.ask()[0]
        a, b = self.ask("--repeat-penalty", "3")[0], self.ask("--repetition-penalty", "3")[0]
        self.assertEqual(a, b)
        self.assertNotEqual(a, plain)
        self.assertEqual(self.ask("--presence-penalty", "0", "--frequency-penalty", "0", "--repeat-penalty", "1")[0], plain)
        drawn = ("--temp", "1", "--seed", "3", "--top-k", "0", "--top-p", "1")
        self.assertEqual(self.ask(*drawn, "--typical", "1")[0], self.ask(*drawn, "--typical-p", "1")[0])
        self.assertNotEqual(self.ask(*drawn, "--typical", "0.1")[0], self.ask(*drawn)[0])
        for word, v in ("--presence-penalty", "3"), ("--frequency-penalty", "-2.5"), ("--repeat-penalty", "0"), ("--typical", "0"):
            self.assertIn("[sampler]", self.ask(word, v, code=1)[1])


class Terminal:
    """The program at a pseudo-terminal."""

    def __init__(self, command):
        pid, self.fd = pty.fork()
        if pid == 0:
            os.environ["TERM"] = "xterm"
            os.execv(command[0], command)
        self.pid, self.text, self.code = pid, "", None

    def more(self, seconds):
        """Reads what comes; False at the end or when nothing came."""
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            chunk = os.read(self.fd, 4096)
        except OSError:
            chunk = b""
        self.text += chunk.decode(errors="replace")
        return bool(chunk)

    def expect(self, pattern, seconds=30):
        """Waits for the pattern; what came up to its end, which is then taken off."""
        end = time.monotonic() + seconds
        while not (m := re.search(pattern, self.text)):
            if not self.more(max(0, end - time.monotonic())):
                raise AssertionError("no %r in %r" % (pattern, self.text))
        before, self.text = self.text[:m.end()], self.text[m.end():]
        return before

    def send(self, s):
        os.write(self.fd, s.encode())

    def close(self):
        """To its end; the exit code."""
        while self.code is None and self.more(30):
            pass
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self.fd)
        return self.code

    def kill(self):
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.close()


PROMPT = r"> \Z|> (?=\x1b)|> "


class Chat(Case):
    def open(self, *words):
        t = Terminal(self.command("--temp", "0", *words))
        self.addCleanup(t.kill)
        t.expect(r"/help lists the commands")
        t.expect(PROMPT)
        return t

    def stats(self, t):
        """Messages in the conversation, by /stats."""
        t.send("/stats\r")
        s = t.expect(r"conversation: \d+ messages")
        t.expect(PROMPT)
        return int(re.search(r"conversation: (\d+)", s).group(1))

    def turn(self, t, text):
        t.send(text + "\r")
        t.expect(r"\[cut off after 6 tokens|\[the context is full")
        t.expect(PROMPT)

    def test_conversation_by_template(self):
        """Turns go through the checkpoint's own template."""
        t = self.open(*Folder.qwen, "-n", "6", "--set", "shell.template_kwargs={\"enable_thinking\": false}")
        self.turn(t, "Hello")
        self.turn(t, "And again")
        self.assertEqual(self.stats(t), 4)
        t.send("/quit\r")
        self.assertEqual(t.close(), 0)

    def test_conversation(self):
        t = self.open("-n", "6", "--set", "engine.max_seqs=1")
        self.assertEqual(self.stats(t), 0)
        self.turn(t, "Hello")
        self.assertEqual(self.stats(t), 2)
        t.send("/stats\r")
        first = int(re.search(FIGURES, t.expect(FIGURES)).group(1))
        t.expect(PROMPT)
        self.turn(t, "And again")
        self.assertEqual(self.stats(t), 4)
        t.send("/stats\r")
        second = int(re.search(FIGURES, t.expect(FIGURES)).group(1))
        self.assertGreater(second, first + 6)  # the first turn is part of the second prompt
        t.expect(PROMPT)
        t.send("/reset\r")
        t.expect("begins anew")
        t.expect(PROMPT)
        self.assertEqual(self.stats(t), 0)
        t.send("/quit\r")
        self.assertEqual(t.close(), 0)

    def test_commands(self):
        t = self.open("-n", "6")
        t.send("/help\r")
        self.assertIn("/reset", t.expect(r"Ctrl-C +stop"))
        t.expect(PROMPT)
        t.send("/nonsense\r")
        t.expect("no command /nonsense")
        t.expect(PROMPT)
        t.send("   \r")
        t.expect(PROMPT)
        self.assertEqual(self.stats(t), 0)
        t.send("\x04")
        self.assertEqual(t.close(), 0)

    def test_editing(self):
        """Backspace, history (arrow up) and UTF-8 in the line."""
        t = self.open("-n", "6")
        t.send("/nonsensé\x7fe\r")
        t.expect("no command /nonsense;")
        t.expect(PROMPT)
        t.send("\x1b[A\r")
        t.expect("no command /nonsense;")
        t.expect(PROMPT)
        t.send("\x04")
        self.assertEqual(t.close(), 0)

    def test_history_file(self):
        path = self.path("history")
        t = self.open("-n", "6", "--set", "shell.history=" + path)
        t.send("/earlier\r")
        t.expect("no command /earlier;")
        t.expect(PROMPT)
        t.send("\x04")
        self.assertEqual(t.close(), 0)
        self.assertTrue(os.path.exists(path))
        t = self.open("-n", "6", "--set", "shell.history=" + path)
        t.send("\x1b[A\r")
        t.expect("no command /earlier;")
        t.expect(PROMPT)
        t.send("\x04")
        self.assertEqual(t.close(), 0)

    def test_ctrl_c_at_the_prompt(self):
        t = self.open("-n", "6")
        t.send("half a line")
        t.expect("half a line")
        t.send("\x03")
        t.expect(r"\^C")
        t.expect(PROMPT)
        self.assertEqual(self.stats(t), 0)
        t.send("\x03")
        t.expect("/quit or Ctrl-D leaves")
        t.expect(PROMPT)
        t.send("\x04")
        self.assertEqual(t.close(), 0)

    def test_ctrl_c_stops_the_answer(self):
        t = self.open("--set", "device.isa=scalar")
        for _ in range(5):  # the answer may end before the key is felt
            t.send("Hello\r")
            t.expect(r"Hello\r?\n")
            t.expect(r"[^\s>]")
            t.send("\x03")
            if "[stopped]" in t.expect(r"\[stopped\]|\[the context is full|%s" % PROMPT):
                break
            t.send("/reset\r")
            t.expect("begins anew")
            t.expect(PROMPT)
        else:
            self.fail("five answers ended before Ctrl-C stopped one")
        t.expect(PROMPT)
        self.assertEqual(self.stats(t), 2)
        t.send("\x04")
        self.assertEqual(t.close(), 0)

    def test_full_context(self):
        t = self.open("-n", "6")
        self.turn(t, "word " * 100)
        t.send("word " * 100 + "\r")
        t.expect("no longer fits.*?/reset")
        t.expect(PROMPT)
        self.assertEqual(self.stats(t), 2)  # the message that did not fit is gone
        t.send("/reset\r")
        t.expect("begins anew")
        self.turn(t, "Hello")
        t.send("\x04")
        self.assertEqual(t.close(), 0)


if __name__ == "__main__":
    unittest.main()
