#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The documents say what is: each function docs/TOUR.md names exists in the file it names, each
path in README and the documents exists, each key of a batch line stands in docs/BATCH.md."""
import os
import re
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as f:
        return f.read()


class Docs(unittest.TestCase):
    def test_tour_functions(self):
        pairs = re.findall(r"`([a-z0-9_/]+\.[ch])`\s+`([a-z0-9_]+)`", read("docs", "TOUR.md"))
        self.assertGreater(len(pairs), 30)
        for path, name in pairs:
            # a definition: at the start of a line, its body follows
            self.assertRegex(read(path), r"(?m)^(?!\s)[a-z].*\b%s\([^;]*?\)\s*\{" % name, "%s: %s" % (path, name))

    def test_paths(self):
        for doc in ("README.md", "docs/TOUR.md", "docs/PLUGIN.md", "docs/BATCH.md", "CONTRIBUTING.md"):
            for path in re.findall(r"`((?:core|plugins|backends|include|util|conf|tests|docs|bench|scripts)/[A-Za-z0-9_./]*)`", read(doc)):
                self.assertTrue(os.path.exists(os.path.join(ROOT, path)), "%s names %s" % (doc, path))

    def test_batch_fields(self):
        """docs/BATCH.md has a row for each key that batch_parse.c takes, of the same API, and no other."""
        table = read("plugins", "frontends", "batch_parse.c").split("static const struct param params[]")[1].split("};")[0]
        takes = re.findall(r'\{ "(\w+)", (\w+),', table)
        self.assertGreater(len(takes), 30)
        word = {"BOTH": "both", "BATCH_CHAT": "chat", "BATCH_COMPLETION": "completion"}
        rows = re.findall(r"(?m)^\| `(\w+)` \| (both|chat|completion) \|", read("docs", "BATCH.md"))
        self.assertEqual(sorted(rows), sorted((name, word[api]) for name, api in takes))

    def test_readme_is_one_screen(self):
        self.assertLess(len(read("README.md").splitlines()), 60)


if __name__ == "__main__":
    unittest.main()
