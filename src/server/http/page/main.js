// The page put together.

import { at, say } from "./dom.js";
import { Live } from "./live.js";
import { modelsServed, offer, show } from "./models.js";
import { ask } from "./server.js";
import { offerRanking } from "./ranking.js";
import { offerSimilarity } from "./similarity.js";
import { onToken, token } from "./token.js";

// How soon a server is asked again that does not tell, as it is loading its models, in milliseconds.
const AGAIN = 3000;

// What the forms work with.
const chosen = { embedder: null, reranker: null };
let live = null;

async function begin() {
  try {
    const models = await modelsServed();
    for (const role of Object.keys(chosen)) chosen[role] = models.find((model) => model.role === role) ?? null;
    offer(models, choose);
    const wanted = new URLSearchParams(location.search).get("model");
    choose(models.find(({ name }) => name === wanted) ?? models[0]);
  } catch (error) {
    const isLocked = error.status === 401;
    say(at("model-words"), isLocked ? "Shown with a token only." : error.message, !isLocked);
    if (!isLocked) setTimeout(again, AGAIN);
  }
  live ??= new Live();
  live.again();
}

/** Begins once the server is ready; that question is not counted as load. */
function again() {
  ask(".well-known/ready").then(begin, () => setTimeout(again, AGAIN));
}

function choose(model) {
  if (model.role) chosen[model.role] = model;
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
  const model = embedder ?? reranker;
  if (!model) return;
  const base = new URL(model.path, new URL(".", document.baseURI)).href.replace(/\/$/, "");
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
