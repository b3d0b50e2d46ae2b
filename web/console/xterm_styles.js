// Lets xterm.js live under a policy that allows no inline styles. It makes style elements, whose
// text it sets again and again, and sets style attributes for true colours; the policy ignores both.
// A script may change style sheets and styles by their objects. So the elements that it asks the
// document for are ones that pass the text on to such objects. Its own option for another document
// (`documentOverride`) does not reach all places where it makes elements.

/** Applies to all elements that are made from now on. */
export function allowStyles() {
  Object.defineProperty(document, 'createElement', { value: create, configurable: true });
}

/**
 * @param {string} name
 * @param {ElementCreationOptions} [options]
 */
function create(name, options) {
  if (name === 'style') return sheetElement();
  const element = Document.prototype.createElement.call(document, name, options);
  if (name === 'span') element.setAttribute = setAttribute;
  return element;
}

/** Makes an element whose text is a style sheet of the page for as long as it is there. */
function sheetElement() {
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets.push(sheet);
  const element = Document.prototype.createElement.call(document, 'xterm-style');
  Object.defineProperty(element, 'textContent', { set: (text) => sheet.replaceSync(text) });
  element.remove = () => {
    const others = document.adoptedStyleSheets.filter((other) => other !== sheet);
    document.adoptedStyleSheets = others;
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
