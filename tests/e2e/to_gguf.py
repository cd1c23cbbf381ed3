#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Converts a Hugging Face folder to GGUF, with the standard library alone: the way tests
show that a checkpoint gives the same tokens in either form. Small checkpoints only.

    python3 to_gguf.py FOLDER OUT.gguf [--type bf16] [--split 3]

Tensors, metadata and vocabulary come out as llama.cpp's convert_hf_to_gguf.py and gguf-py
make them (families llama, qwen2, qwen3, qwen3_moe, gemma3); there is no chat template.
--type: f32, f16, bf16, q8_0, q4_0, q4_1, q5_0, q5_1, of matrices; vectors and routers
are f32, matrices whose rows are no whole blocks f16. --split N writes N parts, named
OUT-00001-of-0000N.gguf, of which the first alone has the metadata."""
import argparse
import array
import json
import math
import os
import re
import struct

from gguf_make import ARRAY, BOOL, F32_, F64_, I32, STRING, U16, U32, Gguf

TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}
FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "bf16": 32}
FAMILIES = {"LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3",
            "Qwen3MoeForCausalLM": "qwen3moe", "Gemma3ForCausalLM": "gemma3"}  # not Mistral: its window would be lost
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate": "ffn_gate_inp",
    "mlp.experts.*.gate_proj": "ffn_gate_exps", "mlp.experts.*.up_proj": "ffn_up_exps",
    "mlp.experts.*.down_proj": "ffn_down_exps"}
GEMMA3_NAMES = {**LAYER_NAMES, "post_attention_layernorm": "post_attention_norm",
                "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}


# ---- numbers: every operation is rounded to float32, as the reference computes ----

def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def f16_bytes(values):
    return struct.pack("<%de" % len(values), *values)


def bf16_bytes(values):
    """To the nearest, ties to even."""
    bits = array.array("I", array.array("f", values).tobytes())
    return array.array("H", [(b + 0x7fff + (b >> 16 & 1)) >> 16 for b in bits]).tobytes()


def widen(dtype, raw):
    if dtype == "F32":
        return array.array("f", raw)
    if dtype == "F16":
        return array.array("f", struct.unpack("<%de" % (len(raw) // 2), raw))
    if dtype == "BF16":
        return array.array("f", array.array("I", [h << 16 for h in array.array("H", raw)]).tobytes())
    raise SystemExit("no conversion from " + dtype)


def inverse(d):
    return f32(1 / d) if d else 0.0


def nibbles(q):
    return bytes(q[i] & 15 | (q[i + 16] & 15) << 4 for i in range(16))


def fifths(q):
    return struct.pack("<I", sum((v >> 4) << i for i, v in enumerate(q)))


def around_zero(x, top):
    """Q4_0 and Q5_0: the largest element becomes -top, exactly. Returns d and the numbers."""
    largest = max(x, key=abs)
    d = f32(largest / -top)
    products = array.array("f", [v * inverse(d) for v in x])
    q = array.array("f", [v + (top + 0.5) for v in products])
    return d, [min(max(int(v), 0), 2 * top - 1) for v in q]


def from_least(x, top):
    """Q4_1 and Q5_1: from the least to the largest element in `top` steps."""
    least = min(x)
    d = f32(f32(max(x) - least) / top)
    above = array.array("f", [v - least for v in x])
    products = array.array("f", [v * inverse(d) for v in above])
    q = array.array("f", [v + 0.5 for v in products])
    return d, least, [min(max(int(v), 0), top) for v in q]


def block_q8_0(x):
    d = f32(max(abs(v) for v in x) / 127)
    products = array.array("f", [v * inverse(d) for v in x])
    return f16_bytes([d]) + struct.pack("32b", *[int(math.copysign(math.floor(abs(v) + 0.5), v)) for v in products])


def block_q4_0(x):
    d, q = around_zero(x, 8)
    return f16_bytes([d]) + nibbles(q)


def block_q4_1(x):
    d, least, q = from_least(x, 15)
    return f16_bytes([d, least]) + nibbles(q)


def block_q5_0(x):
    d, q = around_zero(x, 16)
    return f16_bytes([d]) + fifths(q) + nibbles(q)


def block_q5_1(x):
    d, least, q = from_least(x, 31)
    return f16_bytes([d, least]) + fifths(q) + nibbles(q)


BLOCK_MAKERS = {"q8_0": block_q8_0, "q4_0": block_q4_0, "q4_1": block_q4_1, "q5_0": block_q5_0, "q5_1": block_q5_1}
RAW = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


def encode(dtype, raw, kind, shift=0):
    """Bytes of safetensors' dtype to those of a GGUF type; shift is added first."""
    if RAW[dtype] == kind and not shift:
        return raw
    values = widen(dtype, raw)
    if shift:
        values = array.array("f", [v + shift for v in values])
    if kind == "f32":
        return values.tobytes()
    if kind in ("f16", "bf16"):
        return (f16_bytes if kind == "f16" else bf16_bytes)(values)
    make = BLOCK_MAKERS[kind]
    return b"".join(make(values[i:i + 32]) for i in range(0, len(values), 32))


