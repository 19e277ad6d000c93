// Tokens/s of every expert in every layer as a grid. Knows rates and keys, not where rates come from.
const LEVELS = 6;
const CELL_PX = 38;

class HeatMap {
  constructor(table, readout, legend) {
    this.table = table;
    this.readout = readout;
    this.legend = legend;
    this.active = { expert: 0, layer: 0 };
    this.described = this.active;
    this.experts = [];
    this.isWide = null;
    table.addEventListener("keydown", (event) => this.onKey(event));
    table.addEventListener("focusin", ({ target }) => this.onCell(target, (position) => this.activate(position)));
    table.addEventListener("pointerover", ({ target }) => this.onCell(target, (position) => this.describe(position)));
    new ResizeObserver(() => this.show(this.experts)).observe(table.parentElement);
  }

  // `experts`: the rates of each, layer 0 first.
  show(experts) {
    if (experts.length === 0) return;
    this.experts = experts;
    this.layOut(experts.length, experts[0].length);
    const most = Math.max(...experts.flat());
    this.eachCell((cell, expert, layer) => this.paint(cell, expert, layer, most));
    this.describe(this.described);
    setText(this.legend.lastElementChild, `busiest: ${shortNumber(most)} tokens/s`);
  }

  // Layers go to the right where there is room for all of them, or for neither them nor experts and they are fewer.
  layOut(numExperts, numLayers) {
    const numColumns = this.table.parentElement.clientWidth / CELL_PX - 2;
    const isWide = numColumns >= numLayers || (numColumns < numExperts && numLayers < numExperts);
    if (isWide === this.isWide && this.cells.length === numExperts) return;
    const hadFocus = this.table.contains(document.activeElement);
    this.isWide = isWide;
    this.cells = Array.from({ length: numExperts }, () => Array.from({ length: numLayers }, () => this.cell()));
    this.table.replaceChildren(...(isWide ? this.rows("Expert", "L", numExperts, numLayers) : this.rows("Layer", "E", numLayers, numExperts)));
    this.writeLegend();
    this.activate(this.active);
    if (hadFocus) this.focus(this.active);
  }

  cell() {
    return element("td", { role: "gridcell", tabindex: "-1" });
  }

  rows(rowName, columnLetter, numRows, numColumns) {
    const heads = range(numColumns).map((column) => element("th", { scope: "col" }, `${columnLetter}${column}`));
    const head = element("tr", {}, element("th", { scope: "col" }, rowName), ...heads);
    const body = range(numRows).map((row) => {
      const cells = range(numColumns).map((column) => (this.isWide ? this.cells[row][column] : this.cells[column][row]));
      return element("tr", {}, element("th", { scope: "row" }, String(row)), ...cells);
    });
    return [element("thead", {}, head), element("tbody", {}, ...body)];
  }

  writeLegend() {
    const steps = range(LEVELS + 1).map((level) => element("i", { "data-level": level }));
    this.legend.replaceChildren("0", ...steps, element("span"));
  }

  paint(cell, expert, layer, most) {
    const rate = this.experts[expert][layer];
    cell.dataset.level = most > 0 ? Math.ceil(LEVELS * (rate / most)) : 0;
    setText(cell, shortNumber(rate));
    // A name that changes under the focus would be read out every second.
    if (cell !== document.activeElement) cell.setAttribute("aria-label", this.words({ expert, layer }));
  }

  words({ expert, layer }) {
    return `Expert ${expert}, layer ${layer}: ${shortNumber(this.experts[expert][layer])} tokens per second`;
  }

  describe(position) {
    this.described = position;
    const ofLayer = this.experts.reduce((sum, layers) => sum + layers[position.layer], 0);
    const share = ofLayer > 0 ? `, ${percent(this.experts[position.expert][position.layer] / ofLayer)} of the layer` : "";
    setText(this.readout, this.words(position) + share);
  }

  eachCell(visit) {
    this.cells.forEach((row, expert) => row.forEach((cell, layer) => visit(cell, expert, layer)));
  }

  cellAt({ expert, layer }) {
    return this.cells[expert][layer];
  }

  activate(position) {
    this.cellAt(this.active).tabIndex = -1;
    this.active = position;
    this.cellAt(position).tabIndex = 0;
    this.describe(position);
  }

  onCell(target, visit) {
    this.eachCell((cell, expert, layer) => {
      if (cell === target) visit({ expert, layer });
    });
  }

  onKey(event) {
    const position = this.moved(event.key, event.ctrlKey);
    if (position === null) return;
    event.preventDefault();
    this.focus(position);
  }

  focus(position) {
    const cell = this.cellAt(position);
    cell.setAttribute("aria-label", this.words(position));
    cell.focus();
  }

  // Where a key leads to from the active cell; null if it is no key of the grid.
  moved(key, isWhole) {
    const [down, right] = this.isWide ? ["expert", "layer"] : ["layer", "expert"];
    const last = { expert: this.experts.length - 1, layer: this.experts[0].length - 1 };
    const step = (axis, by) => ({ ...this.active, [axis]: Math.min(last[axis], Math.max(0, this.active[axis] + by)) });
    const moves = {
      ArrowUp: () => step(down, -1),
      ArrowDown: () => step(down, 1),
      ArrowLeft: () => step(right, -1),
      ArrowRight: () => step(right, 1),
      Home: () => (isWhole ? { expert: 0, layer: 0 } : step(right, -Infinity)),
      End: () => (isWhole ? last : step(right, Infinity)),
    };
    return moves[key]?.() ?? null;
  }
}
