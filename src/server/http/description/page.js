// Renders /openapi.json, and sends what is tried. All text goes through textContent: nothing of the document is run.
"use strict";

const at = (id) => document.getElementById(id);
// Before this page's own path there may be a proxy's.
const base = location.pathname.replace(/\/docs$/, "");

/** An element with attributes and children; texts become text. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A description's text: paragraphs, `code` and **bold**. */
function prose(text) {
  return text.split("\n\n").map((paragraph) => {
    const parts = paragraph.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((part) => {
      if (part.startsWith("`")) return make("code", {}, part.slice(1, -1));
      if (part.startsWith("**")) return make("strong", {}, part.slice(2, -2));
      return part;
    });
    return make("p", {}, ...parts);
  });
}

/** JSON for people: lists of numbers on one line. */
const shown = (value) =>
  JSON.stringify(value, null, 2).replace(/\[\s+(?:-?[\d.eE+-]+,?\s+)+\]/g, (list) => list.replace(/\s+/g, " "));
const nameOf = (reference) => reference.split("/").pop();
let api;

/** What a reference stands for, or the thing itself. */
const resolved = (thing) =>
  thing && thing.$ref ? thing.$ref.slice(2).split("/").reduce((place, key) => place[key], api) : thing;

/** A schema's type in a few words, with links to the schemas that it names. */
function typeOf(schema) {
  if (schema.$ref) return [make("a", { href: `#schema-${nameOf(schema.$ref)}` }, nameOf(schema.$ref))];
  const several = schema.oneOf || schema.anyOf || schema.allOf;
  if (several) return several.flatMap((one, index) => [index ? " or " : "", ...typeOf(one)]);
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(" or ")];
  const types = [].concat(schema.type || "anything");
  return types.flatMap((type, index) => {
    const before = index ? [" or "] : [];
    if (type === "array" && schema.items) return [...before, "list of (", ...typeOf(schema.items), ")"];
    return [...before, type];
  });
}

const row = (...cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, ...cell)));

/** Something to be opened: what is seen at once, and what is inside. */
const folded = (summary, ...inside) =>
  make("details", {}, make("summary", {}, ...summary), make("div", { class: "inside" }, ...inside));

/** The fields of an object, or of each of the objects that it may be. */
function fieldsOf(schema) {
  const several = schema.oneOf || schema.anyOf;
  if (several && !schema.properties) {
    return several.flatMap((one, index) => [
      make("h4", {}, index ? "or " : "", ...typeOf(one)),
      ...(resolved(one).description ? prose(resolved(one).description) : []),
      ...(resolved(one).properties ? fieldsOf(resolved(one)) : []),
    ]);
  }
  if (!schema.properties) return [make("p", {}, ...typeOf(schema))];
  const head = make("tr", {}, ...["Field", "Type", ""].map((title) => make("th", { scope: "col" }, title)));
  const rows = Object.entries(schema.properties).map(([name, field]) => {
    const required = (schema.required || []).includes(name);
    const nullable = [].concat(field.type || []).includes("null");
    const missing = nullable ? "may be missing or null" : "may be missing";
    const about = required ? [] : [make("span", { class: "soft" }, missing)];
    if (field.description) about.push(...prose(field.description));
    return row([make("code", {}, name)], typeOf(field), about);
  });
  return [make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows))];
}

function examplesOf(content) {
  const examples = Object.entries(content.examples || {}).map(([name, example]) => [name, resolved(example).value]);
  if (content.example !== undefined) examples.unshift(["example", content.example]);
  return examples;
}

/** A body: its schema, fields and examples. */
function bodyOf(contents) {
  return Object.entries(contents).flatMap(([kind, content]) => {
    const schema = resolved(content.schema);
    const parts = [make("p", {}, make("code", {}, kind), " ", ...typeOf(content.schema))];
    if (schema.description) parts.push(...prose(schema.description));
    if (schema.properties || schema.oneOf || schema.anyOf) parts.push(...fieldsOf(schema));
    for (const [name, value] of examplesOf(content)) {
      parts.push(folded([`Example: ${name}`], make("pre", { tabindex: "0" }, shown(value))));
    }
    return parts;
  });
}

function answersOf(operation) {
  return Object.entries(operation.responses).map(([status, reference]) => {
    const response = resolved(reference);
    const headers = Object.entries(response.headers || {}).map(([name, header]) =>
      make("p", {}, "Header ", make("code", {}, name), `: ${resolved(header).description || ""}`));
    const about = make("span", {}, response.description.split("`").join(""));
    return folded([make("strong", {}, status), about], ...headers, ...bodyOf(response.content || {}));
  });
}

/** Sends a request as the form says and shows what comes back. */
async function send(method, path, form, shownAnswer) {
  const headers = {};
  const token = at("token").value;
  if (token) headers.Authorization = `Bearer ${token}`;
  let url = base + path;
  for (const input of form.querySelectorAll("[data-in]")) {
    if (input.dataset.in === "path") url = url.replace(`{${input.name}}`, encodeURIComponent(input.value));
    else if (input.value) headers[input.name] = input.value;
  }
  const body = form.elements.body ? form.elements.body.value : undefined;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const begun = performance.now();
  try {
    const response = await fetch(url, { method, headers, body, credentials: "omit" });
    const text = await response.text();
    let pretty = text;
    if ((response.headers.get("content-type") || "").includes("json")) {
      try { pretty = shown(JSON.parse(text)); } catch { /* as it came */ }
    }
    if (pretty.length > 20000) pretty = `${pretty.slice(0, 20000)}\n… ${pretty.length - 20000} more characters`;
    const took = Math.round(performance.now() - begun);
    const words = `${response.status} ${response.statusText} in ${took} ms`;
    shownAnswer.replaceChildren(make("p", response.ok ? {} : { class: "bad" }, words));
    if (pretty) shownAnswer.append(make("pre", { tabindex: "0" }, pretty));
  } catch (error) {
    shownAnswer.replaceChildren(make("p", { class: "bad" }, `No answer: ${error.message}`));
  }
}

