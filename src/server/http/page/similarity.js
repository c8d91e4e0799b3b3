// Texts against each other: a table of cosines, coloured.

import { at, lines, make, onSubmit, say } from "./dom.js";
import { fixed, plural, seconds } from "./numbers.js";
import { cosine, embed } from "./vectors.js";

const [LEAST, MOST] = [2, 50];
// Colours: 0 is the faintest.
const LEVELS = 10;

/** `model` answers the model that makes vectors now. */
export function offerSimilarity(model) {
  const [area, hint] = [at("texts"), at("texts-hint")];
  const counted = () => {
    const { length } = lines(area);
    say(hint, `${plural(length, "text")}, ${LEAST} to ${MOST} can be compared`, length < LEAST || length > MOST);
    return length >= LEAST && length <= MOST;
  };
  area.addEventListener("input", counted);
  counted();
  onSubmit(at("compare"), async () => {
    if (!counted()) return area.focus();
    const texts = lines(area);
    const words = at("similarity-words");
    say(words, `Embedding ${plural(texts.length, "text")}…`);
    try {
      const answer = await embed(model(), texts, "passage");
      const cosines = answer.vectors.map((one) => answer.vectors.map((other) => cosine(one, other)));
      at("heat").replaceChildren(table(texts, cosines, answer.errors), legend(scaleOf(cosines)));
      const made = `${plural(answer.dimensions, "dimension")}, ${plural(texts.length, "text")}`;
      say(words, `${summary(cosines)} ${made} in ${seconds(answer.seconds)}.`);
    } catch (error) {
      at("heat").replaceChildren();
      say(words, error.message, true);
    }
  });
}

/** The cosines of different texts. */
const between = (cosines) =>
  cosines.flatMap((row, one) => row.slice(one + 1).map((value, place) => ({ value, one, other: one + 1 + place })));

/** The scale's lower end, in tenths: models differ in how far apart their vectors lie. Its upper end is 1. */
function scaleOf(cosines) {
  const values = between(cosines)
    .map(({ value }) => value)
    .filter(Number.isFinite);
  return values.length ? Math.min(0.9, Math.floor(Math.min(...values) * 10) / 10) : 0;
}

function summary(cosines) {
  const pairs = between(cosines)
    .filter(({ value }) => Number.isFinite(value))
    .sort((one, other) => other.value - one.value);
  if (!pairs.length) return "";
  const told = ({ value, one, other }) => `${one + 1} and ${other + 1} (${fixed(value, 2)})`;
  const least = pairs.length > 1 ? `; least ${told(pairs.at(-1))}` : "";
  return `Most alike are ${told(pairs[0])}${least}.`;
}

function table(texts, cosines, errors) {
  const low = scaleOf(cosines);
  const numbers = texts.map((text, place) => make("th", { scope: "col", title: text }, `${place + 1}`));
  const rows = texts.map((text, one) => {
    const name = make(
      "th",
      { scope: "row" },
      make("span", { class: "number" }, `${one + 1}`),
      " ",
      make("span", { class: "text", title: text }, text),
    );
    if (errors[one]) name.append(make("span", { class: "remark error" }, errors[one]));
    return make(
      "tr",
      {},
      name,
      ...texts.map((other, place) => cell(cosines[one][place], low, one === place, `${text}\n${other}`)),
    );
  });
  const caption = make("caption", { class: "hidden" }, "Cosine similarity of every two texts");
  const whole = make(
    "table",
    { class: "heat" },
    caption,
    make("thead", {}, make("tr", {}, make("td", {}), ...numbers)),
    make("tbody", {}, ...rows),
  );
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Cosine similarities" }, whole);
}

function cell(value, low, isSame, title) {
  const level = Number.isFinite(value) ? levelOf(value, low) : 0;
  return make("td", { class: isSame ? "same" : `level-${level}`, title }, fixed(value, 2));
}

const levelOf = (value, low) => Math.max(0, Math.min(LEVELS - 1, Math.floor(((value - low) / (1 - low)) * LEVELS)));

function legend(low) {
  const steps = Array.from({ length: LEVELS }, (_, level) => make("span", { class: `step level-${level}` }));
  return make(
    "p",
    { class: "legend", "aria-hidden": "true" },
    fixed(low, 1),
    make("span", { class: "steps" }, ...steps),
    "1.0",
  );
}
