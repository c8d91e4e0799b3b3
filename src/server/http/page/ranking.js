// Passages for a query, ranked by the cosine of their vectors and, where one is served, by a reranker.

import { at, lines, make, onSubmit, say } from "./dom.js";
import { fixed, plural, seconds } from "./numbers.js";
import { askJson } from "./server.js";
import { cosine, embed } from "./vectors.js";

const MOST = 50;

/** `model` answers the model that makes vectors now, `reranker` the one that ranks, if there is one. */
export function offerRanking(model, reranker) {
  const [query, area, hint] = [at("query"), at("passages"), at("passages-hint")];
  const counted = () => {
    const { length } = lines(area);
    say(hint, `${plural(length, "passage")}, 1 to ${MOST} can be ranked`, length < 1 || length > MOST);
    return length >= 1 && length <= MOST;
  };
  area.addEventListener("input", counted);
  counted();
  onSubmit(at("rank"), async () => {
    const words = at("ranking-words");
    if (query.value.trim() === "") {
      say(words, "Write a query first.", true);
      return query.focus();
    }
    if (!counted()) return area.focus();
    say(words, "Ranking…");
    try {
      const passages = lines(area);
      const { rows, columns, told, isError } = await ranked(query.value.trim(), passages, model(), reranker());
      at("ranked").replaceChildren(new Ranking(rows, columns).element);
      say(words, told, isError);
    } catch (error) {
      at("ranked").replaceChildren();
      say(words, error.message, true);
    }
  });
}

/** Each passage with a number for each column; a reranker's refusal does not hide what the vectors say. */
async function ranked(query, passages, model, reranker) {
  const columns = [];
  const told = [];
  const rows = passages.map((text) => ({ text, values: [], error: "" }));
  const add = (name, digits, values) => {
    columns.push({ name, digits });
    rows.forEach((row, place) => row.values.push(values[place]));
  };
  let refusal = null;
  if (model || !reranker) {
    const [asked, found] = await Promise.all([embed(model, [query], "query"), embed(model, passages, "passage")]);
    add(
      "Similarity",
      3,
      found.vectors.map((vector) => cosine(asked.vectors[0], vector)),
    );
    rows.forEach((row, place) => (row.error = found.errors[place] ?? ""));
    const took = seconds(Math.max(asked.seconds, found.seconds));
    told.push(
      `${plural(found.dimensions, "dimension")}, ${plural(passages.length, "passage")} and the query in ${took}.`,
    );
  }
  if (reranker) {
    const begun = performance.now();
    try {
      const { scores } = await askJson(`${reranker.path}rerank`, { body: { query, documents: passages } });
      add(
        "Reranker",
        3,
        scores.map(({ score }) => score ?? NaN),
      );
      told.push(`Ranked again in ${seconds((performance.now() - begun) / 1000)}.`);
    } catch (error) {
      if (!model) throw error;
      refusal = error.message;
    }
  }
  return { rows, columns, told: refusal ?? told.join(" "), isError: refusal !== null };
}

/** A table that can be put in the order of each of its columns. */
class Ranking {
  constructor(rows, columns) {
    this.rows = rows;
    this.columns = columns.map((column, place) => ({
      ...column,
      order: ordered(rows, place),
      ends: endsOf(rows, place),
    }));
    this.body = make("tbody");
    this.heads = this.columns.map(({ name }, place) => {
      const button = make("button", { type: "button", class: "plain" }, name);
      button.addEventListener("click", () => this.sort(place));
      // With one column there is nothing to choose.
      return make("th", { scope: "col" }, columns.length > 1 ? button : name);
    });
    const head = make("tr", {}, make("th", { scope: "col" }, "Passage"), ...this.heads);
    const caption = make("caption", { class: "hidden" }, "Passages, the best first");
    this.element = make(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Ranking" },
      make("table", { class: "ranking" }, caption, make("thead", {}, head), this.body),
    );
    this.sort(0);
  }

  sort(by) {
    this.heads.forEach((head, place) => head.setAttribute("aria-sort", place === by ? "descending" : "none"));
    this.body.replaceChildren(...this.columns[by].order.map((row) => this.row(row)));
  }

  row(row) {
    const name = make("th", { scope: "row" }, row.text);
    if (row.error) name.append(make("span", { class: "remark error" }, row.error));
    const cells = this.columns.map(({ digits, order, ends }, place) => {
      const value = row.values[place];
      const bar = make("span", { class: "bar" });
      bar.style.width = `${100 * partOf(value, ends)}%`;
      const number = make("span", { class: "value" }, fixed(value, digits));
      const rank = make("span", { class: "place" }, `#${order.indexOf(row) + 1}`);
      return make(
        "td",
        {},
        make("span", { class: "score" }, rank, number),
        make("span", { class: "track", "aria-hidden": "true" }, bar),
      );
    });
    return make("tr", {}, name, ...cells);
  }
}

/** The best first; those without a number last. */
function ordered(rows, place) {
  const of = (row) => (Number.isFinite(row.values[place]) ? row.values[place] : -Infinity);
  return [...rows].sort((one, other) => of(other) - of(one));
}

/** Where bars begin and end: 0 and 1, unless numbers go beyond. */
function endsOf(rows, place) {
  const values = rows.map((row) => row.values[place]).filter(Number.isFinite);
  return [Math.min(0, ...values), Math.max(1, ...values)];
}

const partOf = (value, [low, high]) => (Number.isFinite(value) ? (value - low) / (high - low) : 0);
