#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Reads and writes GGUF files, sound and unsound ones, with the standard library alone.

    g = Gguf()                                    # or gguf_make.read(path)
    g.kv["general.architecture"] = (STRING, "llama")
    g.kv["tokenizer.ggml.tokens"] = (ARRAY, (STRING, [b"a", b"b"]))
    g.add("token_embd.weight", [cols, rows], F32, data)
    open(path, "wb").write(g.bytes())

Nothing is checked: a test that wants nonsense writes nonsense. Fields of Gguf and of
Tensor that are not None replace what bytes() would work out (n_tensors=2**60).

    python3 gguf_make.py FOLDER                   # writes the seeds of the fuzz target
"""
import os
import struct
import sys

U8, I8, U16, I16, U32, I32, F32_, BOOL, STRING, ARRAY, U64, I64, F64_ = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32_: "f", BOOL: "?",
           U64: "Q", I64: "q", F64_: "d"}
F32, F16, Q4_0, Q4_1, Q8_0, BF16 = 0, 1, 2, 3, 8, 30
BLOCKS = {F32: (1, 4), F16: (1, 2), Q4_0: (32, 18), Q4_1: (32, 20), 6: (32, 22), 7: (32, 24),
          Q8_0: (32, 34), BF16: (1, 2)}  # ggml type: elements and bytes of a block


def string(s):
    s = s.encode() if isinstance(s, str) else bytes(s)
    return struct.pack("<Q", len(s)) + s


def value(kind, v):
    if kind == STRING:
        return string(v)
    if kind == ARRAY:
        of, items = v
        return struct.pack("<IQ", of, len(items)) + b"".join(value(of, i) for i in items)
    return struct.pack("<" + FORMATS[kind], v)


class Tensor:
    def __init__(self, name, dims, kind, data):
        self.name, self.dims, self.kind, self.data = name, dims, kind, data
        self.offset = None

    def info(self, offset):
        offset = offset if self.offset is None else self.offset
        return (string(self.name) + struct.pack("<I", len(self.dims)) +
                b"".join(struct.pack("<Q", d & (2**64 - 1)) for d in self.dims) +
                struct.pack("<IQ", self.kind, offset))


class Gguf:
    def __init__(self):
        self.magic, self.version = b"GGUF", 3
        self.n_tensors = self.n_kv = None
        self.kv, self.tensors = {}, []
        self.alignment = 32  # of bytes(); a reader goes by the key general.alignment

    def add(self, name, dims, kind, data):
        self.tensors.append(Tensor(name, list(dims), kind, data))
        return self.tensors[-1]

    def pad(self, n):
        return -n % self.alignment

    def header(self):
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_kv = len(self.kv) if self.n_kv is None else self.n_kv
        out, at = [self.magic + struct.pack("<IQQ", self.version, n_tensors, n_kv)], 0
        for key, (kind, v) in self.kv.items():
            out.append(string(key) + struct.pack("<I", kind) + value(kind, v))
        for t in self.tensors:
            out.append(t.info(at))
            at += len(t.data) + self.pad(len(t.data))
        return b"".join(out)

    def bytes(self):
        out = bytearray(self.header())
        for t in self.tensors:
            out += bytes(self.pad(len(out))) + t.data
        return bytes(out)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, fmt):
        v = struct.unpack_from("<" + fmt, self.data, self.at)[0]
        self.at += struct.calcsize("<" + fmt)
        return v

    def string(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at]

    def value(self, kind):
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            of, n = self.take("I"), self.take("Q")
            return of, [self.value(of) for _ in range(n)]
        return self.take(FORMATS[kind])


def read(path):
    """A sound file of the types in BLOCKS, to be changed and written again."""
    with open(path, "rb") as f:
        r = Reader(f.read())
    g = Gguf()
    r.at = 4
    g.version, n_tensors, n_kv = r.take("I"), r.take("Q"), r.take("Q")
    for _ in range(n_kv):
        key = r.string().decode()
        kind = r.take("I")
        g.kv[key] = (kind, r.value(kind))
    g.alignment = g.kv.get("general.alignment", (U32, 32))[1]
    infos = []
    for _ in range(n_tensors):
        name = r.string().decode()
        dims = [r.take("Q") for _ in range(r.take("I"))]
        infos.append((name, dims, r.take("I"), r.take("Q")))
    start = r.at + g.pad(r.at)
    for name, dims, kind, offset in infos:
        n, (per, size) = 1, BLOCKS[kind]
        for d in dims:
            n *= d
        g.add(name, dims, kind, r.data[start + offset:start + offset + n // per * size])
    return g


def tiny(arch="llama", layers=1):
    """A sound model of 2.4 KB: 8 wide, 2 query heads and 1 KV head of 4, 6 tokens."""
    g = Gguf()
    g.kv["general.architecture"] = (STRING, arch)
    g.kv["general.name"] = (STRING, "tiny")
    for key, v in {"block_count": layers, "context_length": 16, "embedding_length": 8,
                   "feed_forward_length": 8, "attention.head_count": 2,
                   "attention.head_count_kv": 1, "rope.dimension_count": 4}.items():
        g.kv[arch + "." + key] = (U32, v)
    g.kv[arch + ".rope.freq_base"] = (F32_, 10000.0)
    g.kv[arch + ".attention.layer_norm_rms_epsilon"] = (F32_, 1e-5)
    g.kv["tokenizer.ggml.model"] = (STRING, "gpt2")
    g.kv["tokenizer.ggml.tokens"] = (ARRAY, (STRING, ["a", "b", "c", "ab", "</s>", "<s>"]))
    g.kv["tokenizer.ggml.token_type"] = (ARRAY, (I32, [1, 1, 1, 1, 3, 3]))
    g.kv["tokenizer.ggml.merges"] = (ARRAY, (STRING, ["a b"]))
    g.kv["tokenizer.ggml.eos_token_id"] = (U32, 4)

    def add(name, *dims):
        n = 1
        for d in dims:
            n *= d
        g.add(name, dims, F16 if len(dims) > 1 else F32,
              b"".join(struct.pack("<e" if len(dims) > 1 else "<f", (i % 17 - 8) / 16)
                       for i in range(n)))

    add("token_embd.weight", 8, 6)
    for i in range(layers):
        for name, *dims in (("attn_norm", 8), ("attn_q", 8, 8), ("attn_k", 8, 4), ("attn_v", 8, 4),
                            ("attn_output", 8, 8), ("ffn_norm", 8), ("ffn_gate", 8, 8),
                            ("ffn_up", 8, 8), ("ffn_down", 8, 8)):
            add(f"blk.{i}.{name}.weight", *dims)
    add("output_norm.weight", 8)
    return g


def moe():
    """A sound model with experts: 3 of them, 2 used, 4 wide."""
    g = tiny("qwen3moe")
    for key, v in {"expert_count": 3, "expert_used_count": 2, "expert_feed_forward_length": 4}.items():
        g.kv["qwen3moe." + key] = (U32, v)
    g.tensors = [t for t in g.tensors if "ffn_gate" not in t.name and "ffn_up" not in t.name and "ffn_down" not in t.name]
    g.add("blk.0.ffn_gate_inp.weight", [8, 3], F32, bytes(range(96)))
    for name, *dims in (("gate", 8, 4, 3), ("up", 8, 4, 3), ("down", 4, 8, 3)):
        g.add("blk.0.ffn_%s_exps.weight" % name, dims, F16, bytes(range(192)))
    return g


def seeds():
    """One file for each road through the loader: name and bytes."""
    yield "tiny", tiny().bytes()
    yield "qwen3", tiny("qwen3").bytes()
    yield "empty", Gguf().bytes()
    g = Gguf()
    g.kv["general.architecture"] = (STRING, "llama")
    for kind in FORMATS:
        g.kv["scalar." + str(kind)] = (kind, 1)
        g.kv["array." + str(kind)] = (ARRAY, (kind, [0, 1, 1]))
    g.kv["llama.attention.head_count"] = (ARRAY, (I32, [4, 4, 2]))
    g.kv["llama.rope.scale_linear"] = (F64_, 0.1)
    g.kv["general.alignment"] = (U32, 64)
    g.alignment = 64
    g.add("rope_freqs.weight", [2], F32, struct.pack("<2f", 1, 8))
    yield "values", g.bytes()
    g = Gguf()
    g.version = 2
    g.kv["general.architecture"] = (STRING, "llama")
    g.kv["llama.attention.head_count"] = (U32, 2)
    g.kv["llama.rope.scaling.type"] = (STRING, "yarn")
    g.add("blk.0.attn_q.bias", [8], F32, bytes(range(32)))
    g.add("blk.0.attn_k.weight", [32, 4], Q8_0, bytes(34 * 4))
    g.add("blk.0.ffn_up_exps.weight", [32, 2, 3], Q4_1, bytes(20 * 6))
    yield "blocks", g.bytes()
    g = tiny()
    g.tensors[1].offset = 0
    yield "overlap", g.bytes()
    g = Gguf()
    g.kv["split.count"] = (U16, 3)
    yield "split", g.bytes()
    yield "moe", moe().bytes()
    g = tiny("gemma3")
    g.kv["gemma3.attention.sliding_window"] = (U32, 8)
    g.kv["gemma3.attention.sliding_window_pattern"] = (ARRAY, (BOOL, [True]))
    g.kv["gemma3.attention.scale"] = (F64_, 0.25)
    g.kv["gemma3.rope.freq_base_swa"] = (F32_, 5000.0)
    yield "gemma3", g.bytes()
    g = Gguf()
    g.kv["general.architecture"] = (STRING, "qwen2")
    for key, v in {"factor": 4.0, "yarn_attn_factor": 1.5, "attn_factor": 2.0, "yarn_log_multiplier": 1.0,
                   "yarn_beta_fast": 16.0}.items():
        g.kv["qwen2.rope.scaling." + key] = (F32_, v)
    g.kv["qwen2.rope.scaling.type"] = (STRING, "yarn")
    g.kv["qwen2.context_length"] = (U32, 64)
    yield "yarn", g.bytes()
    whole = tiny("qwen3")
    files = []
    for i in range(3):
        g = Gguf()
        g.kv = dict(whole.kv) if i == 0 else {}
        g.kv.update({"split.no": (U16, i), "split.count": (U16, 3), "split.tensors.count": (I32, len(whole.tensors))})
        g.tensors = whole.tensors[i::3]
        files.append(g.bytes())
    yield "parts", b"PARTS3" + struct.pack("<2H", *map(len, files[:2])) + b"".join(files)


if __name__ == "__main__":
    os.makedirs(sys.argv[1], exist_ok=True)
    for seed, content in seeds():
        with open(os.path.join(sys.argv[1], seed + ".gguf"), "wb") as f:
            f.write(content)
        print(seed, len(content))
