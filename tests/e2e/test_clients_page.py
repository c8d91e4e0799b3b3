"""docs/clients.md, run: every block of code of that page, in a process of its own, with the real package.

A block's first line says what it is (```python older: by packages that want older clients). Only addresses are replaced. What
a block prints must be what the comment behind its last line says, its `vectors` those of the surface, its `scores` the
reranker's."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from own_sidecar import MODEL, Process, free_port
from sidecar import Sidecar, http_json, max_difference, unit

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/e2e"
PAGE = (ROOT / "docs/clients.md").read_text()
RERANKER = ROOT / "tests/fixtures/rerankers/bert-1"
TEXTS = ["The ferry sails at noon.", "Rain fell all night."]
QUERY, DOCUMENTS = "When does the boat leave?", ["Rain fell all night.", "The ferry sails at noon."]
# float32 written as JSON numbers and read as doubles, or sent as they are.
SAME = 1e-7
SECONDS_FOR_A_BLOCK = 120


@dataclass
class Block:
    kind: str
    line: int
    code: str

    def __str__(self):
        return f"{self.kind.replace(' ', '-')}-line-{self.line}"


def blocks():
    found, opened = [], None
    for number, line in enumerate(PAGE.splitlines(), 1):
        if line.startswith("```") and opened is None:
            opened = Block(line[3:].strip(), number, "")
        elif line.startswith("```"):
            found.append(opened)
            opened = None
        elif opened is not None:
            opened.code += line + "\n"
    assert opened is None, f"the block at line {opened.line} has no end"
    return found


BLOCKS = blocks()
PYTHON = {"python": sys.executable, "python weaviate": sys.executable, "python older": os.environ["T2V_E2E_PYTHON_OLDER"]}


def of_kind(*kinds):
    return [block for block in BLOCKS if block.kind in kinds]


def only(kind):
    [block] = of_kind(kind)
    return block


@pytest.fixture(scope="module")
def server():
    """The page's own command, with the models that we have."""
    words = [word for word in shlex.split(only("sh server").code) if word.strip()]
    environment = dict(word.split("=", 1) for word in words[: words.index("text2vec-sidecar")])
    flags = " ".join(words[words.index("text2vec-sidecar") + 1 :])
    for named, ours in [("models/all-MiniLM-L6-v2", MODEL), ("cross-encoder/ms-marco-MiniLM-L-6-v2", RERANKER)]:
        assert named in flags
        flags = flags.replace(named, str(ours))
    process = Process(free_port(), *flags.split(), model=None, environment=environment)
    [process.key] = environment.values()
    yield process
    process.child.kill()
    process.child.wait()


@pytest.fixture(scope="module")
def raw(sidecar):
    """As the profile makes them."""
    return sidecar.passages(TEXTS)


@pytest.fixture(scope="module")
def scores(server):
    body = {"query": QUERY, "texts": DOCUMENTS}
    status, answer = http_json("POST", f"{server.url}/rerank", body, {"Authorization": f"Bearer {server.key}"})
    assert status == 200, answer
    return {entry["index"]: entry["score"] for entry in answer}


def with_addresses(code, server):
    code = re.sub(r"localhost:808[01]\b", f"127.0.0.1:{server.port}", code)
    port, grpc_port = os.environ["T2V_E2E_WEAVIATE_PORT"], os.environ["T2V_E2E_WEAVIATE_GRPC_PORT"]
    # The checks at start would ask a package index for the client's newest version.
    here = f'connect_to_local(host="127.0.0.1", port={port}, grpc_port={grpc_port}, skip_init_checks=True, '
    return code.replace("connect_to_local(", here)


