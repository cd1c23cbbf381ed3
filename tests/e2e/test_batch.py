#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`nvllm batch` as a user has it: the whole program, a tiny model, files in and out."""
import json
import os
import pty
import signal
import subprocess
import time
import unittest

from common import Case

COMPLETION, CHAT = "/v1/completions", "/v1/chat/completions"


def line(custom_id, body, url=COMPLETION, **more):
    return json.dumps(dict(custom_id=custom_id, method="POST", url=url, body=body, **more), ensure_ascii=False) + "\n"


class Batch(Case):
    def batch(self, text, *words, code=0):
        self.write("in.jsonl", text)
        p = self.nvllm("batch", "-i", self.path("in.jsonl"), "-o", self.path("out.jsonl"), *words, code=code)
        return p.stderr.decode()

    def answers(self):
        return [json.loads(s) for s in self.read("out.jsonl").decode().splitlines()]

    def one(self, body, url=COMPLETION):
        """The body of the answer to one good line."""
        self.batch(line("a", body, url))
        answer, = self.answers()
        self.assertEqual(answer["response"]["status_code"], 200, answer)
        self.assertIsNone(answer["error"])
        return answer["response"]["body"]

    def refused(self, body, url=COMPLETION):
        """The error of one line that is refused."""
        self.batch(line("a", body, url), code=1)
        answer, = self.answers()
        self.assertEqual(answer["response"]["status_code"], 400, answer)
        return answer["response"]["body"]["error"]

    def left(self):
        """What the run left in the folder beside its input."""
        return sorted(set(os.listdir(self.dir)) - {"conf.ini", "in.jsonl"})


