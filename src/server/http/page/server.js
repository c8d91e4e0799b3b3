// Requests to this server, below the address that the page came from, and its errors in its own words.

import { opened, refused, token } from "./token.js";

/** Why there is no answer: the server's words, and its status; 0 if it was not reached. */
export class Refusal extends Error {
  constructor(words, status) {
    super(words);
    this.status = status;
  }
}

// What needs no token: that it was answered says nothing.
const OPEN = ["metrics", ".well-known/ready"];

// Without credentials of the browser's own, which would ask for a password by itself when it is refused. A client
// certificate is one of them: a refusal without a challenge means that it is one that is missing.
let credentials = "omit";

/** The answer to a GET, or to a POST if there is a body; `seconds`: how long it may take. */
export async function ask(path, { body, seconds = 120 } = {}) {
  const shown = token();
  const request = {
    method: "GET",
    headers: {},
    credentials,
    cache: "no-store",
    signal: AbortSignal.timeout(seconds * 1000),
  };
  if (shown) request.headers.Authorization = `Bearer ${shown}`;
  if (body) {
    request.method = "POST";
    request.headers["Content-Type"] = "application/json";
    request.body = JSON.stringify(body);
  }
  let answer;
  let text;
  try {
    answer = await fetch(path, request);
    text = await answer.text();
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Refusal(late ? `No answer within ${seconds} seconds.` : "The server cannot be reached.", 0);
  }
  if (answer.ok) {
    if (!OPEN.includes(path)) opened();
    return text;
  }
  if (answer.status === 401 && credentials === "omit" && !answer.headers.has("WWW-Authenticate")) {
    credentials = "same-origin";
    return ask(path, { body, seconds });
  }
  const words = wordsOf(text) || `${answer.status} ${answer.statusText}`;
  // Not if another token was typed meanwhile.
  if (answer.status === 401 && shown === token()) refused(words, shown);
  throw new Refusal(words, answer.status);
}

/** The same, read as JSON. */
export async function askJson(path, options) {
  return JSON.parse(await ask(path, options));
}

function wordsOf(text) {
  try {
    const { error } = JSON.parse(text);
    return typeof error === "string" ? error : error.message;
  } catch {
    return text.slice(0, 500);
  }
}
