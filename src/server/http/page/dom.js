// Elements, made and found. Texts become text nodes: nothing that a server or a reader wrote is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** The element of this id. */
export const at = (id) => document.getElementById(id);

/** An element with these attributes, and children that are elements or texts. */
export function make(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same of SVG. */
export function draw(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Says how something went; `isError` says it in the colour of errors too. */
export function say(element, words, isError = false) {
  element.textContent = words;
  element.classList.toggle("error", isError);
}

/** The lines of a text area that have something in them. */
export function lines(area) {
  return area.value
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
}

/** Calls `run` when the form is sent, and lets it be sent again once that is done. */
export function onSubmit(form, run) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (form.getAttribute("aria-busy") === "true") return;
    form.setAttribute("aria-busy", "true");
    try {
      await run();
    } finally {
      form.removeAttribute("aria-busy");
    }
  });
}

/** A name and a value of a list of facts, with a remark below if there is one. */
export function fact(name, value, remark = "") {
  const details = make("dd", {}, value);
  if (remark) details.append(make("span", { class: "remark" }, remark));
  return make("div", {}, make("dt", {}, name), details);
}
