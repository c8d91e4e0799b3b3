// Vectors of texts, and how alike two of them are.

import { askJson } from "./server.js";

/**
 * The vectors of some texts as passages or queries: `{vectors, errors, dimensions, seconds}`. A text that failed has
 * `null` for a vector, and words among the errors.
 */
export async function embed(model, texts, task) {
  if (!model) throw new Error("It is not known yet which model is served: try again when it is shown above.");
  const begun = performance.now();
  const answer = await askJson(`${model.path}vectors`, { body: { texts, config: { task_type: task } } });
  const seconds = (performance.now() - begun) / 1000;
  return { vectors: answer.vectors, errors: answer.errors ?? [], dimensions: answer.dims, seconds };
}

/** Between -1 and 1; not a number where a vector is missing, has no direction or another length. */
export function cosine(one, other) {
  if (!one || !other || one.length !== other.length) return NaN;
  let [product, squares, squaresOfOther] = [0, 0, 0];
  for (let place = 0; place < one.length; place++) {
    product += one[place] * other[place];
    squares += one[place] ** 2;
    squaresOfOther += other[place] ** 2;
  }
  return product / Math.sqrt(squares * squaresOfOther);
}
