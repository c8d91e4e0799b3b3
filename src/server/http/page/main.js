// The page put together.

import { at, say } from "./dom.js";
import { Live } from "./live.js";
import { modelsServed, offer, show } from "./models.js";
import { offerRanking } from "./ranking.js";
import { offerSimilarity } from "./similarity.js";
import { onToken, token } from "./token.js";

// How soon a server that is loading its models is asked again.
const AGAIN = 2000;

// What the forms work with.
const chosen = { embedder: null, reranker: null };
let live = null;

async function begin() {
  try {
    const models = await modelsServed();
    chosen.embedder = models.find((model) => !model.reranks) ?? null;
    chosen.reranker = models.find((model) => model.reranks) ?? null;
    offer(models, choose);
    const wanted = new URLSearchParams(location.search).get("model");
    choose(models.find(({ name }) => name === wanted) ?? models[0]);
  } catch (error) {
    const isLocked = error.status === 401;
    say(at("model-words"), isLocked ? "Shown with a token only." : error.message, !isLocked);
    if (!isLocked) setTimeout(begin, AGAIN);
  }
  live ??= new Live();
  live.again();
}

function choose(model) {
  chosen[model.reranks ? "reranker" : "embedder"] = model;
  show(model);
  name("embedder", chosen.embedder);
  name("reranker", chosen.reranker);
  at("with-reranker").hidden = chosen.reranker === null;
  at("similarity").hidden = chosen.embedder === null;
  programs();
}

function name(role, model) {
  for (const element of document.getElementsByClassName(role)) {
    element.textContent = model?.name ?? "no model that makes vectors";
  }
}

/** The same from a program, at the address that this page has; a token is only hinted at. */
function programs() {
  const { embedder, reranker } = chosen;
  const base = new URL((embedder ?? reranker).path, new URL(".", document.baseURI)).href.replace(/\/$/, "");
  const shell = [
    `curl ${base}/${embedder ? "vectors" : "rerank"}`,
    "-H 'Content-Type: application/json'",
    `-d '${embedder ? '{"text": "The London Eye"}' : '{"query": "A wheel?", "documents": ["The London Eye"]}'}'`,
  ];
  if (token()) shell.splice(1, 0, '-H "Authorization: Bearer $TOKEN"');
  at("shell").textContent = shell.join(" \\\n  ");
  const url = token() ? base.replace("//", "//any:<token>@") : base;
  const [module, variable] = embedder ? ["text2vec", "TRANSFORMERS"] : ["reranker", "RERANKER"];
  at("weaviate").textContent = `ENABLE_MODULES=${module}-transformers\n${variable}_INFERENCE_API=${url}`;
}

offerSimilarity(() => chosen.embedder);
offerRanking(
  () => chosen.embedder,
  () => chosen.reranker,
);
onToken(begin);
begin();
