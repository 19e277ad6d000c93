// The smallest helpers for elements. Knows no page.
const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

// Writing what is there already would disturb selections and screen readers.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function range(length) {
  return Array.from({ length }, (_, index) => index);
}

function after(milliseconds) {
  return new Promise((later) => setTimeout(later, milliseconds));
}
