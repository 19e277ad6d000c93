// One row per expert. Knows what is said of an expert and in which order, not where it comes from.
const COLUMNS = ["Expert", "Tokens/s", "Tokens/s over time", "Share now", "Share since start", "In flight, rows", "Queued, rows", "Latency p50", "Latency p99", "Replicas ready"];
const CLASSES = { 2: "line" };

class ExpertTable {
  constructor(table) {
    this.table = table;
    this.rows = [];
  }

  show(seconds, { experts, hasReplicas }) {
    if (this.rows.length !== experts.length) this.build(experts.length);
    experts.forEach((expert, index) => this.rows[index].add(seconds, expert));
    const top = roundUp(Math.max(...this.rows.map((row) => row.track.max)));
    experts.forEach((expert, index) => this.rows[index].show(seconds, expert, top, hasReplicas));
  }

  build(numExperts) {
    this.rows = range(numExperts).map((expert) => new ExpertRow(expert));
    const heads = COLUMNS.map((name, index) => element("th", { scope: "col", class: CLASSES[index] ?? "" }, name));
    const body = element("tbody", {}, ...this.rows.map((row) => row.node));
    this.table.replaceChildren(element("thead", {}, element("tr", {}, ...heads)), body);
  }
}

class ExpertRow {
  constructor(expert) {
    this.track = new Track();
    this.cells = COLUMNS.slice(1).map(() => element("td"));
    const { svg, paths } = drawing(["first"]);
    this.path = paths[0];
    this.summary = element("span", { class: "visually-hidden" });
    this.cells[1].className = "line";
    this.cells[1].append(svg, this.summary);
    this.fill = element("i");
    this.share = element("span");
    this.cells[2].className = "share";
    this.cells[2].append(element("span", { class: "bar", "aria-hidden": "true" }, this.fill), this.share);
    this.node = element("tr", {}, element("th", { scope: "row" }, String(expert)), ...this.cells);
  }

  add(seconds, { rate }) {
    this.track.add(seconds, rate);
  }

  // `top` is the end of the scale that the lines of all experts share.
  show(seconds, expert, top, hasReplicas) {
    const [rate, , , share, inflight, queue, p50, p99, replicas] = this.cells;
    setText(rate, shortNumber(expert.rate));
    this.path.setAttribute("d", this.track.path(seconds, top));
    setText(this.summary, `at most ${shortNumber(this.track.max)} tokens per second`);
    this.fill.style.width = `${100 * expert.shareNow}%`;
    setText(this.share, percent(expert.shareNow));
    setText(share, percent(expert.share));
    setText(inflight, String(expert.inflight));
    setText(queue, String(expert.queue));
    setText(p50, milliseconds(expert.p50));
    setText(p99, milliseconds(expert.p99));
    setText(replicas, hasReplicas ? `${expert.ready} of ${expert.replicas}` : "in the gateway");
    replicas.className = expert.ready < expert.replicas || expert.ready === 0 ? "missing" : "";
  }
}
