// Numbers for people.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** 10000 as 10,000. */
export const count = (number) => whole.format(number);

/** Three digits, or as many as stand before the point. */
export const few = (number) => (Math.abs(number) >= 100 ? whole.format(number) : short.format(number));

/** One of something, or several. */
export const plural = (number, one) => `${count(number)} ${one}${number === 1 ? "" : "s"}`;

/** Seconds in the unit that suits them. */
export function seconds(number) {
  if (number < 1) return `${few(number * 1000)} ms`;
  return `${few(number)} s`;
}

/** Bytes in the largest binary unit that leaves no fraction worth telling. */
export function bytes(number) {
  const units = ["bytes", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${few(number)} ${units[unit]}`;
}

/** A cosine or a score, always with this many digits behind the point, and with the true minus sign. */
export function fixed(number, digits) {
  if (!Number.isFinite(number)) return "–";
  const text = number.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "\u2212");
}

/** The least round number that is not below this one. */
export function roundedUp(number) {
  const power = 10 ** Math.floor(Math.log10(number));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= number * (1 - 1e-9));
}
