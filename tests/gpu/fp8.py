# SPDX-License-Identifier: MIT
"""Weights and K and V of 8 bits, beside 16 and 32. The same checkpoint with its weights rounded here is what
[device] weights = fp8 must give, to the last digits where all else is f32; where it is not, the answers
are another model's, and only how far they are off is looked at."""
import array
import json
import math
import os
import shutil
import struct
import sys

from rig import CLOSE, EXACT, ROOT, Failed, ask, checkpoint, goldens, parted

NAMES = ["llama3-bf16", "qwen3-tied-bf16", "llama2-f16", "qwen3-moe-bf16"]
N_NEW = 48
# These checkpoints are random, so that what is rounded in one layer grows in the next: with rounded weights alone, all
# else in f32, log probabilities are off by 0.26 to 0.5 in the mean and the likeliest token changed at margins of up to
# 1.7; of another model they are off by 2.3. K and V of 8 bits add to it. A few positions in a hundred have a
# margin above MARGIN.
MARGIN, MEAN = 3.0, 1.0


# ---- a checkpoint whose weights are rounded ----

def e4m3(x):
    """The nearest number of OCP's E4M3, ties to even; beyond 448, 448."""
    step = math.ldexp(1, max(math.frexp(x)[1] - 4, -9))
    return max(-448.0, min(448.0, round(x / step) * step)) if x else 0.0


def round_row(row):
    """array('f') of scale * e4m3, all in f32: scale is the largest / 448."""
    one = array.array("f", [max(map(abs, row)) / 448])
    scale = one[0] or 1.0
    quotients = array.array("f", [x / scale for x in row])
    return array.array("f", [e4m3(x) * scale for x in quotients])


def is_rounded(name, shape):
    """What store() of the device keeps in 8 bits, of these families."""
    return name.endswith("_proj.weight") and len(shape) == 2 and shape[0] > 1 and shape[1] % 16 == 0


def rounded(rig, name):
    """The folder of that checkpoint, of one file; its rounded weights are f32."""
    sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
    from to_gguf import widen
    source, folder = checkpoint(name), os.path.join(rig.scratch, name + "-rounded")
    if os.path.isdir(folder):
        return folder
    shutil.copytree(source, folder)
    path = os.path.join(folder, "model.safetensors")
    os.chmod(path, 0o644)
    with open(path, "rb") as f:
        raw = f.read()
    n = struct.unpack("<Q", raw[:8])[0]
    header, body, out, at = json.loads(raw[8:8 + n]), raw[8 + n:], [], 0
    for tensor, t in sorted(header.items()):
        if tensor == "__metadata__":
            continue
        part = body[t["data_offsets"][0]:t["data_offsets"][1]]
        if is_rounded(tensor, t["shape"]):
            cols, numbers = t["shape"][1], widen(t["dtype"], part)
            part = b"".join(round_row(numbers[i:i + cols]).tobytes() for i in range(0, len(numbers), cols))
            t["dtype"] = "F32"
        t["data_offsets"] = [at, at + len(part)]
        at += len(part)
        out.append(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(out))
    return folder


# ---- runs ----

def run(rig, model, name, sets):
    """The reference's tokens fed: (likeliest token, its margin, the fed token's log probability) of each position.
    And the greedy answers: (tokens, margins)."""
    golden = goldens(name)
    fed = [g["prompt_ids"] + g["f32"]["greedy_ids"] for g in golden]
    out = rig.batch(model, [ask(ids, 1, prompt_logprobs=2) for ids in fed] +
                    [ask(g["prompt_ids"], N_NEW, logprobs=2) for g in golden], sets)
    rows, answers = [], []
    for ids, choice in zip(fed, out):
        for token, e in zip(ids, choice[0]["prompt_logprobs"]):
            if e:
                top = sorted((v["rank"], v["logprob"], int(t)) for t, v in e.items())
                rows.append((top[0][2], top[0][1] - top[1][1], e[str(token)]["logprob"]))
    for choice in out[len(golden):]:
        tops = [sorted(t.values()) for t in choice[0]["logprobs"]["top_logprobs"]]
        answers.append((choice[0]["token_ids"], [t[-1] - t[-2] if len(t) > 1 else 9 for t in tops]))
    return rows, answers


def beside(got, want, margin, mean):
    """Fails where a likeliest token is another, or a greedy answer parts, at a larger margin of want's, or where the
    mean error of log probabilities is not below `mean`. What it saw."""
    errors = [abs(g[2] - w[2]) for g, w in zip(got[0], want[0])]
    for i, (g, w) in enumerate(zip(got[0], want[0])):
        if not w[1] <= margin and g[0] != w[0]:
            raise Failed("position %d: the likeliest is %d, not %d, at a margin of %g" % (i, g[0], w[0], w[1]))
    for i, (g, w) in enumerate(zip(got[1], want[1])):
        why, _ = parted(g[0], w[0], w[1], margin)
        if why:
            raise Failed("answer %d: %s" % (i, why))
    off = sum(errors) / len(errors)
    if not off < mean:
        raise Failed("log probabilities are off by %g in the mean" % off)
    others = [w[1] for g, w in zip(got[0], want[0]) if g[0] != w[0]]
    return {"mean_error": float("%.3g" % off), "largest_error": float("%.3g" % max(errors)), "positions": len(errors),
            "beyond_the_margin": sum(w[1] > margin for w in want[0]), "other_likeliest": len(others),
            "at_margins_up_to": float("%.3g" % max(others, default=0))}


def one(rig, name, what, model, sets, ref, ref_sets, margin, mean):
    try:
        return beside(run(rig, model, name, sets), run(rig, ref, name, ref_sets), margin, mean)
    except Failed as e:
        raise Failed("%s: %s" % (what, e)) from None


def part_fp8(rig):
    """Weights of 8 bits: in f32 as the same weights rounded before; in bf16, with K and V of 8 bits, near 16 bits."""
    jobs = {}
    for name in NAMES:
        plain, mine = checkpoint(name), rounded(rig, name)
        if rig.device == "cpu":  # it has no such option: the rounded weights stand in
            arms = {"weights": (mine, EXACT, plain, EXACT, MARGIN, MEAN)}
        else:
            w, kv = ["device.weights=fp8"], ["engine.kv_dtype=fp8"]
            arms = {"f32, rounded before": (plain, EXACT + w, mine, EXACT, CLOSE, 1e-3),
                    "f32, rounded before, chunks of 7": (plain, EXACT + w + ["engine.max_tokens=7"], mine, EXACT, CLOSE, 1e-3),
                    "weights": (plain, w, plain, [], MARGIN, MEAN),
                    "K and V": (plain, kv, plain, [], MARGIN, MEAN),
                    "both": (plain, w + kv, plain, [], MARGIN, MEAN),
                    "both, chunks of 7": (plain, w + kv + ["engine.max_tokens=7"], plain, [], MARGIN, MEAN),
                    "both, graphs off": (plain, w + kv + ["graphs.capture=off"], plain, [], MARGIN, MEAN)}
        for what, a in arms.items():
            # A router's tie may break the other way, and then all logits differ: no margin says so.
            if "moe" in name and a[4] == MARGIN:
                a = (*a[:4], math.inf, MEAN)
            jobs["%s, %s" % (name, what)] = lambda n=name, w=what, a=a: one(rig, n, w, *a)
    return rig.many(jobs)
