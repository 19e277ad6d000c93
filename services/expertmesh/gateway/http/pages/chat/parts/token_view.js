// The tokens of one answer, coloured by their experts; one Tab stop. Knows tokens, not what is said of them elsewhere.
const HUE_STEP = 137.5; // degrees: the golden angle keeps any number of hues apart

class TokenView {
  constructor(onToken) {
    this.onToken = onToken;
    this.tokens = [];
    this.layer = 0;
    this.active = 0;
    this.node = element("div", { class: "tokens", role: "listbox", "aria-orientation": "horizontal", "aria-label": "Tokens of this answer" });
    this.node.addEventListener("keydown", (event) => this.onKey(event));
    this.node.addEventListener("focusin", ({ target }) => this.activate(this.indexOf(target)));
    this.node.addEventListener("pointerover", ({ target }) => this.describe(this.indexOf(target)));
  }

  // `tokens`: { text, layers: expert ids of each layer, the one with the greatest weight first }.
  add(tokens) {
    for (const token of tokens) {
      const node = element("span", { role: "option", "aria-selected": "false", tabindex: "-1" }, shown(token.text));
      this.tokens.push(token);
      this.node.append(node);
      this.paint(node, token);
    }
    if (this.tokens.length > 0) this.node.children[this.active].tabIndex = 0;
  }

  colourBy(layer) {
    this.layer = layer;
    this.tokens.forEach((token, index) => this.paint(this.node.children[index], token));
  }

  paint(node, { text, layers }) {
    const [first, second] = layers[this.layer];
    colour(node, first);
    node.style.setProperty("--hue-below", hueOf(second ?? first));
    node.setAttribute("aria-label", `${spoken(text)}, layer ${this.layer}: ${layers[this.layer].join(" and ")}`);
  }

  indexOf(node) {
    return [...this.node.children].indexOf(node);
  }

  activate(index) {
    const [before, now] = [this.active, index].map((position) => this.node.children[position]);
    before.tabIndex = -1;
    before.setAttribute("aria-selected", "false");
    now.tabIndex = 0;
    now.setAttribute("aria-selected", "true");
    this.active = index;
    this.describe(index);
  }

  describe(index) {
    if (index >= 0) this.onToken(this.tokens[index]);
  }

  onKey(event) {
    const last = this.tokens.length - 1;
    const moves = { ArrowLeft: this.active - 1, ArrowUp: this.active - 1, ArrowRight: this.active + 1, ArrowDown: this.active + 1, Home: 0, End: last };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.node.children[Math.min(last, Math.max(0, moves[event.key]))].focus();
  }
}

function colour(node, expert) {
  node.style.setProperty("--hue", hueOf(expert));
  node.classList.add("expert");
}

function hueOf(expert) {
  return String((expert * HUE_STEP) % 360);
}

// What cannot be seen can still be pointed at.
function shown(text) {
  return text.replaceAll("\n", "↵\n");
}

function spoken(text) {
  return `“${text.replaceAll("\n", "↵").replaceAll(" ", "␣")}”`;
}