class Answers(Batch):
    def test_order_and_ids(self):
        n = 30
        text = "".join(line("id-%d" % i, {"prompt": "x" * (1 + i * 7 % 40), "max_tokens": 1 + i * 5 % 11,
                                          "temperature": 0, "ignore_eos": True}) for i in range(n))
        said = self.batch(text)
        answers = self.answers()
        self.assertEqual([a["custom_id"] for a in answers], ["id-%d" % i for i in range(n)])
        self.assertEqual(len({a["id"] for a in answers}), n)
        for i, a in enumerate(answers):
            usage = a["response"]["body"]["usage"]
            self.assertEqual(usage["completion_tokens"], 1 + i * 5 % 11)
            self.assertEqual(usage["total_tokens"], usage["prompt_tokens"] + usage["completion_tokens"])
        self.assertIn("30 lines, 0 failed", said)
        self.assertNotIn("\r", said)  # no bar in a file
        self.assertEqual(self.left(), ["out.jsonl"])

    def test_company_changes_nothing(self):
        """A line's answer is the same alone and among others, sampled with a seed or greedy."""
        bodies = [{"prompt": "Hello %d" % i, "max_tokens": 12, "seed": 7 + i, "temperature": i % 3 * 0.7}
                  for i in range(12)]
        self.batch("".join(line(str(i), b) for i, b in enumerate(bodies)))
        together = [a["response"]["body"]["choices"][0]["text"] for a in self.answers()]
        alone = [self.one(b)["choices"][0]["text"] for b in bodies[:4]]
        self.assertEqual(alone, together[:4])

    def test_text_and_ids_are_one_prompt(self):
        a = self.one({"prompt": "The quick brown fox", "max_tokens": 6, "temperature": 0, "return_token_ids": True})
        ids = a["prompt_token_ids"]
        self.assertEqual(ids, a["choices"][0]["prompt_token_ids"])
        self.assertEqual(len(ids), a["usage"]["prompt_tokens"])
        b = self.one({"prompt": ids, "max_tokens": 6, "temperature": 0, "return_token_ids": True})
        self.assertEqual(b["prompt_token_ids"], ids)
        self.assertEqual(b["choices"][0]["token_ids"], a["choices"][0]["token_ids"])
        self.assertEqual(b["choices"][0]["text"], a["choices"][0]["text"])
        self.assertEqual(len(b["choices"][0]["token_ids"]), b["usage"]["completion_tokens"])

    def test_logprobs(self):
        c = self.one({"prompt": "Hello", "max_tokens": 5, "temperature": 0, "logprobs": 3, "ignore_eos": True})["choices"][0]
        lp = c["logprobs"]
        self.assertEqual({len(v) for v in lp.values()}, {5})
        self.assertEqual(lp["text_offset"][0], 0)
        for token, logprob, top in zip(lp["tokens"], lp["token_logprobs"], lp["top_logprobs"]):
            self.assertLessEqual(logprob, 0)
            self.assertLessEqual(len(top), 4)
            self.assertEqual(top[token], logprob)
            self.assertEqual(max(top.values()), logprob)  # greedy takes the likeliest
        self.assertIsNone(c["prompt_logprobs"])

    def test_prompt_logprobs(self):
        a = self.one({"prompt": "Hello there", "max_tokens": 1, "prompt_logprobs": 2, "return_token_ids": True})
        ids, got = a["prompt_token_ids"], a["choices"][0]["prompt_logprobs"]
        self.assertEqual(len(got), len(ids))
        self.assertIsNone(got[0])
        for i, entry in zip(ids[1:], got[1:]):
            self.assertIn(str(i), entry)
            self.assertIn(len(entry), (2, 3))
            ranks = sorted(e["rank"] for e in entry.values())
            self.assertEqual(ranks[:2], [1, 2])
            for e in entry.values():
                self.assertLessEqual(e["logprob"], 0)
                self.assertIsInstance(e["decoded_token"], str)

    def test_prompt_logprobs_agree_with_sampled_ones(self):
        """What a greedy answer was given is what its tokens get as part of a prompt."""
        a = self.one({"prompt": "Hello", "max_tokens": 6, "temperature": 0, "logprobs": 0, "ignore_eos": True,
                      "return_token_ids": True})
        c = a["choices"][0]
        ids = a["prompt_token_ids"] + c["token_ids"]
        b = self.one({"prompt": ids, "max_tokens": 1, "prompt_logprobs": 0})
        again = [e[str(t)]["logprob"] for t, e in zip(c["token_ids"], b["choices"][0]["prompt_logprobs"][-6:])]
        for x, y in zip(c["logprobs"]["token_logprobs"], again):
            self.assertAlmostEqual(x, y, delta=2e-2)

    def test_chat(self):
        a = self.one({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "temperature": 0,
                      "logprobs": True, "top_logprobs": 2, "return_token_ids": True, "ignore_eos": True}, CHAT)
        self.assertEqual(a["object"], "chat.completion")
        c = a["choices"][0]
        self.assertEqual(c["message"]["role"], "assistant")
        self.assertEqual(len(c["logprobs"]["content"]), 4)
        joined = b"".join(bytes(t["bytes"]) for t in c["logprobs"]["content"])
        self.assertEqual(joined.decode(errors="replace"), c["message"]["content"])
        for t in c["logprobs"]["content"]:
            self.assertEqual(len(t["top_logprobs"]), 2)
            self.assertEqual(t["top_logprobs"][0]["logprob"], t["logprob"])
        parts = self.one({"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "max_tokens": 4,
                          "temperature": 0, "return_token_ids": True, "ignore_eos": True}, CHAT)
        self.assertEqual(parts["prompt_token_ids"], a["prompt_token_ids"])

    def test_chat_goes_on_to_the_context(self):
        a = self.one({"messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True, "temperature": 0}, CHAT)
        self.assertEqual(a["usage"]["total_tokens"], 512)
        self.assertEqual(a["choices"][0]["finish_reason"], "length")

    def test_choices(self):
        """n answers to one prompt: greedy ones are all the one answer, drawn ones are not; each is counted."""
        body = {"prompt": "Hello", "max_tokens": 12, "ignore_eos": True}
        one = self.one(dict(body, temperature=0))
        for url, n in (COMPLETION, 5), (CHAT, 3):
            more = {"prompt": "Hello"} if url == COMPLETION else {"messages": [{"role": "user", "content": "Hello"}]}
            a = self.one(dict({"max_tokens": 12, "ignore_eos": True, "temperature": 0, "n": n}, **more), url)
            self.assertEqual([c["index"] for c in a["choices"]], list(range(n)))
            self.assertEqual(a["usage"]["completion_tokens"], 12 * n)
            self.assertEqual(a["usage"]["total_tokens"], a["usage"]["prompt_tokens"] + 12 * n)
            self.assertEqual(a["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
            if url == COMPLETION:
                self.assertEqual({c["text"] for c in a["choices"]}, {one["choices"][0]["text"]})
        drawn = [self.one(dict(body, temperature=1.5, n=4, seed=11)) for _ in range(2)]
        self.assertGreater(len({c["text"] for c in drawn[0]["choices"]}), 1)
        self.assertEqual(drawn[0]["choices"], drawn[1]["choices"])

    def test_cached_tokens(self):
        """A prefix that an earlier line computed is found, but not by a line of another salt; the answer is the same."""
        prompt = [5 + i % 200 for i in range(200)]
        salts = [None, None, "a", "a", "b"]
        text = "".join(line(str(i), dict({"prompt": prompt, "max_tokens": 4, "temperature": 0},
                                         **({"cache_salt": s} if s else {}))) for i, s in enumerate(salts))
        for cache in "hash", "radix":
            self.batch(text, "--set", "cache.plugin=" + cache, "--set", "attention.page_tokens=16",
                       "--set", "batch.max_inflight=1")
            bodies = [a["response"]["body"] for a in self.answers()]
            cached = [b["usage"]["prompt_tokens_details"]["cached_tokens"] for b in bodies]
            self.assertEqual([c > 0 for c in cached], [False, True, False, True, False], cached)
            self.assertEqual({b["choices"][0]["text"] for b in bodies}, {bodies[0]["choices"][0]["text"]})
            self.assertTrue(all(c < 200 for c in cached))  # at least one token is always computed

    def test_stop_text(self):
        free = self.one({"prompt": "Hello", "max_tokens": 30, "temperature": 0, "ignore_eos": True})["choices"][0]["text"]
        stop = free[4:7]
        c = self.one({"prompt": "Hello", "max_tokens": 30, "temperature": 0, "ignore_eos": True,
                      "stop": ["no such text", stop]})["choices"][0]
        self.assertEqual(c["text"], free[:free.index(stop)])
        self.assertEqual(c["finish_reason"], "stop")
        self.assertEqual(c["stop_reason"], stop)

    def test_seed(self):
        body = {"prompt": "Hello", "max_tokens": 16, "temperature": 1.5, "ignore_eos": True, "return_token_ids": True}
        ids = [self.one(dict(body, seed=s))["choices"][0]["token_ids"] for s in (2**53, 2**53, 2**53 + 1)]
        self.assertEqual(ids[0], ids[1])
        self.assertNotEqual(ids[0], ids[2])  # a double cannot tell these two seeds apart


class BadLines(Batch):
    def test_bad_among_good(self):
        good = [line("good-%d" % i, {"prompt": "ok", "max_tokens": 3, "temperature": 0}) for i in range(4)]
        bad = [b"{\n", b"\xff\xfe\n", b'{"custom_id": "n", "method": "POST", "url": "/v1/completions"}\n',
               line("huge", {"prompt": "ok", "max_tokens": 100000}).encode(),
               line("long", {"prompt": "word " * 2000}).encode(),
               line("id", {"prompt": [5, 1111]}).encode()]
        text = good[0].encode() + b"".join(b + g.encode() for b, g in zip(bad, good[1:] * 2))
        text = b"".join(dict.fromkeys(text.splitlines(True)))  # each good line once
        said = self.batch(text, code=1)
        answers = self.answers()
        self.assertEqual(len(answers), len(bad) + len(good))
        for a in answers:
            is_good = (a["custom_id"] or "").startswith("good")
            self.assertEqual(a["response"]["status_code"], 200 if is_good else 400, a)
            self.assertEqual(a["error"] is None, is_good)
        self.assertIn("10 lines, 6 failed", said)

    def test_engine_refusals_say_why(self):
        for body, words in [({"prompt": "ok", "max_tokens": 100000}, ("max_tokens", "512")),
                            ({"prompt": "word " * 2000}, ("512",)),
                            ({"prompt": [5, 1111]}, ("1111",)),
                            ({"prompt": [1] * 512}, ("512",)),
                            ({"prompt": "ok", "n": 129}, ("n is 129", "1 to 128")),
                            ({"prompt": "ok", "n": 0}, ("n is 0",)),
                            ({"prompt": "ok", "cache_salt": ""}, ("cache_salt",))]:
            e = self.refused(body)
            for w in words:
                self.assertIn(w, e["message"])

    def test_never_ignored(self):
        for key in ("suffix", "response_format", "tools", "best-of", "timeout", "echo_prompt", "use_beam_search"):
            e = self.refused({"prompt": "x", key: 1})
            self.assertEqual(e["param"], key)
            self.assertIn("'%s'" % key, e["message"])
        self.assertIn("did you mean 'max_tokens'", self.refused({"prompt": "x", "max_token": 1})["message"])


class Files(Batch):
    def fails(self, *words, code=1):
        p = self.nvllm("batch", *words, code=code)
        said = p.stderr.decode()
        self.assertNotIn("memory:", said)  # refused before the engine opened
        return said

    def test_refused_early(self):
        inp = self.write("in.jsonl", line("a", {"prompt": "x"}))
        self.assertIn("-o", self.fails("-i", inp))
        self.assertIn("-i", self.fails("-o", self.path("out.jsonl")))
        self.assertIn("nowhere", self.fails("-i", self.path("nowhere"), "-o", self.path("out.jsonl")))
        self.assertIn("folder", self.fails("-i", self.dir, "-o", self.path("out.jsonl")))
        self.assertIn("same file", self.fails("-i", inp, "-o", inp))
        self.assertIn("no plain file", self.fails("-i", inp, "-o", "/dev/null"))
        self.assertIn("cannot write", self.fails("-i", inp, "-o", self.path("none/out.jsonl")))
        self.write("out.jsonl.journal", "")
        self.assertIn("--resume", self.fails("-i", inp, "-o", self.path("out.jsonl")))
        self.assertEqual(self.left(), ["out.jsonl.journal"])

    def test_bar_on_a_terminal(self):
        self.write("in.jsonl", "".join(line(str(i), {"prompt": "x", "max_tokens": 8}) for i in range(8)))
        main, side = pty.openpty()
        p = subprocess.Popen(self.command("batch", "-i", self.path("in.jsonl"), "-o", self.path("out.jsonl")),
                             stdin=subprocess.DEVNULL, stderr=side)
        os.close(side)
        seen = b""
        while True:
            try:
                chunk = os.read(main, 4096)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            seen += chunk
        os.close(main)
        self.assertEqual(p.wait(), 0)
        self.assertIn(b"/8 lines", seen)
        self.assertIn(b"8 lines, 0 failed", seen)


    def test_nobody_reads_what_it_says(self):
        """Its messages go into a closed pipe: the answers are all there all the same."""
        self.write("in.jsonl", "".join(line(str(i), {"prompt": "x", "max_tokens": 8}) for i in range(8)))
        r, w = os.pipe()
        os.close(r)
        p = subprocess.run(self.command("batch", "-i", self.path("in.jsonl"), "-o", self.path("out.jsonl")),
                           stdin=subprocess.DEVNULL, stdout=w, stderr=w, timeout=120)
        os.close(w)
        self.assertEqual(p.returncode, 0)
        self.assertEqual(len(self.answers()), 8)
        self.assertEqual(self.left(), ["out.jsonl"])


class Pipe(Batch):
    """The input comes through a pipe, by and by."""

    def start(self):
        os.mkfifo(self.path("in.jsonl"))
        p = subprocess.Popen(self.command("batch", "-i", self.path("in.jsonl"), "-o", self.path("out.jsonl")),
                             stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.addCleanup(p.stderr.close)
        self.addCleanup(p.kill)
        return p, open(self.path("in.jsonl"), "wb", buffering=0)

    def wait_for_journal(self, p, lines):
        for _ in range(6000):
            self.assertIsNone(p.poll())
            try:
                if self.read("out.jsonl.journal").count(b"\n") >= lines:
                    return
            except FileNotFoundError:
                pass
            time.sleep(0.01)
        self.fail("no %d lines in the journal after a minute" % lines)

    def test_answers_before_the_end(self):
        """Lines are answered though the next one is only half there."""
        p, pipe = self.start()
        half = line("b", {"prompt": "two", "max_tokens": 3}).encode()
        pipe.write(line("a", {"prompt": "one", "max_tokens": 3}).encode() + half[:20])
        self.wait_for_journal(p, 2)
        pipe.write(half[20:])
        self.wait_for_journal(p, 3)
        pipe.close()
        self.assertEqual(p.wait(timeout=60), 0)
        self.assertEqual([a["custom_id"] for a in self.answers()], ["a", "b"])

    def test_ctrl_c_while_it_waits(self):
        p, pipe = self.start()
        pipe.write(line("a", {"prompt": "one", "max_tokens": 3}).encode() + b'{"custom')
        self.wait_for_journal(p, 2)
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(timeout=60), 130)
        pipe.close()
        self.assertIn(b"1 lines are finished and kept", p.stderr.read())


class Interruption(Batch):
    N = 60

    def text(self):
        return "".join(line("id-%d" % i, {"prompt": "Line %d" % i, "max_tokens": 100, "temperature": 0,
                                          "ignore_eos": True}) for i in range(self.N))

    def journal_lines(self):
        try:
            return self.read("out.jsonl.journal").count(b"\n")
        except FileNotFoundError:
            return 0

    def start_and_signal(self, sig, *words, times=1):
        """Sends a signal once a few lines are finished; the exit code."""
        self.write("in.jsonl", self.text())
        p = subprocess.Popen(self.command("batch", "-i", self.path("in.jsonl"), "-o", self.path("out.jsonl"), *words),
                             stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while self.journal_lines() < 4 and p.poll() is None:
            time.sleep(0.005)
        for _ in range(times):
            p.send_signal(sig)
            time.sleep(0.002)
        said = p.stderr.read().decode()
        p.stderr.close()
        return p.wait(), said

    def resume_and_compare(self):
        kept = self.journal_lines() - 1
        self.assertGreaterEqual(kept, 1)
        self.assertLess(kept, self.N)
        self.assertEqual(self.left(), ["out.jsonl.journal"])
        said = self.batch(self.text(), "--resume")
        self.assertRegex(said, r"60 lines, 0 failed, \d+ kept")
        resumed = [(a["custom_id"], a["response"]["body"]["choices"]) for a in self.answers()]
        self.assertEqual(self.left(), ["out.jsonl"])
        self.batch(self.text())
        self.assertEqual(resumed, [(a["custom_id"], a["response"]["body"]["choices"]) for a in self.answers()])

    def test_ctrl_c_and_resume(self):
        code, said = self.start_and_signal(signal.SIGINT)
        self.assertEqual(code, 130, said)
        self.assertIn("--resume", said)
        self.resume_and_compare()

    def test_ctrl_c_twice(self):
        """The second one need not wait for the running step; the journal is whole either way."""
        code, said = self.start_and_signal(signal.SIGINT, times=2)
        self.assertIn(code, (130, -signal.SIGINT), said)
        self.resume_and_compare()

    def test_kill_and_resume(self):
        code, _ = self.start_and_signal(signal.SIGKILL)
        self.assertEqual(code, -signal.SIGKILL)
        self.resume_and_compare()

    def test_another_input_is_refused(self):
        self.start_and_signal(signal.SIGINT)
        self.write("in.jsonl", self.text().replace("Line 1", "Lime 1"))
        p = self.nvllm("batch", "-i", self.path("in.jsonl"), "-o", self.path("out.jsonl"), "--resume", code=1)
        self.assertIn(b"input changed", p.stderr)


class CrowdedInterruption(Interruption):
    """The same with all lines in the engine at once, more than it runs at once, some of several choices."""
    CROWD = ("--set", "batch.max_inflight=1000", "--set", "engine.max_seqs=16")

    def text(self):
        return "".join(line("id-%d" % i, {"prompt": "Line %d" % i, "max_tokens": 60, "temperature": i % 2, "seed": i,
                                          "ignore_eos": True, "n": 1 + i % 3}) for i in range(self.N))

    def command(self, *words):
        return super().command(*words) + list(self.CROWD)


if __name__ == "__main__":
    unittest.main()
