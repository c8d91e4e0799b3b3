"""Says which platforms an unpacked OCI archive has images for, and that each is one: `platforms.py FOLDER`."""

import gzip
import hashlib
import json
import pathlib
import sys

WANTED = ["linux/amd64", "linux/arm64"]


def main(folder):
    def blob(descriptor):
        content = (folder / "blobs" / descriptor["digest"].replace(":", "/")).read_bytes()
        assert hashlib.sha256(content).hexdigest() == descriptor["digest"].split(":")[1], descriptor
        return content

    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    (entry,) = index["manifests"]
    images = json.loads(blob(entry))["manifests"]
    platforms = sorted(f"{image['platform']['os']}/{image['platform']['architecture']}" for image in images)
    assert platforms == WANTED, platforms
    for image in images:
        manifest = json.loads(blob(image))
        config = json.loads(blob(manifest["config"]))
        assert config["architecture"] == image["platform"]["architecture"], config["architecture"]
        assert config["config"]["User"] == "65532:65532" and config["config"]["Entrypoint"] == ["/text2vec-sidecar"], config
        sizes = [layer["size"] for layer in manifest["layers"]]
        for layer in manifest["layers"]:
            gzip.decompress(blob(layer))
        print(f"image for {image['platform']['architecture']}: {sum(sizes)} bytes as a registry sends it")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.splitlines()[0])
    main(pathlib.Path(sys.argv[1]))
