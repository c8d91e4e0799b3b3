"""The page at `/` in a real Chromium: what it shows against what the server says, by mouse and by keyboard, with tokens
and without, in light and dark, on a narrow screen. Nothing may go wrong in the console, or be asked elsewhere."""

import json
import math
import os
import re
import urllib.request

import pytest
from axe_playwright_python.sync_playwright import Axe
from own_sidecar import MODEL, Process, free_port
from playwright.sync_api import expect, sync_playwright
from sidecar import http_json

TOKEN = "correct-horse"
TEXTS = ["The ferry leaves at noon.", "Our boat departs at twelve o'clock.", "<img src=x onerror=alert(1)> & Rain"]
FIXTURES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../fixtures")
NAME = "sentence-transformers/all-MiniLM-L6-v2"
# What a browser itself logs of an answer that the page expects and shows.
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of (401|413|502)")
UNREACHED = re.compile(r"Failed to load resource: net::ERR_")
# A busy machine takes its time.
expect.set_options(timeout=15_000)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        with playwright.chromium.launch(
            executable_path=os.environ["T2V_E2E_CHROMIUM"], args=["--no-sandbox", "--no-proxy-server"]
        ) as browser:
            yield browser


def started(*flags, **more):
    process = Process(free_port(), *flags, **more)
    try:
        yield process
    finally:
        process.child.kill()
        process.child.wait()


@pytest.fixture(scope="module")
def several():
    """An embedder, a model2vec model and a reranker; a query and a passage of the same words have different vectors."""
    models = [f"m2v={FIXTURES}/model2vec/wordlevel", f"rank={FIXTURES}/rerankers/bert-1"]
    yield from started("--model", models[0], "--model", models[1], "--profile", "m2v=model2vec", "--task-prefixes")


@pytest.fixture(scope="module")
def guarded():
    """One model, a token for everything, and low limits."""
    environment = {"AUTHENTICATION_ALLOWED_TOKENS": f"another,{TOKEN}"}
    yield from started("--auth-metrics", "--max-texts", "4", "--max-text-bytes", "100", environment=environment)


@pytest.fixture
def opened(browser):
    """`opened(process, …)`: the page in a window of its own; at the end nothing may have gone wrong there."""
    contexts, wrong = [], []

    def open_page(process, path="/", width=1200, scheme="light", expected=None):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce", base_url=process.url
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.asked, page.server = [], process.url
        page.on("request", lambda request: page.asked.append(request))

        def said(message):
            if message.type in ("error", "warning") and not (expected and expected.search(message.text)):
                wrong.append(f"{message.type}: {message.text}")

        page.on("console", said)
        page.on("pageerror", lambda error: wrong.append(f"not caught: {error}"))
        page.on("dialog", lambda dialog: wrong.append(f"a dialog: {dialog.message}"))
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:
            elsewhere = [request.url for request in page.asked if not request.url.startswith(f"{page.server}/")]
            assert not elsewhere, elsewhere
        context.close()
    assert not wrong, wrong


def cosine(one, other):
    length = math.sqrt(math.fsum(x * x for x in one)) * math.sqrt(math.fsum(x * x for x in other))
    return math.fsum(x * y for x, y in zip(one, other)) / length


def vectors(process, texts, task, path="", headers={}):
    body = {"texts": texts, "config": {"task_type": task}}
    status, answer = http_json("POST", f"{process.url}/{path}vectors", body, headers)
    assert status == 200, answer
    return answer["vectors"]


def number(text):
    return float(text.replace("\u2212", "-"))


def assert_shown(text, exact, digits):
    """The number is the exact one, to the digits that are shown."""
    assert re.fullmatch(rf"\u2212?\d+\.\d{{{digits}}}", text), text
    assert abs(number(text) - exact) <= 0.5 * 10**-digits + 1e-6, (text, exact)


def compare(page, texts):
    page.fill("#texts", "\n".join(texts))
    page.click("#compare button")


def rank(page, query, passages):
    page.fill("#query", query)
    page.fill("#passages", "\n".join(passages))
    page.click("#rank button")


