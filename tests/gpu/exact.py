# SPDX-License-Identifier: MIT
"""The tiny checkpoints on the device against Hugging Face transformers in float32 (tests/data/goldens)."""
import os

from rig import CLOSE, DATA, EXACT, NAMES, Failed, ask, checkpoint, goldens, npy, parted, records

N_NEW = 64
ARMS = {  # each must give the tokens of the reference
    "plain": [],
    "naive attention": ["attention.plugin=naive"],
    "graphs off": ["graphs.capture=off"],
    "graphs at startup": ["graphs.capture=startup"],
    "graphs at startup, no mixed ones": ["graphs.capture=startup", "graphs.mixed=0"],
    "run_ahead 0": ["engine.run_ahead=0"],
    "run_ahead 0, graphs off": ["engine.run_ahead=0", "graphs.capture=off"],
    "run_ahead 4, chunks of 7": ["engine.run_ahead=4", "engine.max_tokens=7"],
    "chunks of 1": ["engine.max_tokens=1"],
    "chunks of 16": ["engine.max_tokens=16"],
    "chunks of 64, naive": ["engine.max_tokens=64", "attention.plugin=naive"],
    "one at a time": ["engine.max_seqs=1"],
    "three at a time": ["engine.max_seqs=3", "engine.max_tokens=33"],
    "hash cache": ["cache.plugin=hash", "engine.max_seqs=2"],
    "radix cache": ["cache.plugin=radix", "engine.max_seqs=2", "engine.max_tokens=24"],
    "naive, graphs off, run_ahead 0": ["attention.plugin=naive", "graphs.capture=off", "engine.run_ahead=0"],
}


