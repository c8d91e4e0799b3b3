// How the server does: /metrics, asked every two seconds while somebody looks, as charts.

import { Chart } from "./chart.js";
import { at, say } from "./dom.js";
import { follows, hitShare, latency, rate, reading, refusalRate, refusalsBetween } from "./figures.js";
import { count, few, seconds } from "./numbers.js";
import { ask } from "./server.js";

const INTERVAL = 2000;
// Figures that need many requests to mean something are those of the last ten seconds.
const WINDOW = 5;

const SHARES = [0.5, 0.95, 0.99];

const CHARTS = [
  {
    title: "Texts",
    lines: [""],
    show: (n) => `${few(n)}/s`,
    least: 10,
    of: ({ before, after }) => [rate(before, after, "texts")],
  },
  {
    title: "Latency, 10 s",
    lines: ["p50", "p95", "p99"],
    show: seconds,
    least: 0.001,
    of: ({ window, after }) => SHARES.map((share) => latency(window, after, share)),
  },
  { title: "Requests in flight", lines: [""], show: count, least: 5, of: ({ after }) => [after.inFlight] },
  {
    title: "Queue",
    lines: ["waiting", "at the door"],
    show: count,
    least: 5,
    of: ({ after }) => [after.waiting, after.atTheDoor],
  },
  {
    title: "Cache hits, 10 s",
    lines: [""],
    show: (n) => `${few(n * 100)} %`,
    least: 1,
    most: 1,
    of: ({ window, after }) => [hitShare(window, after)],
  },
  {
    title: "Refusals",
    lines: [""],
    show: (n) => `${few(n)}/s`,
    least: 1,
    of: ({ before, after }) => [refusalRate(before, after)],
  },
];

/** Follows the server from now on. */
export class Live {
  constructor() {
    this.charts = CHARTS.map((settings) => ({ of: settings.of, chart: new Chart(settings) }));
    this.readings = [];
    this.paused = false;
    this.asking = null;
    at("charts").replaceChildren(...this.charts.map(({ chart }) => chart.element));
    at("pause").addEventListener("click", () => this.pause(!this.paused));
    document.addEventListener("visibilitychange", () => this.again());
  }

  pause(paused) {
    this.paused = paused;
    at("pause").textContent = paused ? "Resume" : "Pause";
    say(at("live-words"), paused ? "Paused." : "");
    this.again();
  }

  /** Asks now if it may, and forgets what was planned. */
  again() {
    clearTimeout(this.timer);
    if (this.paused || document.hidden || this.asking) return;
    this.asking = this.poll().then((goOn) => {
      this.asking = null;
      if (goOn && !this.paused && !document.hidden) this.timer = setTimeout(() => this.again(), INTERVAL);
    });
  }

  /** One look at /metrics; whether to go on. */
  async poll() {
    try {
      this.take(reading(await ask("metrics", { seconds: 10 }), performance.now() / 1000));
    } catch (error) {
      this.readings = [];
      this.charts.forEach(({ chart }) => chart.interrupt(performance.now() / 1000));
      show(error.status ? "unknown" : "away", error.status ? "not known" : "not reached");
      // Without a token there is no use in asking again.
      const isLocked = error.status === 401;
      say(at("live-words"), isLocked ? "Shown with a token only." : error.message, !isLocked);
      return !isLocked;
    }
    return true;
  }

  take(after) {
    const before = this.readings.at(-1);
    if (before && !follows(before, after)) this.readings = [];
    const [window] = this.readings;
    this.readings.push(after);
    if (this.readings.length > WINDOW) this.readings.shift();
    if (after.ready !== null) show(after.ready ? "ready" : "busy", after.ready ? "ready" : "not ready");
    at("version").textContent = after.version;
    if (!this.first || !follows(this.first, after)) this.first = after;
    if (!window) {
      say(at("live-words"), "");
      return this.charts.forEach(({ chart }) => chart.interrupt(after.time));
    }
    this.charts.forEach(({ of, chart }) => chart.add(after.time, of({ before, window, after })));
    const reasons = refusalsBetween(this.first, after);
    const told = reasons.map(([reason, number]) => `${reason} ${count(number)}`).join(", ");
    say(at("live-words"), told && `Refused since this page was opened: ${told}.`);
  }
}

function show(state, words) {
  const element = at("state");
  if (element.textContent === words) return;
  element.textContent = words;
  element.className = `state ${state}`;
}
