"""What the binary is made of, as CycloneDX: `sbom.py TARGET FILE`. cargo-cyclonedx lists the crates; here its list loses what is
of this machine and of this minute, so that the same commit makes the same file."""

import json
import os
import pathlib
import subprocess
import sys
import time
import uuid

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEM = "dist-sbom"


def main(target, file):
    command = ["cargo", "cyclonedx", "-q", "--format", "json", "--spec-version", "1.5", "--target", target]
    subprocess.run([*command, "--override-filename", STEM], check=True, cwd=ROOT)
    text = (ROOT / f"{STEM}.json").read_text(encoding="utf-8")
    # It writes one beside each Cargo.toml of the workspace.
    for path in [ROOT / f"{STEM}.json", *ROOT.glob(f"crates/*/{STEM}.json")]:
        path.unlink()
    sbom = json.loads(text.replace(f"path+file://{ROOT}", "path+file://"))
    when = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    sbom["metadata"]["timestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", when)
    sbom.pop("serialNumber", None)
    sbom["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(sbom, sort_keys=True)).urn
    pathlib.Path(file).write_text(json.dumps(sbom, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__.splitlines()[0])
    main(*sys.argv[1:])