def heat_map(page):
    expect(page.locator(".heat")).to_be_visible()
    rows = page.locator(".heat tbody tr")
    return [rows.nth(row).locator("td").all_inner_texts() for row in range(rows.count())]


def filled(page):
    """Everything that can be open or shown is."""
    page.click("#limits summary")
    page.click("#compare button")
    page.click("#rank button")
    expect(page.locator(".heat")).to_be_visible()
    expect(page.locator(".ranking")).to_be_visible()
    expect(page.locator("#state")).to_have_text("ready")
    return page


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_the_heat_map_has_the_cosines_of_the_servers_vectors(opened, several):
    page = opened(several)
    expect(page.locator("#model-title")).to_have_text(NAME)
    compare(page, ["", *TEXTS, "  "])
    cells = heat_map(page)
    made = vectors(several, TEXTS, "passage")
    assert [len(row) for row in cells] == [3, 3, 3]
    for one, row in enumerate(cells):
        for other, text in enumerate(row):
            assert_shown(text, cosine(made[one], made[other]), 2)
    # Texts are texts, whatever is in them.
    assert page.locator(".heat tbody th .text").all_inner_texts() == TEXTS
    assert page.locator("#heat img").count() == 0
    expect(page.locator("#similarity-words")).to_contain_text("Most alike are 1 and 2")
    expect(page.locator("#similarity-words")).to_contain_text(re.compile(r"384 dimensions, 3 texts in [\d.,]+ m?s\."))
    # The more alike, the stronger the colour.
    coloured = page.locator(".heat td[class^=level]")
    coloured = coloured.evaluate_all("all => all.map((cell) => [cell.textContent, +cell.className.slice(6)])")
    levels = [level for _, level in sorted((number(text), level) for text, level in coloured)]
    assert levels == sorted(levels) and len(set(levels)) > 1, coloured


def test_texts_are_counted_and_fifty_are_compared(opened, several):
    page = opened(several)
    expect(page.locator("#model-title")).to_have_text(NAME)
    for count in (1, 51):
        compare(page, [f"text {index}" for index in range(count)])
        expect(page.locator("#texts-hint")).to_have_class(re.compile("error"))
        expect(page.locator("#texts")).to_be_focused()
    assert page.locator(".heat").count() == 0
    compare(page, [f"text {index}" for index in range(50)])
    assert [len(row) for row in heat_map(page)] == [50] * 50
    assert page.evaluate("document.documentElement.scrollWidth") == 1200


def test_passages_are_ranked_by_similarity_and_by_the_reranker(opened, several):
    page = opened(several)
    expect(page.locator("#with-reranker")).to_contain_text("rank")
    query = "When does the ship sail?"
    passages = ["Bread is baked at seven.", "The ferry leaves at noon.", "A ship is a vessel.", "Rain fell all night."]
    rank(page, query, passages)
    expect(page.locator(".ranking")).to_be_visible()
    [asked] = vectors(several, [query], "query")
    similarity = dict(zip(passages, (cosine(asked, vector) for vector in vectors(several, passages, "passage"))))
    status, answer = http_json("POST", f"{several.url}/models/rank/rerank", {"query": query, "documents": passages})
    assert status == 200, answer
    scores = {entry["document"]: entry["score"] for entry in answer["scores"]}

    def check(key):
        rows = page.locator(".ranking tbody tr")
        assert rows.locator("th").all_inner_texts() == sorted(passages, key=key, reverse=True)
        for row in range(rows.count()):
            text = rows.nth(row).locator("th").inner_text()
            for column, numbers in enumerate((similarity, scores)):
                cell = rows.nth(row).locator("td").nth(column)
                assert_shown(cell.locator(".value").inner_text(), numbers[text], 3)
                place = sorted(numbers.values(), reverse=True).index(numbers[text]) + 1
                assert cell.locator(".place").inner_text() == f"#{place}"

    check(similarity.get)
    page.click(".ranking thead button >> text=Reranker")
    check(scores.get)
    heads = page.locator(".ranking thead th").evaluate_all("all => all.map(e => e.getAttribute('aria-sort'))")
    assert heads == [None, "none", "descending"]
    bars = page.locator(".ranking .bar").evaluate_all("all => all.map(e => e.getBoundingClientRect().width)")
    assert len(bars) == 8 and max(bars) > 10