# ---- the folder ----

def read_json(*path):
    try:
        with open(os.path.join(*path), encoding="utf-8") as f:
            return json.load(f)
    except FileNotFoundError:
        return {}


def read_folder(folder):
    """All tensors: name -> (dtype, shape, bytes)."""
    index = read_json(folder, "model.safetensors.index.json").get("weight_map")
    tensors = {}
    for name in sorted(set(index.values())) if index else ["model.safetensors"]:
        with open(os.path.join(folder, name), "rb") as f:
            data = f.read()
        n = struct.unpack_from("<Q", data)[0]
        for key, t in json.loads(data[8:8 + n]).items():
            if key != "__metadata__":
                a, b = t["data_offsets"]
                tensors[key] = (t["dtype"], t["shape"], data[8 + n + a:8 + n + b])
    return tensors


# ---- tensors ----

def interleave(raw, rows, heads):
    """Row i * (d / 2) + j of a head of d rows becomes row 2 * j + i: ggml's rotary order."""
    each, d = len(raw) // rows, rows // heads
    order = [h * d + i * (d // 2) + j for h in range(heads) for j in range(d // 2) for i in range(2)]
    return b"".join(raw[r * each:(r + 1) * each] for r in order)


def join_experts(tensors):
    """One tensor of planes for the experts of each layer."""
    out, pattern = {}, re.compile(r"(.*\.experts\.)(\d+)(\..*)")
    groups = {}
    for name, t in tensors.items():
        m = pattern.fullmatch(name)
        if m:
            groups.setdefault(m[1] + "*" + m[3], {})[int(m[2])] = t
        else:
            out[name] = t
    for name, experts in groups.items():
        each = [experts[i] for i in range(len(experts))]
        out[name] = (each[0][0], [len(each)] + each[0][1], b"".join(t[2] for t in each))
    return out


def gguf_name(name, arch):
    body, tail = name.rsplit(".", 1)
    if body in NAMES:
        return NAMES[body] + "." + tail
    m = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", body)
    return "blk.%s.%s.%s" % (m[1], (GEMMA3_NAMES if arch == "gemma3" else LAYER_NAMES)[m[2]], tail)


def kind_of(shape, name, kind):
    if len(shape) < 2 or "ffn_gate_inp" in name:
        return "f32"
    return "f16" if kind in BLOCK_MAKERS and shape[-1] % 32 else kind


def add_tensors(g, tensors, config, arch, kind):
    heads = {"q_proj": config["num_attention_heads"],
             "k_proj": config.get("num_key_value_heads", config["num_attention_heads"])}
    for name, (dtype, shape, raw) in join_experts(tensors).items():
        if name.endswith("inv_freq") or (name == "lm_head.weight" and config.get("tie_word_embeddings", arch == "gemma3")):
            continue
        to = gguf_name(name, arch)
        part = name.split(".")[-2]
        if arch == "llama" and part in heads:
            raw = interleave(raw, shape[0], heads[part])
        k = kind_of(shape, to, kind)
        g.add(to, shape[::-1], TYPES[k], encode(dtype, raw, k, 1 if arch == "gemma3" and part.endswith("norm") else 0))


def rope_freqs(rope, base, dim):
    """Divisors of the frequencies: LlamaModel.generate_extra_tensors in llama.cpp's converter,
    rounded where torch rounds (a number over a tensor is the tensor's reciprocal times it)."""
    factor, low, high = rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"]
    old, out = rope["original_max_position_embeddings"], []

    def over(a, b):
        return f32(f32(1 / b) * f32(a))

    for i in range(0, dim, 2):
        wave = over(2 * math.pi, over(1, f32(base ** f32(i / dim))))
        smooth = f32(f32(over(old, wave) - low) / (high - low))
        between = over(1, f32(f32(f32(1 - smooth) / factor) + smooth))
        out.append(1 if wave < old / high else factor if wave > old / low else between)
    return struct.pack("<%df" % len(out), *out)


# ---- metadata ----

def add_config(g, config, arch):
    rope = config.get("rope_parameters") or {}
    if "full_attention" in rope:
        g.kv[arch + ".rope.freq_base_swa"] = (F32_, rope["sliding_attention"]["rope_theta"])
        rope = rope["full_attention"]
    rope = {**rope, **(config.get("rope_scaling") or {})}
    base = float(rope.get("rope_theta", config.get("rope_theta", 10000.0)))
    heads = config["num_attention_heads"]
    dim = config.get("head_dim") or config["hidden_size"] // heads
    for key, kind, v in (
            ("block_count", U32, config["num_hidden_layers"]), ("context_length", U32, config["max_position_embeddings"]),
            ("embedding_length", U32, config["hidden_size"]), ("feed_forward_length", U32, config["intermediate_size"]),
            ("attention.head_count", U32, heads), ("attention.head_count_kv", U32, config.get("num_key_value_heads", heads)),
            ("rope.freq_base", F32_, base), ("attention.layer_norm_rms_epsilon", F32_, config["rms_norm_eps"]),
            ("expert_count", U32, config.get("num_experts")), ("expert_used_count", U32, config.get("num_experts_per_tok")),
            ("expert_feed_forward_length", U32, config.get("moe_intermediate_size")),
            ("attention.key_length", U32, config.get("head_dim")), ("attention.value_length", U32, config.get("head_dim")),
            ("vocab_size", U32, config["vocab_size"] if arch == "llama" else None),
            ("rope.dimension_count", U32, dim if arch == "llama" else None)):
        if v is not None:
            g.kv[arch + "." + key] = (kind, v)
    add_scaling(g, rope, arch)
    if arch == "gemma3":
        add_gemma3(g, config, dim)
    if rope.get("rope_type") == "llama3":
        g.add("rope_freqs.weight", [dim // 2], TYPES["f32"], rope_freqs(rope, base, dim))


def add_scaling(g, rope, arch):
    kind = rope.get("rope_type", rope.get("type"))
    keys = {"factor": "factor", "original_max_position_embeddings": "original_context_length",
            "attention_factor": "yarn_attn_factor", "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
    if kind not in ("linear", "yarn"):
        return
    g.kv[arch + ".rope.scaling.type"] = (STRING, kind)
    for key, to in keys.items():
        if rope.get(key) is not None:
            g.kv[arch + ".rope.scaling." + to] = (U32 if "context" in to else F32_, rope[key])


def add_gemma3(g, config, dim):
    """What the format itself leaves to llama.cpp's code is written where it is not as there."""
    if config.get("sliding_window_pattern") != 1:
        g.kv["gemma3.attention.sliding_window"] = (U32, config["sliding_window"])
    if config.get("rope_local_base_freq", 10000) != 10000:
        g.kv["gemma3.rope.freq_base_swa"] = (F32_, config["rope_local_base_freq"])
    if config.get("sliding_window_pattern", 6) not in (1, 6):
        g.kv["gemma3.attention.sliding_window_pattern"] = (U32, config["sliding_window_pattern"])
    if config["query_pre_attn_scalar"] != dim:
        g.kv["gemma3.attention.scale"] = (F64_, config["query_pre_attn_scalar"] ** -0.5)


def add_sampling(g, folder):
    config = read_json(folder, "generation_config.json")
    for key, to, kind in (("top_k", "top_k", I32), ("top_p", "top_p", F32_), ("temperature", "temp", F32_)):
        if config.get(key) is not None:
            g.kv["general.sampling." + to] = (kind, config[key])


# ---- the vocabulary ----

NORMAL, CONTROL, USER, UNUSED, BYTE = 1, 3, 4, 5, 6


def pre_name(tokenizer):
    """llama.cpp's name of the split that comes before byte-level BPE."""
    text = json.dumps(tokenizer.get("pre_tokenizer"))
    if "{1,3}" in text:
        return "llama-bpe"
    if '"Digits"' in text:
        return "smollm"
    return "qwen2" if "(?i:" in text else "gpt-2"


def add_vocab(g, folder, config):
    tokenizer, conf = read_json(folder, "tokenizer.json"), read_json(folder, "tokenizer_config.json")
    model, added = tokenizer["model"], tokenizer["added_tokens"]
    ids = {**model["vocab"], **{t["content"]: t["id"] for t in added}}
    n = config["vocab_size"]
    tokens, types, scores = ["[PAD%d]" % i for i in range(n)], [UNUSED] * n, [-10000.0] * n
    byte_level = not model.get("byte_fallback")
    for text, i in model["vocab"].items():
        tokens[i], scores[i] = text, 0.0
        types[i] = BYTE if not byte_level and re.fullmatch("<0x[0-9A-F]{2}>", text) else NORMAL
    for t in added:
        tokens[t["id"]], scores[t["id"]] = t["content"], -1000.0
        types[t["id"]] = CONTROL if t["special"] else USER
    merges = [m.split(" ") if isinstance(m, str) else m for m in model["merges"]]
    g.kv["tokenizer.ggml.model"] = (STRING, "gpt2" if byte_level else "llama")
    g.kv["tokenizer.ggml.pre"] = (STRING, pre_name(tokenizer) if byte_level else "default")
    g.kv["tokenizer.ggml.tokens"] = (ARRAY, (STRING, tokens))
    if byte_level:
        g.kv["tokenizer.ggml.token_type"] = (ARRAY, (I32, types))
        g.kv["tokenizer.ggml.merges"] = (ARRAY, (STRING, [" ".join(m) for m in merges]))
    else:  # a piece's score orders merges: the first merge that makes it, then pieces of one character
        rank = {}
        for i, (a, b) in enumerate(merges):
            rank.setdefault(a + b, i)
        for text, i in model["vocab"].items():
            if types[i] == NORMAL:
                scores[i] = -float(rank.get(text, len(merges) + i))
        g.kv["tokenizer.ggml.scores"] = (ARRAY, (F32_, scores))
        g.kv["tokenizer.ggml.token_type"] = (ARRAY, (I32, types))
    add_special(g, tokenizer, conf, config, ids)
    if not byte_level and "Prepend" not in json.dumps(tokenizer["normalizer"]):
        g.kv["tokenizer.ggml.add_space_prefix"] = (BOOL, False)


def add_special(g, tokenizer, conf, config, ids):
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        text = conf.get(name + "_token")
        i = ids.get(text["content"] if isinstance(text, dict) else text, config.get(name + "_token_id"))
        i = i[0] if isinstance(i, list) else i
        if i is not None:
            g.kv["tokenizer.ggml.%s_token_id" % key] = (U32, i)
    post = tokenizer.get("post_processor") or {}
    single = [step for p in post.get("processors", [post]) for step in p.get("single", [])]
    for name, at in (("bos", 0), ("eos", -1)):
        has = bool(single) and "SpecialToken" in single[at]
        g.kv["tokenizer.ggml.add_%s_token" % name] = (BOOL, has)


# ---- the whole ----

def convert(folder, kind="f32", name=None):
    """The checkpoint in a folder as a gguf_make.Gguf."""
    config = read_json(folder, "config.json")
    arch = FAMILIES[config["architectures"][0]]
    g = Gguf()
    g.kv["general.architecture"] = (STRING, arch)
    g.kv["general.name"] = (STRING, name or os.path.basename(os.path.abspath(folder)))
    add_sampling(g, folder)
    add_config(g, config, arch)
    g.kv["general.quantization_version"] = (U32, 2)
    g.kv["general.file_type"] = (U32, FILE_TYPES[kind])
    add_vocab(g, folder, config)
    add_tensors(g, read_folder(folder), config, arch, kind)
    return g


def parts(g, n):
    """n files of it, as llama.cpp's gguf-split makes them."""
    out, total = [], len(g.tensors)
    for i in range(n):
        part = Gguf()
        part.kv = dict(g.kv) if i == 0 else {}
        part.kv.update({"split.no": (U16, i), "split.count": (U16, n), "split.tensors.count": (I32, total)})
        part.tensors = g.tensors[total * i // n:total * (i + 1) // n]
        out.append(part)
    return out


def write(g, path, split=0):
    """Returns the path to give as [model] path."""
    files = [(path, g)]
    if split:
        stem = path[:-5] if path.endswith(".gguf") else path
        files = [("%s-%05d-of-%05d.gguf" % (stem, i + 1, split), p) for i, p in enumerate(parts(g, split))]
    for name, part in files:
        with open(name, "wb") as f:
            f.write(part.bytes())
    return files[0][0]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("folder")
    p.add_argument("out")
    p.add_argument("--type", choices=list(TYPES), default="f32")
    p.add_argument("--split", type=int, default=0)
    a = p.parse_args()
    print(write(convert(a.folder, a.type), a.out, a.split))


if __name__ == "__main__":
    main()
