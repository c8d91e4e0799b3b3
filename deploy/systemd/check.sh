#!/usr/bin/env bash
# Starts the unit under a real systemd, in a container of its own: `check.sh BINARY MODEL_DIR`, or `make systemd-check`. What it
# proves:
# - with Type=notify and everything that the unit forbids, the sidecar gets ready and answers as a user without capabilities;
# - it can write to folders of its own and to nothing else; a reload keeps it running;
# - a killed one is started again, and so is one that is stuck, by the watchdog (5 s here);
# - a stop ends it in order;
# - tokens come as a credential, which the user that it runs as could not read by itself.
# Needs root on Debian and debootstrap, gets a Debian of 260 MB the first time. Skipped, loudly, where that cannot be had.
set -euo pipefail
binary=$(realpath "$1") model=$(realpath "$2")
cd "$(dirname "$0")/../.."
work=$PWD/target/systemd root=$PWD/target/systemd/root
mkdir -p "$work"

skip() {
  printf '\n*** THE UNIT WAS NOT STARTED: %s ***\n\n' "$1" >&2
  exit 0
}
[ "$(uname -sm)" = "Linux x86_64" ] || skip "this check is for Linux on amd64"
[ "$(id -u)" = 0 ] || skip "a container of systemd needs root"
command -v debootstrap >/dev/null || skip "debootstrap is missing: apt-get install debootstrap"
if [ ! -e "$work/complete" ]; then
  rm -rf "$root"
  debootstrap --variant=minbase --include=systemd,systemd-sysv,systemd-container,dbus,procps,curl bookworm "$root" \
    >"$work/debootstrap.log" 2>&1 || skip "the container cannot be made: see target/systemd/debootstrap.log"
  touch "$work/complete"
fi

run=$(mktemp -d)
trap 'rm -rf "$run"' EXIT
install -D -m 644 deploy/systemd/text2vec-sidecar.service "$run/units/text2vec-sidecar.service"
install -D -m 644 deploy/systemd/environment "$run/etc/environment"
(umask 077 && echo correct-horse >"$run/etc/tokens")
printf 'T2V_MODEL=/srv/model\nHF_HUB_OFFLINE=1\n' >>"$run/etc/environment"
cat >"$run/steps" <<'EOF'
set -u
url=http://127.0.0.1:8081
fail() { echo "FAILED: $*"; systemctl status text2vec-sidecar --no-pager; journalctl -u text2vec-sidecar --no-pager -n 30; exit 1; }
pid() { systemctl show text2vec-sidecar -p MainPID --value; }
restarts() { systemctl show text2vec-sidecar -p NRestarts --value; }
# again PID: waits until another process serves.
again() { for _ in $(seq 100); do [ "$(pid)" != "$1" ] && systemctl is-active -q text2vec-sidecar && return; sleep 0.3; done; return 1; }
answers() { curl -sf --max-time 20 -H 'Authorization: Bearer correct-horse' -H 'Content-Type: application/json' "$url/vectors" -d '{"text": "hello"}' | grep -q '"vector":\[-\?0\.'; }

systemctl start text2vec-sidecar || fail "it does not start"
answers || fail "it does not answer as soon as it is started"
[ "$(curl -s -o /dev/null -w '%{http_code}' "$url/meta")" = 401 ] || fail "it has not read the tokens"
first=$(pid)
grep -q '^CapEff:.0*$' "/proc/$first/status" || fail "it has capabilities"
grep -q '^Seccomp:.2$' "/proc/$first/status" || fail "its system calls are not filtered"
[ "$(stat -c %u "/proc/$first")" -ge 61184 ] || fail "it is no user of its own"
curl -sf "$url/metrics" | grep -q '^process_start_time_seconds ' || fail "it does not know when it was started"
inside() { nsenter -t "$first" -m -S "$(stat -c %u "/proc/$first")" sh -c "$1" 2>/dev/null; }
inside 'echo > /var/cache/text2vec-sidecar/x' || fail "it cannot write to its cache"
# Private ones all, /tmp among them.
own='/tmp /var/cache/private/text2vec-sidecar /var/lib/private/text2vec-sidecar /var/tmp'
may=$(inside 'find / \( -path /proc -o -path /sys -o -path /dev \) -prune -o -type d -writable -print' | sort | xargs)
[ "$may" = "$own" ] || fail "it can write to $may"
systemctl reload text2vec-sidecar || fail "it cannot be reloaded"
answers && [ "$(pid)" = "$first" ] || fail "a reload ended it"
kill -9 "$first"
again "$first" && answers || fail "it is not started again when it was killed"
second=$(pid)
kill -STOP "$second"
again "$second" && answers || fail "it is not started again when it is stuck"
[ "$(restarts)" = 2 ] || fail "$(restarts) restarts"
systemctl stop text2vec-sidecar || fail "it cannot be stopped"
[ "$(systemctl show text2vec-sidecar -p Result --value)" = success ] || fail "it did not end in order"
journalctl -u text2vec-sidecar --no-pager | grep -q 'stopped: nothing was left undone' || fail "it was killed"
echo PASSED
EOF
cat >"$run/units/check.service" <<'EOF'
[Unit]
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/bin/bash -c 'exec bash /check/steps >/check/result 2>&1'
EOF
mkdir -p "$run/units/multi-user.target.wants" "$run/units/text2vec-sidecar.service.d"
ln -s ../check.service "$run/units/multi-user.target.wants/check.service"
printf '[Service]\nWatchdogSec=5s\n' >"$run/units/text2vec-sidecar.service.d/watchdog.conf"
printf '[Service]\nLoadCredential=tokens:/etc/text2vec-sidecar/tokens\nEnvironment=T2V_AUTH_TOKENS_FILE=%%d/tokens\n' \
  >"$run/units/text2vec-sidecar.service.d/tokens.conf"

# The container's own systemd-nspawn, with its own libraries: this machine needs none. What is written inside is forgotten.
libraries=$root/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu:$root/usr/lib/x86_64-linux-gnu/systemd
timeout -k 5 180 "$root/lib64/ld-linux-x86-64.so.2" --library-path "$libraries" "$root/usr/bin/systemd-nspawn" -q \
  -D "$root" --volatile=overlay --boot --register=no --keep-unit --private-network --console=pipe \
  --bind-ro="$binary:/usr/local/bin/text2vec-sidecar" --bind-ro="$model:/srv/model" --bind-ro="$run/units:/etc/systemd/system" \
  --bind-ro="$run/etc:/etc/text2vec-sidecar" --bind="$run:/check" >"$work/boot.log" 2>&1 </dev/null || true
[ -s "$run/result" ] || skip "systemd does not start in a container here: see target/systemd/boot.log"
cat "$run/result"
[ "$(tail -n 1 "$run/result")" = PASSED ]
