// The models that are served, and what /meta says of them.

import { at, fact, make, say } from "./dom.js";
import { bytes, count, plural, seconds } from "./numbers.js";
import { askJson } from "./server.js";

// A server may list any number; of more than these it is not asked what each is.
const MOST = 50;

const RULES_OF = {
  transformers: "the reference container's transformers vectorizer",
  "sentence-transformers": "the reference container's sentence-transformers vectorizer",
  onnx: "the reference container with an ONNX graph",
  model2vec: "the model2vec container",
};

/** Every model: `{name, path, role, sides, server}`. `path` is what its requests begin with. */
export async function modelsServed() {
  const meta = await askJson("meta");
  const names = (meta.sidecar?.models ?? []).slice(0, MOST);
  if (names.length < 2) return [modelOf(names[0] ?? "the model", "", meta)];
  const path = (name) => `models/${encodeURIComponent(name)}/`;
  const metas = await Promise.allSettled(names.map((name) => askJson(`${path(name)}meta`)));
  const models = names.flatMap((name, place) =>
    metas[place].value ? [modelOf(name, path(name), metas[place].value)] : [],
  );
  // The first of each kind is also the one that needs no name.
  if (models.length === names.length) {
    for (const role of ["embedder", "reranker"]) {
      const first = models.find((model) => model.role === role);
      if (first) first.path = "";
    }
  }
  return models;
}

/** A pair of models has two sides; a forwarder tells what the sidecar behind it says, and cannot have it rerank. */
function modelOf(name, path, meta) {
  const server = meta.sidecar ?? {};
  const side = (title, { sidecar = {} }) => ({ title, ...sidecar.upstream?.sidecar, ...sidecar });
  const sides =
    meta.passage && meta.query ? [side("Passages", meta.passage), side("Queries", meta.query)] : [side("", meta)];
  const role = !sides[0].labels ? "embedder" : server.upstream ? "" : "reranker";
  return { name, path, server, sides, role };
}

/** Lets the reader choose among several; `chosen` is called with each choice. */
export function offer(models, chosen) {
  const group = (label, embeds) => {
    const options = models
      .filter(({ role }) => (role === "embedder") === embeds)
      .map(({ name }) => make("option", { value: name }, name));
    return options.length ? [make("optgroup", { label }, ...options)] : [];
  };
  const chooser = at("chooser");
  chooser.replaceChildren(...group("Vectors", true), ...group("Reranking", false));
  at("choice").hidden = models.length < 2;
  chooser.onchange = () => chosen(models.find(({ name }) => name === chooser.value));
}

/** Shows what is known of a model. */
export function show(model) {
  at("chooser").value = model.name;
  at("model-title").textContent = model.name;
  say(at("model-words"), sentence(model));
  at("facts").replaceChildren(...model.sides.flatMap(sideShown));
  at("limit-list").replaceChildren(...limits(model));
  at("limits").hidden = false;
}

function sentence({ role, sides: [side, other], server }) {
  if (server.upstream) {
    const { url, kind } = server.upstream;
    return `Forwarded to ${url}${kind ? `, which speaks ${kind}` : ""}.`;
  }
  if (role === "reranker") return "Ranks passages for a query, and makes no vectors.";
  const dimensions = side.dimensions ? ` of ${plural(side.dimensions, "dimension")}` : "";
  const rules = RULES_OF[side.profile] ? `, by the rules of ${RULES_OF[side.profile]}` : "";
  return `Makes vectors${dimensions}${rules}${other ? ", one model for passages and one for queries" : ""}.`;
}

function sideShown(side) {
  const facts = [
    side.title && ["Model", side.model],
    side.profile && ["Profile", side.profile, side.profile_chosen_by && `chosen by ${side.profile_chosen_by}`],
    side.labels && ["Scores", side.labels.join(", "), side.activation],
    side.dimensions && ["Dimensions", count(side.dimensions)],
    side.precision && ["Precision", side.precision],
    side.device && [
      "Device",
      side.device,
      [side.engine, side.threads && plural(side.threads, "thread")].filter(Boolean).join(", "),
    ],
    side.max_tokens && [
      "Longest text",
      plural(side.max_tokens, "token"),
      side.direct_tokenize === false && side.profile === "transformers" ? "of a sentence" : "",
    ],
    side.pooling && ["Pooling", side.pooling],
    (side.query_prompt || side.task_prefixes) && [
      "Before a query",
      quoted(side.query_prompt, side.task_prefixes && "query: "),
    ],
    (side.passage_prompt || side.task_prefixes) && [
      "Before a passage",
      quoted(side.passage_prompt, side.task_prefixes && "passage: "),
    ],
    side.license && ["Licence", side.license],
    side.upstream && ["Replicas", inService(side.upstream.replicas)],
    side.fingerprint && ["Fingerprint", make("code", {}, side.fingerprint), "equal ones make equal vectors"],
  ];
  const list = make("dl", { class: "facts" }, ...facts.filter(Boolean).map((one) => fact(...one)));
  return side.title ? [make("h3", {}, side.title), list] : [list];
}

const inService = (replicas) => `${replicas.filter((one) => one.in_service).length} of ${replicas.length} in service`;

const quoted = (prompt, prefix) => make("code", {}, `${prefix || ""}${prompt || ""}`);

/** The server's limits, under the names of their flags. */
function limits({ server, sides: [side] }) {
  const all = { ...side, ...server };
  const entries = Object.entries(all).filter(
    ([name, value]) => /^max_/.test(name) && typeof value === "number" && name !== "max_tokens",
  );
  const shown = entries
    .sort(([one], [other]) => one.localeCompare(other))
    .map(([name, value]) => {
      const flag = `--${name.replace(/_seconds$/, "").replaceAll("_", "-")}`;
      const text = name.endsWith("_seconds") ? seconds(value) : name.endsWith("_bytes") ? bytes(value) : count(value);
      return fact(make("code", {}, flag), text);
    });
  const { cache } = all;
  const keeps =
    cache && (cache.ttl_seconds === null ? "until room is needed" : `each vector for ${seconds(cache.ttl_seconds)}`);
  return [...shown, fact(make("code", {}, "--cache-bytes"), cache ? bytes(cache.max_bytes) : "none", keeps ?? "")];
}
