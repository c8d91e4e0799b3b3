// The token that the reader types: asked for when the server wants one, and kept in this tab only.

import { at, onSubmit, say } from "./dom.js";

const KEY = "text2vec-token";

/** The token in use; without one, nothing. */
export function token() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** The server refused a request with this token, or with none, in these words: shows the box. */
export function refused(words, shown) {
  // What was said of a token that was typed is worth more than that now none came.
  if (shown === "" && !at("locked").hidden) return;
  sessionStorage.removeItem(KEY);
  say(at("locked-words"), words);
  at("forget").hidden = true;
  if (at("locked").hidden) {
    at("locked").hidden = false;
    if (document.activeElement === document.body) at("token").focus();
  }
}

/** The server let a request through: the box is no longer needed. */
export function opened() {
  const focused = at("locked").contains(document.activeElement);
  at("locked").hidden = true;
  at("token").value = "";
  at("forget").hidden = token() === "";
  if (focused) at("content").focus();
}

/** Calls `begin` each time a token was typed. */
export function onToken(begin) {
  onSubmit(at("unlock"), async () => {
    const typed = at("token").value.trim();
    try {
      new Headers({ Authorization: `Bearer ${typed}` });
    } catch {
      return say(at("locked-words"), "This token has characters that no request can carry: type it again.");
    }
    sessionStorage.setItem(KEY, typed);
    await begin();
  });
  at("forget").addEventListener("click", () => {
    sessionStorage.removeItem(KEY);
    location.reload();
  });
}
