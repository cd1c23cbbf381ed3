#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""`nvllm bench`: its report says what was run; nothing is said of how fast. The programs in bench/ run."""
import json
import os
import signal
import subprocess
import unittest

import common


class Bench(common.Case):
    def bench(self, *words, code=0):
        p = subprocess.run(self.command("bench", "-r", "1", *words), stdin=subprocess.DEVNULL, capture_output=True,
                           timeout=300)
        self.assertEqual(p.returncode, code, p.stderr.decode())
        return json.loads(p.stdout) if code == 0 else p.stderr.decode()

    def command(self, *words):
        return [common.NVLLM, words[0], "--config", self.conf, "--set", "device.threads=1", *words[1:]]

    def test_one_batch(self):
        b = self.bench("-p", "20", "-n", "6", "-b", "3", "-d", "10")
        self.assertEqual((b["prompt"], b["depth"], b["gen"], b["batch"], b["requests"]), (20, 10, 6, 3, 3))
        self.assertEqual((b["prompt_tokens"], b["output_tokens"], b["cached_tokens"], b["hit_rate"]), (90, 18, 0, 0))
        self.assertEqual(b["preempted"], 0)
        for key in "prompt_tokens_per_s", "gen_tokens_per_s", "run_s", "run_tokens_per_s", "run_output_tokens_per_s":
            self.assertGreater(b[key], 0, key)
        for key in "ttft_ms", "tpot_ms", "gap_ms":
            self.assertGreater(b[key]["median"], 0)
            self.assertLessEqual(b[key]["median"], b[key]["p95"])
            self.assertLessEqual(b[key]["p95"], b[key]["max"])
        self.assertEqual((b["gap_long_ms"], b["long_ttft_ms"]), (None, None))
        # every prompt row once, every output token but the last fed back
        self.assertEqual(b["computed_tokens"], 90 + 3 * 5)

    def test_shared_prefix(self):
        words = ("-p", "5", "--prefix", "64", "-n", "4", "-b", "6", "--set", "attention.page_tokens=16")
        self.assertEqual(self.bench(*words, "--set", "cache.plugin=none")["cached_tokens"], 0)
        for cache in "hash", "radix":
            b = self.bench(*words, "--set", "cache.plugin=" + cache)
            self.assertEqual(b["prompt_tokens"], 6 * 69)
            self.assertEqual(b["cached_tokens"], 5 * 64)  # computed once
            self.assertAlmostEqual(b["hit_rate"], 5 * 64 / (6 * 69), places=3)
            self.assertEqual(b["computed_tokens"], 6 * 69 - 5 * 64 + 6 * 3)

    def test_more_requests_than_at_once(self):
        b = self.bench("-p", "8", "-n", "4", "-b", "2", "--requests", "5", "--arrival", "3")
        self.assertEqual((b["prompt_tokens"], b["output_tokens"], b["requests"]), (40, 20, 5))
        self.assertIsNone(b["gen_tokens_per_s"])  # they do not all run together
        self.assertGreaterEqual(b["run_s"], 0.012)

    def test_turns(self):
        b = self.bench("-p", "8", "-n", "4", "-b", "2", "--turns", "3")
        # each prompt is the last one, its answer, and 8 more
        self.assertEqual(b["prompt_tokens"], 2 * (8 + 20 + 32))
        self.assertEqual(b["output_tokens"], 2 * 3 * 4)

    def test_long_prompt(self):
        b = self.bench("-p", "8", "-n", "40", "-b", "2", "--long", "200", "--set", "engine.max_tokens=16")
        self.assertEqual(b["prompt_tokens"], 2 * 8 + 200)
        self.assertGreater(b["long_ttft_ms"], 0)
        self.assertGreater(b["gap_long_ms"]["max"], 0)

    def test_refusals(self):
        self.assertIn("context", self.bench("-p", "1000", code=1))
        self.assertIn("turns", self.bench("--turns", "0", code=1))
        self.assertIn("requests", self.bench("--requests", "many", code=1))

    def test_interrupted(self):
        p = subprocess.Popen(self.command("bench", "-p", "4", "-n", "400", "-b", "8", "-r", "1000"),
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while b"start:" not in p.stderr.readline():  # the engine is open
            self.assertIsNone(p.poll())
        p.send_signal(signal.SIGINT)
        out, said = p.communicate(timeout=120)
        self.assertEqual((p.returncode, out), (130, b""), said)

    def test_reader_gone(self):
        r, w = os.pipe()
        os.close(r)
        p = subprocess.run(self.command("bench", "-p", "4", "-n", "2", "-r", "1"), stdin=subprocess.DEVNULL, stdout=w,
                           stderr=subprocess.PIPE, timeout=120)
        os.close(w)
        self.assertEqual(p.returncode, 1)
        self.assertIn(b"cannot write to standard output", p.stderr)


class Programs(common.Case):
    """bench/prefix and bench/batch in small."""

    def report(self, name, *words):
        p = subprocess.run([os.path.join(common.ROOT, "bench", name), "--quick", "--nvllm", os.path.abspath(common.NVLLM),
                            "--config", self.conf, "--set", "device.threads=1", "--set", "attention.page_tokens=16",
                            "--out", self.path("out.json"), *words], capture_output=True, timeout=300)
        self.assertEqual(p.returncode, 0, p.stderr.decode())
        with open(self.path("out.json")) as f:
            out = json.load(f)
        self.assertEqual(out, json.loads(p.stdout))
        return out["rows"]

    def test_prefix(self):
        rows = {(r["traffic"], r["cache"]): r for r in self.report("prefix")}
        self.assertEqual(len(rows), 9)
        for (traffic, cache), r in rows.items():
            found = traffic != "none" and cache != "none"
            self.assertEqual(r["hit_rate"] > 0, found, r)
            self.assertEqual(r["computed_tokens"] < rows[traffic, "none"]["computed_tokens"], found, r)
            self.assertGreater(r["speed_ratio"], 0)

    def test_batch(self):
        rows = self.report("batch")
        self.assertEqual([r["arm"] for r in rows], ["1", "2", "4", "16", "64", "1", "2", "ample", "tight"])
        ample, tight = rows[-2:]
        self.assertEqual(ample["preempted"], 0)
        self.assertGreater(tight["preempted"], 0)
        self.assertGreater(tight["computed_tokens"], ample["computed_tokens"])
        self.assertEqual(tight["output_tokens"], ample["output_tokens"])


if __name__ == "__main__":
    unittest.main()
