// A small line chart of the last minutes: its current figures, its range, and a text of both for who does not see it.

import { draw, make } from "./dom.js";
import { plural, roundedUp } from "./numbers.js";

const [WIDTH, HEIGHT] = [300, 80];

// Seconds from the left end to the right one: the least that shows all there is, and what came earlier is forgotten.
const SPANS = [60, 120, 300];
const LONGEST = SPANS.at(-1);

/**
 * `title`, `lines` (a name each), `show` (a number as text with its unit), `least` and `most` (between which the scale
 * ends).
 */
export class Chart {
  constructor({ title, lines, show, least, most = Infinity }) {
    Object.assign(this, { title, lines, show, least, most });
    this.points = [];
    const several = lines.length > 1;
    this.figures = lines.map(() => make("strong", {}, "–"));
    this.paths = lines.map((_, place) => draw("path", { class: `line line-${place}` }));
    this.area = draw("path", { class: "area" });
    this.picture = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.picture.append(
      draw("path", { class: "grid", d: `M0 .5H${WIDTH}M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}` }),
    );
    if (!several) this.picture.append(this.area);
    this.picture.append(...this.paths);
    this.top = make("span", { class: "scale", "aria-hidden": "true" });
    this.range = make("span");
    this.width = make("span");
    const now = lines.map((name, place) =>
      make("span", { class: "now" }, ...(several ? [make("span", {}, key(place), name)] : []), this.figures[place]),
    );
    this.element = make(
      "figure",
      { class: "chart" },
      make("figcaption", {}, make("span", { class: "title" }, title), make("span", { class: "nows" }, ...now)),
      make("div", { class: "plot" }, this.picture, this.top),
      make("p", { class: "range" }, this.range, this.width),
    );
    this.render(0);
  }

  /** Adds what holds at a time, a number or `null` for each line. */
  add(time, values) {
    this.points.push({ time, values });
    while (this.points[0].time < time - LONGEST) this.points.shift();
    this.render(time);
  }

  /** Nothing is known of the time until the next point. */
  interrupt(time) {
    if (this.points.length)
      this.add(
        time,
        this.lines.map(() => null),
      );
  }

  render(time) {
    const known = this.points.flatMap(({ values }) => values).filter((value) => value !== null);
    const [low, high] = [Math.min(...known), Math.max(...known)];
    const end = Math.min(this.most, roundedUp(Math.max(this.least, known.length ? high : 0)));
    const age = time - (this.points[0]?.time ?? time);
    const span = SPANS.find((seconds) => seconds >= age) ?? LONGEST;
    const x = (at) => (WIDTH * (1 - (time - at) / span)).toFixed(1);
    const y = (value) => (1 + (HEIGHT - 2) * (1 - Math.min(value / end, 1))).toFixed(1);
    this.paths.forEach((path, line) => {
      const runs = runsOf(this.points, line);
      path.setAttribute("d", runs.map((run) => trace(run, x, y)).join(""));
      const filled = runs.map(
        (run) => `${trace(run, x, y)}L${x(run.at(-1).time)} ${HEIGHT}L${x(run[0].time)} ${HEIGHT}Z`,
      );
      if (line === 0) this.area.setAttribute("d", filled.join(""));
    });
    const last = this.points.at(-1)?.values ?? this.lines.map(() => null);
    const current = last.map((value) => (value === null ? "–" : this.show(value)));
    current.forEach((text, line) => (this.figures[line].textContent = text));
    this.top.textContent = this.show(end);
    this.range.textContent = known.length ? `min ${this.show(low)} · max ${this.show(high)}` : "nothing yet";
    this.width.textContent = `${span / 60} min`;
    const named = current
      .map((text, line) => (this.lines.length > 1 ? `${this.lines[line]} ${text}` : text))
      .join(", ");
    const range = known.length ? `Least ${this.show(low)}, most ${this.show(high)}` : "Nothing yet";
    this.picture.setAttribute(
      "aria-label",
      `${this.title}, the last ${plural(span / 60, "minute")}: now ${named}. ${range}.`,
    );
  }
}

/** The points of a line, cut where nothing is known. */
function runsOf(points, line) {
  const runs = [[]];
  for (const { time, values } of points) {
    if (values[line] === null) runs.push([]);
    else runs.at(-1).push({ time, value: values[line] });
  }
  return runs.filter((run) => run.length > 0);
}

function trace(run, x, y) {
  const points = run.map(({ time, value }) => `${x(time)} ${y(value)}`);
  // A single one is a dot: the ends of lines are round.
  return `M${points[0]}L${points.join("L")}`;
}

function key(place) {
  const picture = draw("svg", { class: "key", viewBox: "0 0 18 8", "aria-hidden": "true" });
  picture.append(draw("path", { class: `line line-${place}`, d: "M1 4H17" }));
  return picture;
}
