// Elements without a template language; text is always text.

export const byId = (id) => document.getElementById(id);

export function make(name, properties = {}, ...inside) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "style") Object.assign(element.style, value);
    else if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...inside.filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

export const button = (text, title, onclick, properties = {}) => make("button", { title, onclick, ...properties }, text);