function tryBox(method, path, operation, id) {
  const form = make("form", {});
  const inputs = (operation.parameters || []).map(resolved).map((parameter) => {
    const input = make("input", { name: parameter.name, "data-in": parameter.in, autocomplete: "off" });
    if (parameter.in === "path") input.required = true;
    input.value = parameter.in === "path" ? parameter.example || "" : "";
    return make("label", {}, parameter.name, input);
  });
  if (inputs.length) form.append(make("div", { class: "fields" }, ...inputs));
  if (operation.requestBody) {
    const content = Object.values(operation.requestBody.content)[0];
    const examples = examplesOf(content);
    const text = make("textarea", { name: "body", id: `${id}-body`, rows: "6", spellcheck: "false" });
    text.value = examples.length ? shown(examples[0][1]) : "{}";
    if (examples.length > 1) {
      const choice = make("select", {}, ...examples.map(([name], index) => make("option", { value: index }, name)));
      choice.addEventListener("change", () => { text.value = shown(examples[choice.value][1]); });
      form.append(make("label", { class: "soft" }, "Example ", choice));
    }
    form.append(make("div", {}, make("label", { class: "soft", for: `${id}-body` }, "Body"), text));
  }
  const button = make("button", { type: "submit" }, "Send");
  const answer = make("div", { role: "status" });
  form.append(make("p", {}, button));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    await send(method.toUpperCase(), path, form, answer);
    button.disabled = false;
  });
  return [make("h3", {}, "Try it"), form, answer];
}

/** An operation, filled in when it is opened. */
function operationOf(method, path, operation) {
  const id = operation.operationId;
  const summary = make("summary", {}, make("span", { class: `method ${method}` }, method.toUpperCase()),
    make("span", { class: "path" }, path), make("span", { class: "soft" }, operation.summary));
  const inside = make("div", { class: "inside" });
  const element = make("details", { id }, summary, inside);
  element.dataset.words = `${method} ${path} ${operation.summary} ${operation.description || ""}`.toLowerCase();
  element.addEventListener("toggle", () => {
    if (!element.open || inside.childElementCount) return;
    if (operation.description) inside.append(...prose(operation.description));
    const rows = (operation.parameters || []).map(resolved).map((parameter) =>
      row([make("code", {}, parameter.name)], [`in the ${parameter.in}`], prose(parameter.description || "")));
    if (rows.length) inside.append(make("h3", {}, "Parameters"), make("table", {}, make("tbody", {}, ...rows)));
    if (operation.requestBody) inside.append(make("h3", {}, "Request"), ...bodyOf(operation.requestBody.content));
    inside.append(...tryBox(method, path, operation, id), make("h3", {}, "Answers"), ...answersOf(operation));
  });
  return element;
}

function render() {
  at("title").textContent = api.info.title;
  at("version").textContent = `Version ${api.info.version}, OpenAPI ${api.openapi}.`;
  at("about").append(...prose(api.info.description || ""));
  const operations = Object.entries(api.paths).flatMap(([path, item]) =>
    Object.entries(item).map(([method, operation]) => [method, path, operation]));
  for (const tag of api.tags) {
    const own = operations.filter(([, , operation]) => operation.tags.includes(tag.name));
    const id = `surface-${tag.name}`;
    at("surfaces").append(make("li", {}, make("a", { href: `#${id}` }, tag.name)));
    at("operations").append(make("section", { "aria-labelledby": id }, make("h2", { id }, tag.name),
      ...prose(tag.description || ""), ...own.map((one) => operationOf(...one))));
  }
  at("surfaces").append(make("li", {}, make("a", { href: "#schemas-title" }, "Schemas")));
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    const about = schema.description ? prose(schema.description) : [];
    const element = folded([make("span", { class: "path" }, name)], ...about, ...fieldsOf(schema));
    element.id = `schema-${name}`;
    at("schemas").append(element);
  }
  at("state").textContent = `${operations.length} operations.`;
}

/** Opens what a link leads to. */
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === "DETAILS") {
    target.open = true;
    target.scrollIntoView();
  }
}

at("token-form").addEventListener("submit", (event) => event.preventDefault());
at("filter").addEventListener("input", () => {
  const words = at("filter").value.toLowerCase().split(/\s+/);
  let left = 0;
  for (const section of at("operations").children) {
    const details = [...section.querySelectorAll("details[data-words]")];
    for (const one of details) one.hidden = !words.every((word) => one.dataset.words.includes(word));
    const some = details.filter((one) => !one.hidden).length;
    section.hidden = some === 0;
    left += some;
  }
  at("state").textContent = `${left} operations.`;
});
addEventListener("hashchange", open);

fetch(`${base}/openapi.json`, { credentials: "omit" })
  .then((response) => response.json())
  .then((document) => { api = document; render(); open(); })
  .catch((error) => { at("state").textContent = `The description could not be read: ${error.message}`; });
