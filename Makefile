# The things to do with a clone: demo, test, bench, and two that go on for longer. Each says what it does; none needs anything to be installed by hand.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: demo test bench soak rsync-suite packages docker nextest moto

# What the tests run beside mcloud: package, and a program that it brings.
PACKAGES := rsync:rsync attr:setfattr acl:setfacl xfsprogs:mkfs.xfs btrfs-progs:mkfs.btrfs e2fsprogs:mkfs.ext4 ntfs-3g:mkfs.ntfs exfat-fuse:mount.exfat-fuse exfatprogs:mkfs.exfat \
	iproute2:ip util-linux:setpriv strace:strace git:git python3:python3 \
	docker.io:dockerd debootstrap:debootstrap fuse3:fusermount3 \
	curl:curl openssl:openssl nghttp2-client:h2load

# A release build, then the product's main job on real input, told step by step and timed.
demo:
	cargo build --release --quiet
	examples/demo.sh target/release/mcloud

# Everything that has to hold: format, lints, tests (with the fault points).
test: packages docker nextest moto
	cargo fmt --check
	cargo clippy --all-targets --features faults --quiet -- -D warnings
	if cargo nextest --version >/dev/null 2>&1; then
		cargo nextest run --features faults
	else
		cargo test --features faults
	fi

# Side by side with rsync and cp in one run; the table goes to docs/benchmarks.md. Then the start of tenants beside
# docker-compose, snapshots beside restic and borg, mounts beside restic's, the proxy beside HAProxy, and the stages, each on its own.
bench: PACKAGES += docker-compose:docker-compose restic:restic borgbackup:borg haproxy:haproxy nginx:nginx wrk:wrk
bench: packages docker
	cargo build --release --quiet
	python3 benches/compare/run.py
	python3 benches/compare/start.py --write docs/benchmarks.md
	python3 benches/compare/mount.py
	python3 benches/compare/store.py
	python3 benches/compare/store.py --many 1000000
	python3 benches/compare/proxy.py
	python3 benches/compare/release.py
	cargo bench --quiet

# Random trees, changes, syncs and kills on every file system, for as long as asked (`make soak MINUTES=5 SEED=17`); what it finds lies in
# target/soak with the seed that repeats it. `tests/soak/soak.py --help` has the rest.
MINUTES ?= 60
SEED ?=
soak: packages
	cargo build --release --quiet
	python3 tests/soak/soak.py --binary target/release/mcloud --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(SOAK)

# The suite that rsync tests itself with, fetched with apt, where a call of it is a copy that mcloud makes as well.
rsync-suite: PACKAGES += gcc:gcc make:make
rsync-suite: packages
	cargo build --release --quiet
	python3 tests/rsync-suite/run.py --binary target/release/mcloud

packages:
	@missing=()
	for pair in $(PACKAGES); do
		PATH="$$PATH:/usr/sbin:/sbin" command -v "$${pair#*:}" >/dev/null || missing+=("$${pair%%:*}")
	done
	if (( $${#missing[@]} )); then
		if (( EUID == 0 )) && command -v apt-get >/dev/null; then
			echo "installing $${missing[*]}"
			apt-get update -qq
			DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$${missing[@]}" >/dev/null
		else
			echo "the tests need these packages: $${missing[*]}" >&2
			exit 1
		fi
	fi

# Docker, started where none answers and we may. Where it cannot be, the tests that need it fail and say so.
docker:
	@docker version >/dev/null 2>&1 && exit 0
	if (( EUID != 0 )); then
		echo "Docker does not answer, and only root can start it: the tests of tenants will fail" >&2
		exit 0
	fi
	echo "starting Docker"
	if [ -d /run/systemd/system ]; then
		systemctl start docker || true
	else
		setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null &
	fi
	for _ in {1..60}; do
		docker version >/dev/null 2>&1 && exit 0
		sleep 0.5
	done
	echo "Docker does not start: the tests of tenants will fail (/var/log/dockerd.log may say why)" >&2

# An S3 server for the tests, as a process of its own.
moto:
	@[ -x target/moto/bin/moto_server ] && exit 0
	echo "installing moto's S3 server"
	python3 -m venv target/moto && target/moto/bin/pip install --quiet 'moto[server]' || \
		echo "moto cannot be installed: the tests of buckets will fail" >&2

nextest:
	@cargo nextest --version >/dev/null 2>&1 || cargo install --locked --quiet cargo-nextest || \
		echo "cargo-nextest cannot be installed: plain cargo test instead" >&2