def test_several_models_are_chosen_from(opened, several):
    page = opened(several)
    expect(page.locator("#chooser option")).to_have_count(3)
    groups = page.locator("#chooser optgroup").evaluate_all(
        "all => all.map((group) => [group.label, ...[...group.children].map((option) => option.value)])"
    )
    assert groups == [["Vectors", NAME, "m2v"], ["Reranking", "rank"]]
    meta = http_json("GET", f"{several.url}/meta")[1]["sidecar"]
    facts = page.locator("#facts")
    for shown in ("transformers", "384", "f32", "cpu", meta["engine"], meta["fingerprint"], "500 tokens", "query: "):
        expect(facts).to_contain_text(shown)
    expect(page.locator("#version")).to_have_text(meta["version"])
    page.click("#limits summary")
    for shown in ("--max-texts10,000", "--max-body-bytes64 MiB", "--max-wait45 s", "--cache-bytes"):
        expect(page.locator("#limit-list")).to_contain_text(shown)
    page.select_option("#chooser", "m2v")
    expect(page.locator("#model-title")).to_have_text("m2v")
    expect(facts).to_contain_text("24")
    compare(page, TEXTS)
    made = vectors(several, TEXTS, "passage", "models/m2v/")
    assert_shown(heat_map(page)[0][1], cosine(made[0], made[1]), 2)
    expect(page.locator("#similarity-words")).to_contain_text("24 dimensions")
    # A reranker makes no vectors: those are still of the model chosen before.
    page.select_option("#chooser", "rank")
    expect(page.locator("#model-words")).to_have_text("Ranks passages for a query, and makes no vectors.")
    expect(facts).to_contain_text("LABEL_0")
    assert set(page.locator(".embedder").all_inner_texts()) == {"m2v"}
    linked = opened(several, "/?model=rank")
    expect(linked.locator("#model-title")).to_have_text("rank")
    assert set(linked.locator(".embedder").all_inner_texts()) == {NAME}
    expect(linked.locator("#shell")).to_contain_text(f"curl {several.url}/vectors ")


def test_a_pair_and_a_reranker_alone_are_shown(opened):
    for pair in started("--passage-model", MODEL, "--query-model", MODEL, model=None):
        page = opened(pair, expected=UNREACHED)
        expect(page.locator("#facts h3")).to_have_text(["Passages", "Queries"])
        compare(page, TEXTS)
        assert len(heat_map(page)) == 3
    for alone in started(model=f"rank={FIXTURES}/rerankers/bert-1"):
        page = opened(alone, expected=UNREACHED)
        expect(page.locator("#model-title")).to_have_text("rank")
        expect(page.locator("#similarity")).to_be_hidden()
        rank(page, "Which ship?", TEXTS)
        expect(page.locator(".ranking tbody tr")).to_have_count(3)
        expect(page.locator(".ranking thead th")).to_have_text(["Passage", "Reranker"])


def test_a_forwarder_shows_what_is_behind_it(opened, several):
    for forwarder in started("--upstream", several.url, model=None):
        page = opened(forwarder, expected=UNREACHED)
        expect(page.locator("#model-words")).to_have_text(f"Forwarded to {several.url}, which speaks t2v.")
        for shown in ("transformers", "384", "1 of 1 in service"):
            expect(page.locator("#facts")).to_contain_text(shown)
        # The reranker there is listed, and cannot be asked from here.
        expect(page.locator("#chooser optgroup[label=Reranking]")).to_contain_text("rank")
        expect(page.locator("#with-reranker")).to_be_hidden()
        rank(page, "Which ship?", TEXTS)
        expect(page.locator(".ranking thead th")).to_have_text(["Passage", "Similarity"])


