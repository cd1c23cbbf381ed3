#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Hugging Face transformers on the CPU, for bench/cpu --transformers: a model of the shape of SmolLM2-135M with
random weights, whose values change no speed. Prints one line of JSON, tokens/s: prompt_512, the best of --repeat
forward passes with the head on the last token alone, and gen_128, once, as it is slow.

usage: bench/transformers_peer.py [--threads 1] [--dtype bfloat16|float32] [--repeat 3] [--only gen_128]

Needs torch and transformers"""
import argparse
import json
import time

import torch
import transformers

SHAPE = dict(vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
             num_key_value_heads=3, max_position_embeddings=8192, tie_word_embeddings=True, rope_theta=100000)


def seconds(fn):
    t = time.perf_counter()
    fn()
    return time.perf_counter() - t


@torch.inference_mode()
def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--only", choices=("prompt_512", "gen_128"))
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).to(getattr(torch, args.dtype)).eval()
    prompt = torch.randint(0, SHAPE["vocab_size"], (1, 512))
    read = lambda: model(prompt, use_cache=True, logits_to_keep=1)
    say = lambda n: model.generate(prompt[:, :1], attention_mask=torch.ones(1, 1, dtype=torch.long), do_sample=False,
                                   min_new_tokens=n, max_new_tokens=n, pad_token_id=0)
    out = {"torch": torch.__version__, "transformers": transformers.__version__}
    if args.only != "gen_128":
        read()
        out["prompt_512"] = 512 / min(seconds(read) for _ in range(args.repeat))
    if args.only != "prompt_512":
        say(4)
        out["gen_128"] = 128 / seconds(lambda: say(128))
    print(json.dumps(out))


if __name__ == "__main__":
    main()
