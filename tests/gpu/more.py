# SPDX-License-Identifier: MIT
"""Conformance, quantised files, bits, compute-sanitizer, and transformers on the same device."""
import json
import os
import shutil
import subprocess
import sys

from rig import DATA, EXACT, ROOT, Failed, Skipped, ask, checkpoint, goldens, parted, random_ids, records

# ---- nvllm check ----


def conform(rig, plugin, timeout=560):
    so = os.path.join(rig.build, plugin)
    if not os.path.exists(so):
        raise Failed("the build folder has no %s" % plugin)
    device = ["--device", "cpu"] if rig.device == "cpu" else []
    env = dict(os.environ, NVLLM_PLUGIN_PATH=":".join(os.path.join(rig.build, d) for d in ("plugins", "backends/cpu", "backends/cuda")
                                                     if os.path.isdir(os.path.join(rig.build, d))))
    p = subprocess.run([os.path.join(rig.build, "tests", "conform", "nvllm-check"), so, "--timeout", str(timeout), *device],
                       capture_output=True, text=True, env=env, timeout=timeout + 30)
    lines = p.stdout.splitlines()
    failed = [x for x in lines if x.startswith("FAIL")]
    missing = [x for x in lines if "skipped: no" in x]
    if missing:
        raise Failed(missing[0])
    if p.returncode or not lines:
        raise Failed("%d checks failed, the first: %s" % (len(failed), (failed or [p.stderr.strip() or "nothing was printed"])[0]) +
                     "".join("\n    " + x for x in failed[1:12]))
    return {"checks": lines[-1]}


def part_device(rig):
    """nvllm check of the device: every kernel against the formulas in double."""
    return conform(rig, "backends/%s/device_%s.so" % (rig.device, rig.device))


def part_attention(rig):
    """nvllm check of the attention backends."""
    names = ["backends/cuda/attention_cuda.so"] if rig.device == "cuda" else ["plugins/attention_paged.so", "plugins/attention_naive.so"]
    return {os.path.basename(n): conform(rig, n)["checks"] for n in names}


def part_sampler(rig):
    """nvllm check of the samplers."""
    return conform(rig, "backends/cuda/sampler_cuda.so" if rig.device == "cuda" else "plugins/sampler_topk_topp.so")


# ---- quantised files ----

def tiny_gguf(rig, name, sets):
    file = os.path.join(DATA, "gguf", name + ".gguf")
    with open(os.path.join(DATA, "gguf", "goldens", name, "goldens.jsonl"), encoding="utf-8") as f:
        golden = [json.loads(line) for line in f]
    limit = 0.01 if sets == EXACT else 1.0
    out = rig.batch(file, [ask(g["prompt_ids"], len(g["greedy_ids"])) for g in golden], sets)
    for g, c in zip(golden, out):
        why, _ = parted(c[0]["token_ids"], g["greedy_ids"], g["margins"], limit)
        if why:
            raise Failed("prompt %s: %s" % (g["id"], why))
    return len(golden)


def converted(rig, source, type_, sets):
    """A checkpoint of the test data, quantised by tests/e2e/to_gguf.py: the device's greedy answer is the CPU's,
    but where its two likeliest were close there."""
    sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
    import to_gguf
    file = to_gguf.write(to_gguf.convert(checkpoint(source), type_), os.path.join(rig.scratch, "%s.%s.gguf" % (source, type_)))
    bodies = [ask(g["prompt_ids"], 48, logprobs=2) for g in goldens(source)]
    return beside_cpu(rig, file, bodies, sets, 1.0)


def beside_cpu(rig, model, bodies, sets, limit):
    """bodies ask for the two likeliest of each token."""
    want = rig.batch(model, bodies, EXACT, device="cpu")
    got, whole = rig.batch(model, bodies, sets), 0
    for i, (w, g) in enumerate(zip(want, got)):
        tops = w[0]["logprobs"]["top_logprobs"]
        margins = [max(t.values()) - sorted(t.values())[-2] if len(t) > 1 else 9 for t in tops]
        why, at = parted(g[0]["token_ids"], w[0]["token_ids"], margins, limit)
        if why:
            raise Failed("prompt %d, beside the CPU: %s" % (i, why))
        whole += at is None
    return whole