def test_a_server_that_cannot_tell_yet_is_asked_again(opened):
    port = free_port()
    forwarder = ["--upstream", f"http://127.0.0.1:{port}", "--upstream-wait", "false"]
    for forwarder in started(*forwarder, model=None):
        page = opened(forwarder, expected=re.compile(f"{REFUSED.pattern}|{UNREACHED.pattern}"))
        expect(page.locator("#model-words")).to_contain_text("Connection refused")
        for button, words in (("#compare button", "#similarity-words"), ("#rank button", "#ranking-words")):
            page.click(button)
            expect(page.locator(words)).to_contain_text("It is not known yet which model is served")
        upstream = Process(port)
        try:
            expect(page.locator("#facts")).to_contain_text("384", timeout=15_000)
            page.click("#compare button")
            assert len(heat_map(page)) == 6
        finally:
            upstream.child.kill()
            upstream.child.wait()


# ---- live ------------------------------------------------------------------------------------------------------------


def metrics(process):
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{process.url}/metrics") as answer:
        return answer.read().decode()


def quantile(before, after, share):
    """As Prometheus' histogram_quantile has it, over all surfaces with texts."""
    counts = {}
    for sign, text in ((-1, before), (1, after)):
        for surface, bound, value in re.findall(r'duration_seconds_bucket\{surface="(\w+)",le="([^"]+)"\} (\d+)', text):
            if not surface.startswith("other"):
                counts[float(bound)] = counts.get(float(bound), 0) + sign * int(value)
    wanted, low, below = share * counts[math.inf], 0.0, 0
    for bound in sorted(counts):
        if counts[bound] >= wanted and counts[bound] > below:
            return low if bound == math.inf else low + (bound - low) * (wanted - below) / (counts[bound] - below)
        low, below = bound, counts[bound]


def test_the_charts_tell_the_load_and_not_the_page_itself(opened, several, figure):
    page = opened(several)
    chart = lambda title: page.locator(f".chart:has(.title:text-is('{title}'))")
    texts = chart("Texts")
    # Nobody asks for anything but this page.
    expect(texts.locator("strong")).to_have_text("0/s")
    expect(chart("Requests in flight").locator("strong")).to_have_text("0")
    expect(chart("Latency, 10 s").locator("strong")).to_have_text(["–"] * 3)
    before = metrics(several)
    vectors(several, [f"a text of some words, number {index}" for index in range(300)], "passage")
    for index in range(20):
        vectors(several, [f"one {index}"], "query")
    after = metrics(several)
    expect(texts.locator("strong")).not_to_have_text("0/s")
    label = texts.locator("svg").get_attribute("aria-label")
    most = re.fullmatch(r"Texts, the last 1 minute: now [\d,.]+/s\. Least 0/s, most ([\d,.]+)/s\.", label)
    # 320 texts within two or four seconds.
    assert most and 60 <= float(most[1].replace(",", "")) <= 175, label
    expect(chart("Latency, 10 s").locator("strong").nth(0)).to_have_text(re.compile(r"\d m?s"))
    assert page.locator(".chart .line-0[d^=M]").count() >= 5
    # The figures themselves, by the page's own code.
    code = """async ([before, after]) => {
      const { latency, reading, refusalsBetween } = await import("/page/figures.js");
      const [one, other] = [reading(before, 1), reading(after, 3)];
      const latencies = [0.5, 0.95, 0.99, 1].map((share) => latency(one, other, share));
      return [latencies, refusalsBetween(one, other), other.version];
    }"""
    latencies, refusals, version = page.evaluate(code, [before, after])
    for share, seconds in zip((0.5, 0.95, 0.99, 1), latencies):
        assert math.isclose(seconds, quantile(before, after, share), rel_tol=1e-9), share
    assert refusals == [] and version == re.search(r'version="([^"]+)"', after)[1]
    figure(f"p50 {latencies[0] * 1000:.2f} ms, p99 {latencies[2] * 1000:.2f} ms, of 21 requests")