def logits(rig, name):
    """Every logit of two rows a prompt within 1e-3, and all greedy tokens. The largest error."""
    golden, want = goldens(name), npy(os.path.join(DATA, "goldens", name, "logits.f32.npy"))
    vocab, worst = len(want) // (2 * len(golden)), 0.0
    tape = os.path.join(rig.scratch, name + ".tape")
    with open(tape, "wb") as f:
        f.truncate(24 + len(golden) * N_NEW * ((16 + 4 * vocab + 7) // 8 * 8))
    plugin = os.path.join(rig.build, "tests", "unit", "fixtures", "sampler_record.so")
    if not os.path.exists(plugin):
        raise Failed("the build folder has no %s" % os.path.relpath(plugin, rig.build))
    out = rig.batch(checkpoint(name), [ask(g["prompt_ids"], N_NEW, seed=i + 1) for i, g in enumerate(golden)],
                    EXACT + ["sampler.plugin=" + plugin, "sampler.file=" + tape])
    kept = records(tape)
    for i, (g, choice) in enumerate(zip(golden, out)):
        ids, ref = choice[0]["token_ids"], g["f32"]["greedy_ids"]
        if ids != ref:
            why, _ = parted(ids, ref, g["f32"]["margins"], 0)
            raise Failed("prompt %s: %s" % (g["id"], why))
        for late in 0, 1:
            at = len(g["prompt_ids"]) + late * (N_NEW - 1)
            if (i + 1, at) not in kept:
                raise Failed("prompt %s: the logits of position %d were not kept" % (g["id"], at))
            row = want[(2 * i + late) * vocab:(2 * i + late + 1) * vocab]
            off = max(abs(a - b) if a == a else float("inf") for a, b in zip(kept[i + 1, at], row))
            if not off < 1e-3:
                raise Failed("prompt %s, step %d: a logit is off by %g" % (g["id"], late * (N_NEW - 1), off))
            worst = max(worst, off)
    return worst


def arm(rig, name, sets):
    """Greedy tokens, and the log probabilities of prompt and answer within 1e-3."""
    golden, worst = goldens(name), 0.0
    out = rig.batch(checkpoint(name), [ask(g["prompt_ids"], N_NEW, logprobs=0, prompt_logprobs=0) for g in golden], EXACT + sets)
    for g, choice in zip(golden, out):
        c, ref = choice[0], g["f32"]
        why, at = parted(c["token_ids"], ref["greedy_ids"], ref["margins"])
        if why:
            raise Failed("prompt %s: %s" % (g["id"], why))
        at = N_NEW if at is None else at
        pairs = list(zip(c["logprobs"]["token_logprobs"][:at], ref["greedy_logprobs"]))
        pairs += [(e[str(t)]["logprob"], w) for e, t, w in zip(c["prompt_logprobs"], g["prompt_ids"], ref["prompt_logprobs"])
                  if w is not None]
        off = max((abs(a - b) for a, b in pairs), default=0)
        if not off < 1e-3:
            raise Failed("prompt %s: a log probability is off by %g" % (g["id"], off))
        worst = max(worst, off)
    return worst


def part_goldens(rig):
    """f32: every logit within 1e-3, every greedy token."""
    got = rig.many({name: lambda name=name: logits(rig, name) for name in NAMES})
    return {"largest_error_of_a_logit": {k: float("%.2g" % v) for k, v in got.items()}}


def part_matrix(rig):
    """f32: the same tokens whatever the attention, graphs, run-ahead, cache, chunks and batch."""
    jobs = {}
    for k, name in enumerate(NAMES):
        for j, (what, sets) in enumerate(ARMS.items()):
            if name in ("llama3-bf16", "qwen3-tied-bf16") or j % 4 == k % 4:
                jobs["%s, %s" % (name, what)] = lambda name=name, sets=sets: arm(rig, name, sets)
    got = rig.many(jobs)
    return {"arms": len(got), "largest_error_of_a_logprob": float("%.2g" % max(got.values())), "close": CLOSE}


def fed(rig, name, sets):
    """The reference's tokens fed: the likeliest next token is the reference's wherever its margin is above
    1.0. And the device's own greedy answer parts from it nowhere else."""
    golden, checked, own = goldens(name), 0, []
    out = rig.batch(checkpoint(name), [ask(g["prompt_ids"] + g["f32"]["greedy_ids"], 1, prompt_logprobs=1) for g in golden] +
                    [ask(g["prompt_ids"], N_NEW) for g in golden], sets)
    for i, g in enumerate(golden):
        ref, start = g["f32"], len(g["prompt_ids"])
        for at, (want, margin) in enumerate(zip(ref["greedy_ids"], ref["margins"])):
            top = next(int(t) for t, e in out[i][0]["prompt_logprobs"][start + at].items() if e["rank"] == 1)
            checked += margin > 1
            if margin > 1 and top != want:
                raise Failed("prompt %s, fed to step %d: the likeliest is %d, not %d, at a margin of %g" %
                             (g["id"], at, top, want, margin))
        why, at = parted(out[len(golden) + i][0]["token_ids"], ref["greedy_ids"], ref["margins"], 1.0)
        if why:
            raise Failed("prompt %s: %s" % (g["id"], why))
        own.append(N_NEW if at is None else at)
    return checked, sum(own) / len(own)


def part_bf16(rig):
    """The device's own arithmetic: the reference's tokens wherever the margin is above 1.0."""
    forms = {"default": [], "naive": ["attention.plugin=naive"], "kv f16": ["engine.kv_dtype=f16"], "graphs off": ["graphs.capture=off"]}
    if rig.device == "cuda":
        forms["kv bf16"] = ["engine.kv_dtype=bf16"]
    # A router's tie may break the other way, and then all logits differ: no margin says so.
    names = [n for n in NAMES if "moe" not in n]
    got = rig.many({"%s, %s" % (n, f): lambda n=n, s=s: fed(rig, n, s) for n in names for f, s in forms.items()})
    return {"positions": sum(c for c, _ in got.values()),
            "greedy_tokens_before_parting": {k: round(v, 1) for k, (_, v) in got.items()}}