def part_quantised(rig):
    """GGUF files: the answers of the references and of the CPU, by the margin rule."""
    jobs = {}
    for sets in ([], EXACT):
        for name in "llama3.q4_1", "llama3.q8_0":
            jobs["%s %s" % (name, "f32" if sets else "default")] = lambda n=name, s=sets: tiny_gguf(rig, n, s)
    report = {k: v for k, v in rig.many(jobs).items()}
    for source, type_ in ("qwen2-bf16", "q8_0"), ("llama3-bf16", "q4_0"):
        report["%s.%s" % (source, type_)] = converted(rig, source, type_, [])
    return report


def part_smollm2(rig):
    """SmolLM2-135M Q4_1 answers as on the CPU and as transformers does, by the margin rule."""
    model = os.path.join(ROOT, "models", "SmolLM2-135M-Instruct.Q4_1.gguf")
    if not os.path.exists(model):
        raise Skipped("the model is not there (scripts/test fetches it)")
    with open(os.path.join(DATA, "smollm2", "golden_smollm2_public.json"), encoding="utf-8") as f:
        golden = json.load(f)["prompts"]
    report = {}
    for name, sets, limit in ("f32", EXACT, 0.01), ("default", [], 1.0):
        out = rig.batch(model, [ask(p["prompt_ids"], len(p["greedy"]["ids"])) for p in golden], sets)
        whole = 0
        for p, c in zip(golden, out):
            why, at = parted(c[0]["token_ids"], p["greedy"]["ids"], p["greedy"]["margins"], limit)
            if why:
                raise Failed("%s, %s: %s" % (name, p["id"], why))
            whole += at is None
        report[name] = "%d of %d whole answers are the reference's" % (whole, len(golden))
    return report


# ---- the same bits ----

def part_repeats(rig):
    """A batch of 8 answers, 64 steps, 17 times over: the same tokens and log probabilities, to the last bit."""
    report = {}
    for name in "llama3-bf16", "qwen3-moe-bf16":
        body = ask(random_ids(40, 900, 5), 64, n=8, seed=3, logprobs=3)
        body["temperature"] = 0.9
        for what, sets in ("default", []), ("graphs off", ["graphs.capture=off"]):
            times = 17 if rig.device != "cpu" else 3
            out = rig.batch(checkpoint(name), [body] * times, sets + ["engine.max_seqs=8", "cache.plugin=none", "batch.max_inflight=1"])
            for i, choices in enumerate(out[1:]):
                for c, first in zip(choices, out[0]):
                    if c["token_ids"] != first["token_ids"] or c["logprobs"] != first["logprobs"]:
                        raise Failed("%s, %s: repeat %d differs" % (name, what, i + 1))
            report["%s, %s" % (name, what)] = "%d steps of 8" % (64 * times)
    return report


# ---- compute-sanitizer ----

def part_sanitizer(rig):
    """compute-sanitizer's four tools over a short answer of a tiny checkpoint. initcheck does not see what the kernels of
    cuBLASLt store by tensor copies: under it steps are so short that every product is by a kernel of ours."""
    tool = shutil.which("compute-sanitizer") or next((p for p in (
        "/usr/local/cuda/bin/compute-sanitizer", "/usr/local/cuda/compute-sanitizer/compute-sanitizer") if os.path.exists(p)), None)
    if rig.device == "cpu":
        raise Skipped("no CUDA device")
    if not tool:
        raise Skipped("there is no compute-sanitizer here")
    bodies = [ask(random_ids(n, 900, n), 5, **more) for n, more in ((3, {}), (37, {"temperature": 0.8, "top_p": 0.9, "seed": 1}),
                                                                    (70, {"temperature": 0.8, "top_k": 9, "seed": 1, "logprobs": 2}))]
    jobs = {}
    for t in "memcheck", "racecheck", "initcheck", "synccheck":
        for name in ("llama3-bf16", "qwen3-moe-bf16") if t != "initcheck" else ("llama3-bf16",):
            for sets in [], ["graphs.capture=off", *EXACT]:
                prefix = [tool, "--tool", t, "--error-exitcode", "99", "--print-limit", "5"]
                sizes = ["engine.max_tokens=%d" % (16 if t == "initcheck" else 64), "engine.max_seqs=4", "engine.max_model_len=128"]
                jobs["%s %s %s" % (t, name, "f32" if sets else "default")] = lambda p=prefix, n=name, s=sets + sizes: len(
                    rig.batch(checkpoint(n), bodies, s, memory="256M", prefix=p))
    return {"runs": len(rig.many(jobs))}


