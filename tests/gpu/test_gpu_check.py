#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""scripts/gpu-check on the CPU: its parts pass there, notice what is wrong, and say `skipped` without a
device; the workload of bench/offline; the bench's file of requests."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path[:0] = [os.path.join(ROOT, "tests", "gpu"), os.path.join(ROOT, "bench")]

import exact  # noqa: E402
import fp8  # noqa: E402
import rig as shared  # noqa: E402
import speed  # noqa: E402

BUILD = os.environ.get("BUILD", os.path.join(ROOT, "build"))
SHORT = os.environ.get("NVLLM_GOLDEN") == "short"
LLAMA3 = shared.checkpoint("llama3-bf16")


def gpu_check(*words):
    with tempfile.TemporaryDirectory() as d:
        p = subprocess.run([os.path.join(ROOT, "scripts", "gpu-check"), *words, "--out", d], capture_output=True, text=True)
        rows = {}
        for name in os.listdir(d):
            with open(os.path.join(d, name)) as f:
                row = json.load(f)
            rows[row["part"]] = row
        return p, rows


class Parts(unittest.TestCase):
    def test_on_the_cpu(self):
        names = ["goldens"] if SHORT else ["goldens", "repeats", "fp8", "offline", "ttft"]
        p, rows = gpu_check(*names, "--device", "cpu", "--build", BUILD)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)
        self.assertIn("%d passed, 0 failed, 0 skipped" % len(names), p.stdout)
        self.assertEqual({r["verdict"] for r in rows.values()}, {"passed"})
        self.assertEqual(sorted(rows), sorted(names))

    def test_no_device(self):
        with tempfile.TemporaryDirectory() as d:
            p, rows = gpu_check("goldens", "cold", "--build", d)
        self.assertEqual((p.returncode, rows), (0, {}), p.stdout + p.stderr)
        self.assertIn("0 passed, 0 failed, 2 skipped", p.stdout)

    def test_unknown_part(self):
        p, _ = gpu_check("nosuch", "--build", BUILD)
        self.assertEqual(p.returncode, 2)
        self.assertIn("there is no part 'nosuch'", p.stderr)


class Notices(unittest.TestCase):
    """A device that is wrong fails the parts: here one that rounds its activations, and another's references."""

    def setUp(self):
        self.rig = shared.Rig(BUILD, "cpu")
        self.addCleanup(self.rig.close)

    def swapped(self, change):
        real = exact.goldens
        exact.goldens = lambda name: change(real(name))
        self.addCleanup(setattr, exact, "goldens", real)

    def test_a_wrong_token(self):
        def change(golden):
            at = max(range(64), key=lambda i: golden[1]["f32"]["margins"][i])
            golden[1]["f32"]["greedy_ids"][at] += 1
            return golden
        self.swapped(change)
        for fn in (lambda: exact.logits(self.rig, "llama3-bf16"), lambda: exact.arm(self.rig, "llama3-bf16", []),
                   lambda: exact.fed(self.rig, "llama3-bf16", [])):
            with self.assertRaises(shared.Failed) as caught:
                fn()
            self.assertIn("margin", str(caught.exception))

    def test_a_log_probability(self):
        def change(golden):
            golden[2]["f32"]["greedy_logprobs"][9] += 2e-3
            return golden
        self.swapped(change)
        with self.assertRaisesRegex(shared.Failed, "log probability is off by 0.00"):
            exact.arm(self.rig, "llama3-bf16", [])

    def test_wrong_weights(self):
        real = fp8.round_row
        self.addCleanup(setattr, fp8, "round_row", real)
        fp8.round_row = lambda row: real(row[::-1])
        model, mine = shared.checkpoint("llama2-f16"), fp8.rounded(self.rig, "llama2-f16")
        for margin, word in ((fp8.MARGIN, "the likeliest is"), (float("inf"), "off by")):
            with self.assertRaisesRegex(shared.Failed, word):
                fp8.one(self.rig, "llama2-f16", "x", mine, [], model, [], margin, fp8.MEAN)

    def test_eight_bits(self):
        up = [m * 2.0 ** -9 for m in range(8)] + [(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)][:-1]
        for i, (a, b) in enumerate(zip(up, up[1:])):
            self.assertEqual([fp8.e4m3(x) for x in (a, -b, (a + b) / 2)], [a, -b, (a, b)[i % 2]])
        self.assertEqual((up[-1], fp8.e4m3(449), fp8.e4m3(-1e9)), (448, 448, -448))

    def test_the_margin_rule(self):
        self.assertEqual(shared.parted([1, 2, 3], [1, 2, 3], [0, 0, 0]), (None, None))
        self.assertEqual(shared.parted([1, 9, 3], [1, 2, 3], [5, 0.001, 5]), (None, 1))
        self.assertIn("token 1 is 9, not 2", shared.parted([1, 9, 3], [1, 2, 3], [5, 0.5, 5])[0])
        self.assertIn("missing", shared.parted([1], [1, 2, 3], [0, 0, 0])[0])


class Workload(unittest.TestCase):
    def test_lengths(self):
        asks = speed.workload(0)
        self.assertEqual((len(asks), sum(n for _, n in asks), sum(len(p) for p, _ in asks)), (256, 133966, 142827))
        self.assertEqual(sum(n for _, n in speed.workload(1)), 156222)
        self.assertEqual(sum(n for _, n in speed.workload(2)), 140460)
        self.assertEqual({min(map(len, (p for p, _ in asks))), max(map(len, (p for p, _ in asks)))}, {107, 1024})


class Trace(unittest.TestCase):
    def bench(self, text, *words):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
            f.write(text)
            f.flush()
            return subprocess.run([os.environ.get("NVLLM", os.path.join(BUILD, "nvllm")), "bench", "--trace", f.name, "--log-level", "error",
                                   "--set", "model.path=" + LLAMA3, "--set", "device.plugin=cpu", "--set", "engine.memory=64M", *words],
                                  capture_output=True, text=True)

    def test_runs_all(self):
        asks = [{"ids": [i + 1] * (3 * i + 1), "max_tokens": 5 * i + 1} for i in range(9)]
        p = self.bench("".join(json.dumps(a) + "\n" for a in asks), "-r", "2", "--temperature", "0.6")
        self.assertEqual(p.returncode, 0, p.stderr)
        got = json.loads(p.stdout)
        self.assertEqual(got["requests"], 9)
        self.assertEqual(got["output_tokens"], 2 * sum(a["max_tokens"] for a in asks))
        self.assertEqual(got["prompt_tokens"], 2 * sum(len(a["ids"]) for a in asks))
        self.assertGreater(got["run_s"], 0)

    def test_refusals(self):
        good = '{"ids": [1], "max_tokens": 2}\n'
        for text, word in (("", "holds no requests"), (good + "{", ":2: no JSON"), ('{"ids": [], "max_tokens": 1}', "\"ids\" must be"),
                           ('{"max_tokens": 1}', "\"ids\" must be"), ('{"ids": [1, -1], "max_tokens": 1}', "no token"),
                           ('{"ids": [1, 1.5], "max_tokens": 1}', "no token"), (good + good + '{"ids": [1]}', ":3: \"max_tokens\""),
                           ('{"ids": [1], "max_tokens": 0}', "\"max_tokens\" must")):
            p = self.bench(text)
            self.assertEqual((p.returncode, p.stdout), (1, ""), text)
            self.assertIn(word, p.stderr)


if __name__ == "__main__":
    unittest.main()
