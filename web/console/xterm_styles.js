// Lets xterm.js live under a policy that allows no inline styles. It makes style elements, whose
// text it sets again and again, and sets style attributes for true colours; the policy ignores both.
// What it may do is change style sheets and styles by their objects. So it gets a document that
// makes other elements in their place, which pass the text on to such objects. All else of that
// document is the page's own.

/** @returns {Document} for the option `documentOverride` */
export function strictDocument() {
  return new Proxy(document, {
    get(target, name) {
      if (name === 'createElement') return create;
      const value = Reflect.get(target, name);
      return typeof value === 'function' ? value.bind(target) : value;
    },
    set(target, name, value) {
      return Reflect.set(target, name, value);
    },
  });
}

/** @param {string} name */
function create(name) {
  if (name.toLowerCase() === 'style') return sheetElement();
  const element = document.createElement(name);
  if (name === 'span') element.setAttribute = setAttribute;
  return element;
}

/** An element whose text is a style sheet of the page for as long as it is there. */
function sheetElement() {
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets.push(sheet);
  const element = document.createElement('xterm-style');
  Object.defineProperty(element, 'textContent', {
    set: (text) => sheet.replaceSync(text),
  });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((other) => other !== sheet);
    Element.prototype.remove.call(element);
  };
  return element;
}

/**
 * @this {HTMLElement}
 * @param {string} name
 * @param {string} value
 */
function setAttribute(name, value) {
  if (name === 'style') this.style.cssText = value;
  else Element.prototype.setAttribute.call(this, name, value);
}
