// Tabs for the same thing in several languages: code blocks in a <div class="tabs"> become one block with a tab each.
// A tab that is chosen is chosen in all of them, and on the pages that follow in this browser tab. Without scripts the
// blocks stand one below the other.

const KEY = "wrenn-guide-language";
const LANGUAGES = new Map([
  ["curl", "curl"],
  ["language-sh", "CLI"],
  ["language-python", "Python"],
  ["language-ts", "TypeScript"],
  ["language-go", "Go"],
]);

const groups = [];

function nameOf(block) {
  const classes = block.querySelector("code").classList;
  for (const [name, label] of LANGUAGES) {
    if (classes.contains(name)) {
      return label;
    }
  }
  return "Text";
}

function remembered() {
  try {
    return sessionStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function remember(language) {
  try {
    sessionStorage.setItem(KEY, language);
  } catch {
    // Without storage a choice is for this page alone.
  }
}

/** Shows the language in every group that has it. */
function choose(language) {
  for (const group of groups) {
    if (!group.some((tab) => tab.language === language)) {
      continue;
    }
    for (const { button, block, language: own } of group) {
      const isChosen = own === language;
      button.setAttribute("aria-selected", String(isChosen));
      button.tabIndex = isChosen ? 0 : -1;
      block.hidden = !isChosen;
    }
  }
}

/** Moves with the arrow keys, as the ARIA pattern of tabs has it. */
function move(event, group, index) {
  const steps = { ArrowRight: 1, ArrowLeft: -1 };
  const step = steps[event.key];
  if (step === undefined) {
    return;
  }
  event.preventDefault();
  // The book itself turns pages with these keys.
  event.stopPropagation();
  const next = group[(index + step + group.length) % group.length];
  next.button.click();
  next.button.focus();
}

function addTabs(container, number) {
  const blocks = [...container.children].filter((child) => child.querySelector("code"));
  const list = document.createElement("div");
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", "Language");
  const group = [];
  for (const [index, block] of blocks.entries()) {
    const language = nameOf(block);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = language;
    button.id = `tab-${number}-${index}`;
    button.setAttribute("role", "tab");
    block.id = `panel-${number}-${index}`;
    block.setAttribute("role", "tabpanel");
    block.setAttribute("aria-labelledby", button.id);
    button.setAttribute("aria-controls", block.id);
    button.addEventListener("click", () => {
      // What is read stays where it is, whatever becomes longer or shorter above it.
      const before = button.getBoundingClientRect().top;
      choose(language);
      remember(language);
      window.scrollBy(0, button.getBoundingClientRect().top - before);
    });
    button.addEventListener("keydown", (event) => move(event, group, index));
    group.push({ language, button, block });
    list.append(button);
  }
  container.prepend(list);
  container.classList.add("has-tabs");
  groups.push(group);
}

for (const [number, container] of document.querySelectorAll("div.tabs").entries()) {
  addTabs(container, number);
}
for (const group of groups) {
  choose(group[0].language);
}
const last = remembered();
if (last !== null) {
  choose(last);
}
