#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Runs nvllm-check on every plugin and backend of a build folder.
Usage: all.py NVLLM_CHECK BUILD_FOLDER SOURCE_FOLDER"""
import glob
import os
import subprocess
import sys


# Runs beside the one with every option at its default.
ARMS = {"cache_hash": ["cache.hash_bits=8", "cache.hash_bits=1"], "cache_radix": ["cache.evict=lfu"]}


# Small checkpoints of the test data for the suites that read one; "": plugins not named here.
CHECKPOINTS, GGUFS = "tests/data/checkpoints/*-*", "tests/data/gguf/*.gguf"
FILES = {"loader_safetensors": [CHECKPOINTS], "tokenizer_bpe": [GGUFS, CHECKPOINTS], "tokenizer_spm": [GGUFS, CHECKPOINTS],
         "chat_jinja": [CHECKPOINTS], "": [GGUFS]}


def files(source, name):
    every = [f for pattern in FILES.get(name, FILES[""]) for f in sorted(glob.glob(os.path.join(source, pattern)))]
    return every if name in FILES else every[:3]


def main():
    check, build, source = sys.argv[1:4]
    plugins = sorted(glob.glob(build + "/plugins/*.so") + glob.glob(build + "/backends/*/*.so"))
    # A size that cannot be had must come back as NULL, not end the program.
    asan = os.environ.get("ASAN_OPTIONS", "") + ":allocator_may_return_null=1"
    env = dict(os.environ, NVLLM_PLUGIN_PATH=build + "/plugins:" + build + "/backends/cpu", ASAN_OPTIONS=asan.strip(":"))
    bad = 0
    for so in plugins:
        name = os.path.basename(so)[:-3]
        runs = [[]] + [["--set", arm] for arm in ARMS.get(name, [])]
        if name.split("_")[0] in ("loader", "tokenizer", "chat"):
            runs = [["--file", path] for path in files(source, name)] or runs
        for options in runs:
            # sanitizers make a suite ten times as slow
            got = subprocess.run([check, so, "--timeout", "500"] + options, env=env, stdout=subprocess.PIPE,
                                 stderr=subprocess.STDOUT, text=True)
            lines = got.stdout.splitlines()
            print("%s%s: %s" % (os.path.basename(so), " with " + os.path.basename(options[1]) if options else "",
                                lines[-1] if lines else "nothing"))
            if got.returncode:
                bad += 1
                print("\n".join(x for x in lines if not x.startswith(("ok ", "skip "))))
    print("%d plugins, %d of the runs failed" % (len(plugins), bad))
    return 1 if bad or not plugins else 0


sys.exit(main())