def asked_for_metrics(page, milliseconds, after=lambda: None):
    """How often within this time, after something was done."""
    count = lambda: sum(request.url.endswith("/metrics") for request in page.asked)
    before = count()
    after()
    page.wait_for_timeout(milliseconds)
    return count() - before


def test_it_asks_only_while_it_is_looked_at(opened, several):
    page = opened(several)
    expect(page.locator("#state")).to_have_text("ready")
    assert asked_for_metrics(page, 5000) in (1, 2, 3)
    page.click("#pause")
    expect(page.locator("#live-words")).to_have_text("Paused.")
    assert asked_for_metrics(page, 2200) == 0
    with page.expect_request("**/metrics"):
        page.click("#pause")
    hide = """hidden => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    assert asked_for_metrics(page, 2200, lambda: page.evaluate(hide, True)) == 0
    with page.expect_request("**/metrics"):
        page.evaluate(hide, False)


def test_a_server_that_is_gone_and_comes_back(opened):
    port = free_port()
    first = Process(port)
    page = opened(first, expected=UNREACHED)
    expect(page.locator("#state")).to_have_text("ready")
    first.child.kill()
    first.child.wait()
    expect(page.locator("#state")).to_have_text("not reached")
    expect(page.locator("#live-words")).to_have_text("The server cannot be reached.")
    page.click("#compare button")
    expect(page.locator("#similarity-words")).to_have_text("The server cannot be reached.")
    second = Process(port)
    try:
        expect(page.locator("#state")).to_have_text("ready")
        expect(page.locator("#live-words")).to_have_text("")
        page.click("#compare button")
        assert len(heat_map(page)) == 6
    finally:
        second.child.kill()
        second.child.wait()


# ---- tokens and refusals ---------------------------------------------------------------------------------------------


def unlock(page, token):
    page.fill("#token", token)
    page.press("#token", "Enter")


def test_a_token_is_asked_for_and_kept_in_the_tab(opened, guarded):
    page = opened(guarded, expected=REFUSED)
    box, words = page.locator("#locked"), page.locator("#locked-words")
    expect(words).to_contain_text("Unauthorized: no token came with the request")
    expect(page.locator("#token")).to_be_focused()
    assert page.locator("#forget").is_hidden()
    unlock(page, "wrong")
    expect(words).to_contain_text("Unauthorized: the token is not one of this server's")
    unlock(page, "sch\u00f6n \u2713")
    expect(words).to_contain_text("characters that no request can carry")
    unlock(page, TOKEN)
    expect(box).to_be_hidden()
    expect(page.locator("#model-title")).to_have_text(NAME)
    expect(page.locator("#state")).to_have_text("ready")
    assert page.locator("#choice").is_hidden()
    compare(page, TEXTS)
    made = vectors(guarded, TEXTS, "passage", headers={"Authorization": f"Bearer {TOKEN}"})
    assert_shown(heat_map(page)[0][1], cosine(made[0], made[1]), 2)
    rank(page, "a boat", TEXTS)
    expect(page.locator(".ranking tbody tr")).to_have_count(3)
    # Where it is, and where it went.
    kept = page.evaluate("[Object.values(sessionStorage), Object.keys(localStorage), document.cookie]")
    assert kept == [[TOKEN], [], ""] and page.input_value("#token") == ""
    sent = {(request.url[len(guarded.url) :], request.headers.get("authorization")) for request in page.asked}
    right, data = f"Bearer {TOKEN}", ("/meta", "/metrics", "/vectors")
    assert {url for url, shown in sent if shown == right} == set(data), sent
    assert all(shown in (None, "Bearer wrong", right) and (shown is None or url in data) for url, shown in sent), sent
    page.reload()
    expect(page.locator("#model-title")).to_have_text(NAME)
    assert box.is_hidden()
    page.click("#forget")
    expect(words).to_contain_text("no token came with the request")
    assert page.evaluate("sessionStorage.length") == 0
    # Another tab has none.
    expect(opened(guarded, expected=REFUSED).locator("#locked")).to_be_visible()


def test_refusals_are_told_in_the_servers_own_words(opened, guarded):
    page = opened(guarded, expected=REFUSED)
    unlock(page, TOKEN)
    expect(page.locator("#model-title")).to_have_text(NAME)
    # What is counted from now on is new to the page.
    expect(page.locator("#state")).to_have_text("ready")
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    five = [f"text {index}" for index in range(5)]
    status, answer = http_json("POST", f"{guarded.url}/vectors", {"texts": five}, bearer)
    assert status == 413 and "5 texts in one request, 4 are allowed" in answer["error"]
    compare(page, five)
    expect(page.locator("#similarity-words")).to_have_text(answer["error"])
    expect(page.locator("#similarity-words")).to_have_class(re.compile("error"))
    rank(page, "a query", five)
    expect(page.locator("#ranking-words")).to_have_text(answer["error"])
    # One text that is refused does not hide the others.
    compare(page, [TEXTS[0], "long " * 30, TEXTS[1]])
    cells = heat_map(page)
    expect(page.locator(".heat tbody tr").nth(1).locator(".error")).to_contain_text("100 are allowed")
    assert cells[1] == ["–"] * 3 and cells[0][1] == "–"
    made = vectors(guarded, TEXTS[:2], "passage", headers=bearer)
    assert_shown(cells[0][2], cosine(*made), 2)
    # Of the three one was our own.
    expect(page.locator("#live-words")).to_contain_text("max_texts 3, max_text_bytes 1")


def test_without_the_page_a_browser_reads_the_text(opened):
    for bare in started("--page", "false"):
        page = opened(bare, expected=re.compile("favicon|Failed to load resource"))
        assert page.inner_text("body").startswith("text2vec-sidecar ")
        assert http_json("GET", f"{bare.url}/page/main.js")[0] == 404


# ---- for everybody ---------------------------------------------------------------------------------------------------

FOCUSED = """() => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const name = element.id || element.className || element.textContent.trim();
  const isNone = element === document.body;
  return [isNone ? "" : `${element.localName} ${name}`, style.outlineStyle, parseFloat(style.outlineWidth)];
}"""


def test_everything_is_reached_and_run_by_keyboard(opened, several):
    page = opened(several)
    expect(page.locator("#chooser option")).to_have_count(3)
    expect(page.locator("#state")).to_have_text("ready")

    def walk(until=None):
        """Tab by Tab, to the element of this name or to the end; each must be seen to have the focus."""
        found = []
        for _ in range(60):
            page.keyboard.press("Tab")
            name, style, width = page.evaluate(FOCUSED)
            if not name:
                return found
            assert style != "none" and width >= 2, f"the focus is not seen at {name}"
            found.append(name)
            if name == until:
                return found
        raise AssertionError(found)

    names = walk("a Meta")
    assert names[0] == "a skip"
    walk("select chooser")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#model-title")).to_have_text("m2v")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#model-title")).to_have_text(NAME)
    walk("summary Limits and settings")
    page.keyboard.press("Enter")
    expect(page.locator("#limit-list")).to_be_visible()
    walk("button pause")
    page.keyboard.press("Space")
    expect(page.locator("#pause")).to_have_text("Resume")
    page.keyboard.press("Enter")
    expect(page.locator("#pause")).to_have_text("Pause")
    walk("textarea texts")
    page.keyboard.press("End")
    page.keyboard.type(" The island.")
    expect(page.locator("#texts-hint")).to_contain_text("6 texts")
    walk("button main")
    page.keyboard.press("Enter")
    assert len(heat_map(page)) == 6
    walk("input query")
    page.keyboard.press("Enter")
    expect(page.locator(".ranking tbody tr")).to_have_count(5)
    walk("button main")
    page.keyboard.press("Space")
    expect(page.locator("#ranking-words")).to_contain_text("Ranked again")
    page.wait_for_timeout(100)
    walk("button plain")
    walk("button plain")
    page.keyboard.press("Enter")
    expect(page.locator("[aria-sort=descending]")).to_have_text("Reranker")
    # Once around: whatever can be used has had its turn.
    page.evaluate("document.activeElement.blur(), window.scrollTo(0, 0)")
    page.click("h1")
    walked = walk()
    usable = page.eval_on_selector_all(
        "a, button, input, select, textarea, summary, [tabindex='0']",
        "all => all.filter(e => e.checkVisibility() && !e.disabled).length",
    )
    assert len(walked) == usable - 1 and len(walked) >= 17, walked  # the skip link is before the h1
    # The skip link leads past the bar.
    page.reload()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate(FOCUSED)[0] == "main content"


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
  const ground = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((below, colour) => over(colour, below), [255, 255, 255, 1]);
  };
  const light = (c) => { c /= 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const contrast = (element) => {
    const below = ground(element);
    const [one, other] = [luminance(over(rgba(getComputedStyle(element).color), below)), luminance(below)];
    return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const elements = new Set(document.querySelectorAll("input, select"));
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (walker.currentNode.data.trim() && element.localName !== "noscript") elements.add(element);
  }
  const seen = [...elements].filter((element) => element.checkVisibility({ visibilityProperty: true }));
  const named = (element) => `${element.localName} ${element.className} '${element.textContent.trim().slice(0, 40)}'`;
  return seen.map((element) => [contrast(element), named(element)]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast_and_nothing_is_in_the_way(opened, several, guarded, figure, scheme):
    found, violations = [], []
    for process, expected in ((several, None), (guarded, REFUSED)):
        page = opened(process, scheme=scheme, expected=expected)
        if process is several:
            filled(page)
            # All colours: cosines of every size, and an error.
            compare(page, [" ".join(["sea"] * count + ["rain", "is", "expected"] * (9 - count)) for count in range(10)])
            expect(page.locator(".heat tbody tr")).to_have_count(10)
            page.evaluate("document.querySelectorAll('.heat td').forEach((e, i) => (e.className = `level-${i % 10}`))")
            rank(page, " ", ["a"])
            expect(page.locator("#ranking-words")).to_have_text("Write a query first.")
        else:
            expect(page.locator("#locked")).to_be_visible()
        found += page.evaluate(CONTRAST)
        result = Axe().run(page, options={"resultTypes": ["violations"]}).response
        violations += [(one["id"], [node["target"] for node in one["nodes"]]) for one in result["violations"]]
    assert len(found) > 150
    low = [entry for entry in found if entry[0] < 4.5]
    assert not low, low
    assert not violations, json.dumps(violations, indent=1)
    figure(f"{scheme}: least contrast {min(found)[0]:.2f} of {len(found)} texts, axe found nothing")


def test_a_narrow_screen_scrolls_in_one_direction(opened, several, guarded):
    page = filled(opened(several, width=360))
    assert page.evaluate("[document.documentElement.scrollWidth, document.body.scrollWidth]") == [360, 360]
    # What is wider than the screen is in a part that scrolls by itself.
    out = page.evaluate(
        "[...document.querySelectorAll('body *:not(.scroll *, pre *, .skip)')].filter((e) => e.checkVisibility() &&"
        " e.getBoundingClientRect().right > 360.5).map((e) => e.outerHTML.slice(0, 80))"
    )
    assert out == []
    page = opened(guarded, width=360, expected=REFUSED)
    expect(page.locator("#locked")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize("path, words", [("/", "ready"), ("/docs", re.compile("operations"))])
def test_it_may_stand_below_a_proxys_path(opened, several, path, words):
    # From a page that asks for nothing by itself.
    page = opened(several, path="/docs")
    below = f"{several.url}/below"
    page.route(f"{below}/**", lambda route: route.fulfill(response=route.fetch(url=route.request.url.replace("/below", ""))))
    page.asked.clear()
    page.goto(f"/below{path}")
    expect(page.locator("#state")).to_have_text(words)
    assert len(page.asked) > 3 and all(request.url.startswith(f"{below}/") for request in page.asked)