# ---- transformers on the same device ----

TORCH = r"""
import json, sys
import torch
from transformers import AutoModelForCausalLM
folder, src, dst, device = sys.argv[1:]
ask = json.load(open(src))
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.bfloat16).to(device).eval()
out = []
with torch.no_grad():
    for ids in ask["prompts"]:
        x = torch.tensor([ids], device=device)
        bf = model(x).logits[0, -1].float().cpu()
        y = model.generate(x, attention_mask=torch.ones_like(x), do_sample=False, min_new_tokens=ask["n"], max_new_tokens=ask["n"],
                           return_dict_in_generate=True, output_logits=True)
        own = [l[0].float().topk(2).values.tolist() for l in y.logits]
        out.append({"logits": bf.tolist(), "ids": y.sequences[0, len(ids):].tolist(), "margins": [a - b for a, b in own]})
    model = model.float()
    torch.backends.cuda.matmul.allow_tf32 = False
    for ids, o in zip(ask["prompts"], out):
        o["exact"] = model(torch.tensor([ids], device=device)).logits[0, -1].cpu().tolist()
json.dump(out, open(dst, "w"))
"""


def part_transformers(rig):
    """Qwen3-0.6B's shape, random weights, bf16: logits and greedy tokens beside transformers'."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as e:
        raise Skipped("transformers is not here (%s)" % e) from None
    if rig.device == "cuda" and not torch.cuda.is_available():
        raise Skipped("torch sees no CUDA device")
    layers = [] if rig.device == "cuda" else ["--layers", "2"]
    folder = os.path.join(rig.scratch, "qwen3-0.6b")
    p = subprocess.run([os.path.join(ROOT, "scripts", "make-weights"), "Qwen3-0.6B", folder, *layers], capture_output=True, text=True)
    if p.returncode:
        raise Failed("scripts/make-weights: " + p.stderr.strip()[-400:])
    prompts = [random_ids(n, 10000, n) for n in (1, 17, 128, 500)]
    n = 64 if rig.device == "cuda" else 8
    src, dst = os.path.join(rig.scratch, "ask.json"), os.path.join(rig.scratch, "answers.json")
    with open(src, "w") as f:
        json.dump({"prompts": prompts, "n": n}, f)
    p = subprocess.run([sys.executable, "-c", TORCH, folder, src, dst, rig.device], capture_output=True, text=True)
    if p.returncode:
        raise Failed("transformers: " + p.stderr.strip()[-800:])
    with open(dst) as f:
        want = json.load(f)
    vocab = len(want[0]["logits"])
    tape = os.path.join(rig.scratch, "qwen3.tape")
    with open(tape, "wb") as f:
        f.truncate(24 + len(prompts) * ((16 + 4 * vocab + 7) // 8 * 8))
    plugin = os.path.join(rig.build, "tests", "unit", "fixtures", "sampler_record.so")
    rig.batch(folder, [ask(ids, 1, seed=i + 1) for i, ids in enumerate(prompts)],
              ["sampler.plugin=" + plugin, "sampler.file=" + tape], memory="6G")
    kept, report = records(tape), {}
    for i, (ids, w) in enumerate(zip(prompts, want)):
        got = kept[i + 1, len(ids)]
        size = sum(x * x for x in w["exact"]) ** 0.5
        off = sum((a - b) ** 2 for a, b in zip(got, w["exact"])) ** 0.5 / size
        theirs = sum((a - b) ** 2 for a, b in zip(w["logits"], w["exact"])) ** 0.5 / size
        both = sum((a - b) ** 2 for a, b in zip(w["logits"], got)) ** 0.5 / size
        report["prompt of %d" % len(ids)] = {"error": round(off, 5), "transformers_bf16_error": round(theirs, 5), "between": round(both, 5)}
        if not both < 2e-2:
            raise Failed("prompt of %d tokens: the norm of the logits' difference is %g of theirs (against float32: ours %g, "
                         "transformers' bf16 %g)" % (len(ids), both, off, theirs))
    out = rig.batch(folder, [ask(ids, n) for ids in prompts], memory="6G")
    for ids, w, c in zip(prompts, want, out):
        _, at = parted(c[0]["token_ids"], w["ids"], w["margins"], 1e9)
        report["prompt of %d" % len(ids)].update(same_tokens=n if at is None else at, of=n,
                                                 margin_there=None if at is None else round(w["margins"][at], 4))
    return report
