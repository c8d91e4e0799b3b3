// Figures of a span of time, from what /metrics said at its two ends.

import { numberOf, parse } from "./prometheus.js";

// Where probes, and this page with its questions to /metrics, are counted.
const OTHERS = ["other", "other_grpc"];

/** What /metrics said at a moment, in seconds; of everything only what figures are made of. */
export function reading(text, time) {
  const samples = parse(text);
  const all = (name) => samples.get(name) ?? [];
  const sum = (name, counts = () => true) =>
    all(name).reduce((total, { labels, value }) => (counts(labels) ? total + value : total), 0);
  const served = ({ surface }) => !OTHERS.includes(surface);
  const buckets = new Map();
  for (const { labels, value } of all("t2v_request_duration_seconds_bucket")) {
    const bound = numberOf(labels.le);
    if (served(labels)) buckets.set(bound, (buckets.get(bound) ?? 0) + value);
  }
  return {
    time,
    started: sum("process_start_time_seconds"),
    ready: samples.has("t2v_ready") ? sum("t2v_ready") === 1 : null,
    version: all("t2v_build_info")[0]?.labels.version ?? "",
    requests: sum("t2v_requests_total"),
    texts: sum("t2v_texts_total"),
    inFlight: sum("t2v_requests_in_flight", served),
    waiting: sum("t2v_queue_depth"),
    atTheDoor: sum("t2v_queue_at_the_door"),
    hits: sum("t2v_cache_hits_total") + sum("t2v_cache_coalesced_total"),
    misses: sum("t2v_cache_misses_total"),
    refusals: new Map(all("t2v_refused_requests_total").map(({ labels, value }) => [labels.reason, value])),
    buckets: [...buckets].sort(([one], [other]) => one - other),
  };
}

/** Whether one reading follows another of the same run of the server, whose start is measured each time anew. */
export function follows(before, after) {
  return Math.abs(after.started - before.started) < 1 && after.requests >= before.requests;
}

/** How many a second. */
export function rate(before, after, name) {
  return (after[name] - before[name]) / (after.time - before.time);
}

/** Refusals a second, for whatever reason. */
export function refusalRate(before, after) {
  const all = (reading) => [...reading.refusals.values()].reduce((total, value) => total + value, 0);
  return (all(after) - all(before)) / (after.time - before.time);
}

/** The reasons of refusals between two readings: `[reason, count]`, the most frequent first. */
export function refusalsBetween(before, after) {
  const more = [...after.refusals].map(([reason, value]) => [reason, value - (before.refusals.get(reason) ?? 0)]);
  return more.filter(([, value]) => value > 0).sort(([, one], [, other]) => other - one);
}

/** The share of texts that the cache had, or had under way; `null` if it was not asked. */
export function hitShare(before, after) {
  const hits = after.hits - before.hits;
  const asked = hits + after.misses - before.misses;
  return asked > 0 ? hits / asked : null;
}

/**
 * The seconds that this share of the requests took at most; `null` if there were none. Within its bucket a request is
 * taken to be anywhere, as Prometheus' histogram_quantile has it; beyond the last bound it is the bound.
 */
export function latency(before, after, share) {
  const earlier = new Map(before.buckets);
  const counts = after.buckets.map(([bound, value]) => [bound, value - (earlier.get(bound) ?? 0)]);
  const total = counts.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  const wanted = share * total;
  let [lower, below] = [0, 0];
  for (const [bound, upTo] of counts) {
    if (upTo >= wanted && upTo > below) {
      return bound === Infinity ? lower : lower + (bound - lower) * ((wanted - below) / (upTo - below));
    }
    [lower, below] = [bound, upTo];
  }
  return lower;
}