def run(command, folder):
    """Standard output of a fresh process that knows nothing of this one's settings."""
    environment = {key: os.environ[key] for key in ("PATH", "HOME", "NO_PROXY", "no_proxy")}
    # Neither telemetry, nor a list of prices from the network.
    environment |= {"HAYSTACK_TELEMETRY_ENABLED": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS_FOR_A_BLOCK
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def promised(block, comment):
    """What the last line's comment says that the block prints."""
    last = block.code.rstrip().splitlines()[-1]
    assert last.startswith(("print(", "console.log(")) and comment in last, f"{block} does not say what it prints"
    return last.split(comment)[-1].strip()


def assert_same_vectors(vectors, expected):
    assert len(vectors) == len(expected)
    assert max(max_difference(vector, other) for vector, other in zip(vectors, expected)) <= SAME


def assert_same_scores(found, expected):
    """By the documents' places, or by their texts."""
    by_place = {DOCUMENTS.index(key) if key in DOCUMENTS else int(key): score for key, score in found.items()}
    assert by_place.keys() == expected.keys()
    assert all(abs(by_place[place] - expected[place]) <= SAME for place in expected)


def assert_left(left, expected_vectors, expected_scores):
    """What a block's variables hold when it has ended."""
    assert left.keys() <= {"vectors", "scores"} and len(left) == 1, f"a block leaves `vectors` or `scores`: {left.keys()}"
    if "vectors" in left:
        assert_same_vectors(left["vectors"], expected_vectors)
    else:
        assert_same_scores(left["scores"], expected_scores)


# ---- Python and JavaScript -----------------------------------------------------------------------------------------

LEAVE_PYTHON = """
import json, runpy, sys
kept = {name: value for name, value in runpy.run_path(sys.argv[1]).items() if name in ("vectors", "scores")}
with open(sys.argv[2], "w") as file:
    json.dump(kept, file, default=lambda array: array.tolist())
"""

LEAVE_JS = """
import { writeFileSync } from "node:fs";
writeFileSync(process.argv[2], JSON.stringify({ vectors }));
"""


@pytest.fixture
def no_note(request):
    """The collection that the examples make."""
    yield
    if request.node.callspec.params["block"].kind == "python weaviate":
        request.getfixturevalue("client").collections.delete("Note")


@pytest.mark.parametrize("block", of_kind(*PYTHON), ids=str)
def test_python(block, server, raw, scores, tmp_path, no_note):
    (tmp_path / "example.py").write_text(with_addresses(block.code, server))
    printed = run([PYTHON[block.kind], "-c", LEAVE_PYTHON, "example.py", "left.json"], tmp_path)
    assert printed.strip() == promised(block, "  # ")
    of_the_profile = "text2vec_transformers" in block.code
    expected = raw if of_the_profile else [unit(vector) for vector in raw]
    assert_left(json.loads((tmp_path / "left.json").read_text()), expected, scores)


@pytest.mark.parametrize("block", of_kind("js"), ids=str)
def test_javascript(block, server, raw, tmp_path):
    (tmp_path / "node_modules").symlink_to(Path(os.environ["T2V_E2E_NODE"]) / "node_modules")
    (tmp_path / "example.mjs").write_text(with_addresses(block.code, server) + LEAVE_JS)
    printed = run(["node", "example.mjs", "left.json"], tmp_path)
    assert printed.strip() == promised(block, "; // ")
    assert_left(json.loads((tmp_path / "left.json").read_text()), [unit(vector) for vector in raw], None)


# ---- settings ------------------------------------------------------------------------------------------------------


def test_curl(server, raw, tmp_path):
    (tmp_path / "example.sh").write_text(with_addresses(only("sh run").code, server))
    printed = run(["bash", "-eu", "example.sh"], tmp_path)
    decoder, answers = json.JSONDecoder(), []
    while printed := printed.strip():
        answer, end = decoder.raw_decode(printed)
        answers.append(answer)
        printed = printed[end:]
    openai, ollama, tei = answers
    for vectors in ([entry["embedding"] for entry in openai["data"]], ollama["embeddings"], tei):
        assert_same_vectors(vectors, [unit(vector) for vector in raw])


LITELLM = f"""
import asyncio, json, litellm, yaml
with open("config.yaml") as file:
    router = litellm.Router(model_list=yaml.safe_load(file)["model_list"])
embedded = router.embedding(model="minilm", input={TEXTS!r})
ranked = asyncio.run(router.arerank(model="ranker", query={QUERY!r}, documents={DOCUMENTS!r}))
print(json.dumps([entry["embedding"] for entry in embedded.data]))
print(json.dumps({{result["index"]: result["relevance_score"] for result in ranked.results}}))
"""


def test_litellm_config(server, raw, scores, tmp_path):
    """By the router that its proxy gives this list to."""
    (tmp_path / "config.yaml").write_text(with_addresses(only("yaml litellm").code, server))
    vectors, ranked = map(json.loads, run([sys.executable, "-c", LITELLM], tmp_path).splitlines())
    assert_same_vectors(vectors, [unit(vector) for vector in raw])
    assert_same_scores(ranked, scores)


def test_open_webui_variables(server, raw, scores):
    """The requests that Open WebUI 0.12.4 makes of these variables (retrieval/utils.py, models/external.py); the package
    itself brings gigabytes."""
    lines = with_addresses(only("sh open-webui").code, server).splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    assert settings["RAG_EMBEDDING_ENGINE"] == "openai" and settings["RAG_RERANKING_ENGINE"] == "external"
    assert 1 < int(settings["RAG_EMBEDDING_BATCH_SIZE"]) <= 2048
    status, answer = http_json(
        "POST",
        settings["RAG_OPENAI_API_BASE_URL"] + "/embeddings",
        {"input": TEXTS, "model": settings["RAG_EMBEDDING_MODEL"]},
        {"Authorization": f"Bearer {settings['RAG_OPENAI_API_KEY']}"},
    )
    assert status == 200, answer
    assert_same_vectors([entry["embedding"] for entry in answer["data"]], [unit(vector) for vector in raw])
    status, answer = http_json(
        "POST",
        settings["RAG_EXTERNAL_RERANKER_URL"],
        {"model": settings["RAG_RERANKING_MODEL"], "query": QUERY, "documents": DOCUMENTS, "top_n": len(DOCUMENTS)},
        {"Authorization": f"Bearer {settings['RAG_EXTERNAL_RERANKER_API_KEY']}"},
    )
    assert status == 200, answer
    assert_same_scores({entry["index"]: entry["relevance_score"] for entry in answer["results"]}, scores)


# ---- the page itself -----------------------------------------------------------------------------------------------


def test_no_block_is_left_out(server):
    known = {"sh server", "sh run", "sh open-webui", "yaml litellm", "js", *PYTHON}
    assert {block.kind for block in BLOCKS} == known
    assert len(BLOCKS) >= 25
    # Else a forgotten key would go unnoticed.
    assert http_json("POST", f"{server.url}/v1/embeddings", {"input": "x"})[0] == 401


def test_versions_are_those_that_run():
    pinned = {}
    for file in ("requirements.txt", "requirements-older.txt"):
        for name, version in re.findall(r"^([\w-]+)==(\S+)$", (HERE / file).read_text(), re.MULTILINE):
            pinned.setdefault(name, []).append(version)
    for name, version in json.loads((HERE / "node/package.json").read_text())["dependencies"].items():
        pinned.setdefault(name, []).append(version)
    named = [(name, version) for name, version in re.findall(r"`([\w-]+)` (\d[\d.]*\d|\d+)\b", PAGE) if name in pinned]
    assert len({name for name, _ in named}) >= 15
    for name, version in named:
        assert any(f"{full}.".startswith(f"{version}.") for full in pinned[name]), f"{name} {version}: {pinned[name]}"
