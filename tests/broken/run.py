#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs nvllm-check on each plugin of this folder: the good ones must pass, each broken
one must fail with the reason that is expected of it.
Usage: run.py NVLLM_CHECK BUILD_FOLDER [b_sanitize]"""
import os
import re
import subprocess
import sys

# plugin -> the line that must be among the FAIL lines; None = passes.
EXPECT = {
    "sampler_good": None,
    "attention_good": None,
    "cache_good": None,
    "comm_good": None,
    "model_good": None,
    "logits_good": None,
    "sampler_wrong_abi": r"opens.*ABI 7",
    "sampler_no_symbol": r"does not export nvllm_plugin",
    "sampler_no_member": r"opens.*sample",
    "sampler_wrong_result": r"ties, NaN and -inf.*(expected|all)",
    "sampler_allocates": r"allocates in a step.*malloc\(\)",
    "sampler_extra_export": r"also exports 'helper'",
    "sampler_static_state": r"token \d+, the largest logit is",
    "sampler_big_static": r"bytes of \.data and \.bss",
    "sampler_constructor": r"has constructors",
    "sampler_hangs": r"hangs: no end after 2 s",
    "sampler_bad_option": r"opens.*many",
    "sampler_past_tokens": r"touched memory outside the tokens, 0 bytes past it \(signal 11\)",
    "sampler_writes_logits": r"wrote to the logits",
    "sampler_mute_refusal": r"without a sentence",
    "sampler_crashes": r"crashed at address .* \(signal 11\)",
    "sampler_counts_prompt": r"largest logit after the penalties.*the largest logit is",
    "sampler_divides_all": r"largest logit after the penalties.*the largest logit is",
    "sampler_repeats_repetition": r"largest logit after the penalties.*the largest logit is",
    "attention_no_scale": r"layer 0, sequence 0, position \d+, head 0: .* expected",
    "attention_past_page": r"wrote to page \d+, which no slot of the step names|outside the KV pages",
    "cache_evicts_pinned": r"evict gave the pinned page",
    "cache_mixes_salts": r"which it does not hold|does not hold",
    "logits_one_early": r"min_tokens, against the definition.*by the definition -inf",
    "logits_bias_twice": r"logit_bias, against the definition.*token \d+ has logit",
    "logits_counts_calls": r"same history gives the same logits.*when the history grew",
    "logits_shares_state": r"same history gives the same logits.*when the history grew",
    "logits_allocates": r"allocates in a step.*malloc\(\)",
    "logits_leaks": r"close gives back.*left \d+ bytes",
    "logits_past_logits": r"touched memory outside the logits|wrote outside the logits",
    "logits_writes_tokens": r"apply wrote to the tokens",
    "logits_mute_refusal": r"odd values of ban.*without a sentence",
    "logits_crashes_on_value": r"odd values of ban.*crashed at address",
    "logits_works_for_all": r"asks nothing.*makes a state for a request that asks nothing",
    "logits_host_alloc": r"open calls host->alloc",
    "logits_reads_prompt": r"min_tokens, against the definition.*by the definition",
    "comm_backwards": r"all_reduce of .*, 3 ranks: element \d+ on rank 0 .* in rank order it is",
    "comm_wrong_rank": r"all_reduce of .* element \d+ on rank 1 is",
    "comm_past_row": r"wrote between the rows|outside x of all_reduce",
    "comm_columns_backwards": r"all_gather, 2 ranks: row 0, column 0 on rank 0 is .*; column 0 of rank 0 is",
    "comm_no_second_meeting": r"outside x of all_reduce|(element|call) \d+",
    "model_no_refusal": r"absurd values of .*(arch:|rope)|bind: rope",
    "model_unused_weight": r"norm2\.weight is never used",
    "model_swallows_status": r"was missing and bind returned 0",
    "model_looks_at_batch": r"calls for one batch, \d+ or others for another",
    "model_holds_past_reset": r"logits are not finite",
    "model_keeps_state": r"calls for one batch, 8 or others",
}
# What a sanitizer's own malloc and symbols hide, or the sanitizer reports itself.
UNSANITIZED = {"sampler_no_symbol", "sampler_allocates", "sampler_extra_export", "sampler_big_static",
               "sampler_constructor", "sampler_past_tokens", "sampler_crashes",
               "logits_allocates", "logits_leaks", "logits_past_logits", "logits_crashes_on_value"}


def main():
    check, folder = sys.argv[1], sys.argv[2]
    sanitized = len(sys.argv) > 3 and sys.argv[3] != "none"
    bad = 0
    built = {f[:-3] for f in os.listdir(folder) if f.endswith(".so")}
    if built != set(EXPECT):
        print("built and expected differ:", sorted(built ^ set(EXPECT)))
        bad += 1
    for name in sorted(EXPECT):
        if sanitized and name in UNSANITIZED:
            continue
        got = subprocess.run([check, "--timeout", "2" if name == "sampler_hangs" else "120",
                              os.path.join(folder, name + ".so")], stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, text=True)
        fails = [line for line in got.stdout.splitlines() if line.startswith("FAIL")]
        want = EXPECT[name]
        if want is None:
            good = got.returncode == 0 and not fails
        else:
            good = got.returncode == 1 and any(re.search(want, line) for line in fails)
        print("%-4s %s: %s" % ("ok" if good else "FAIL", name, fails[0][5:] if fails else "passes"))
        if not good:
            bad += 1
            print(got.stdout)
    print("%d plugins, %d surprises" % (len(EXPECT), bad))
    return 1 if bad else 0


sys.exit(main())
