"""A Python wheel around a binary: `wheel.py BINARY CPU VERSION FOLDER`. `pip install` puts the program on the PATH, `uvx` runs it.

The binary is the one that every other package has; nothing is compiled. The tag manylinux_2_28 is a promise that it needs
glibc 2.28 at most, which deploy/dist/check.sh holds it to. Equal inputs and SOURCE_DATE_EPOCH make equal bytes.
"""

import base64
import hashlib
import os
import pathlib
import sys
import time
import tomllib
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAME = "text2vec-sidecar"
MODULE = NAME.replace("-", "_")
LICENSES = {
    "LICENSE": ROOT / "LICENSE",
    "NOTICE": ROOT / "NOTICE",
    "THIRD-PARTY-LICENSES": ROOT / "target/dist-stage/THIRD-PARTY-LICENSES",
}


def metadata(version):
    package = tomllib.loads((ROOT / "Cargo.toml").read_text(encoding="utf-8"))
    lines = [
        "Metadata-Version: 2.4",
        f"Name: {NAME}",
        f"Version: {version}",
        f"Summary: {package['package']['description']}",
        f"License-Expression: {package['workspace']['package']['license']}",
        *(f"License-File: {name}" for name in LICENSES),
        "Keywords: embeddings,weaviate,inference,grpc",
        "Classifier: Environment :: Console",
        "Classifier: Operating System :: POSIX :: Linux",
        "Classifier: Programming Language :: Rust",
        "Requires-Python: >=3.8",
        "Description-Content-Type: text/markdown",
    ]
    return "\n".join(lines) + "\n\n" + (ROOT / "README.md").read_text(encoding="utf-8")


def main(binary, cpu, version, folder):
    tag = f"py3-none-manylinux_2_28_{cpu}"
    info = f"{MODULE}-{version}.dist-info"
    wheel = f"Wheel-Version: 1.0\nGenerator: {NAME}\nRoot-Is-Purelib: false\nTag: {tag}\n"
    files = [(f"{MODULE}-{version}.data/scripts/{NAME}", pathlib.Path(binary).read_bytes(), 0o755)]
    files += [(f"{info}/licenses/{name}", path.read_bytes(), 0o644) for name, path in LICENSES.items()]
    files += [(f"{info}/METADATA", metadata(version).encode(), 0o644), (f"{info}/WHEEL", wheel.encode(), 0o644)]
    record = ""
    for name, content, _ in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    files.append((f"{info}/RECORD", (record + f"{info}/RECORD,,\n").encode(), 0o644))

    when = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))[:6]
    path = pathlib.Path(folder) / f"{MODULE}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content, mode in files:
            entry = zipfile.ZipInfo(name, when)
            entry.compress_type = zipfile.ZIP_DEFLATED
            # What pip gives the installed file: a regular one, with this mode.
            entry.external_attr = (0o100000 | mode) << 16
            archive.writestr(entry, content)


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__.splitlines()[0])
    main(*sys.argv[1:])
