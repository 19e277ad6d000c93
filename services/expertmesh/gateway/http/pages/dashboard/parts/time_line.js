// Values over time as lines of an SVG. Knows values and seconds, not what they measure.
const MIN_SPAN_SECONDS = 60;
const MAX_SPAN_SECONDS = 300;
const GAP_SECONDS = 5;
const SVG = "http://www.w3.org/2000/svg";

// What was seen of one value in the last MAX_SPAN_SECONDS.
class Track {
  constructor() {
    this.points = [];
  }

  add(seconds, value) {
    this.points.push({ seconds, value });
    while (this.points[0].seconds < seconds - MAX_SPAN_SECONDS) this.points.shift();
  }

  get max() {
    return this.points.reduce((most, { value }) => Math.max(most, value), 0);
  }

  // Seconds that the box is wide: it grows until it is full.
  span(now) {
    return Math.max(MIN_SPAN_SECONDS, now - this.points[0].seconds);
  }

  // A path in a box of 100 by 100, broken where nothing was seen.
  path(now, top) {
    const span = this.span(now);
    let before = -Infinity;
    return this.points.map(({ seconds, value }) => {
      const verb = seconds - before > GAP_SECONDS ? "M" : "L";
      before = seconds;
      const x = 100 - (100 * (now - seconds)) / span;
      return `${verb}${x.toFixed(2)} ${(100 - (100 * value) / top).toFixed(2)}`;
    }).join("");
  }
}

function drawing(names) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const paths = names.map((name) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    svg.append(path);
    return path;
  });
  return { svg, paths };
}

function swatch(name) {
  const { svg, paths } = drawing([name]);
  paths[0].setAttribute("d", "M0 50L100 50");
  return svg;
}

// A figure with one or two lines, `labels`, and their scale; `show` writes a value, `top` fixes the scale's end.
class TimeLine {
  constructor(title, labels, show, top = null) {
    this.labels = labels;
    this.show = show;
    this.top = top;
    this.tracks = labels.map(() => new Track());
    const { svg, paths } = drawing(["first", "second"].slice(0, labels.length));
    this.paths = paths;
    this.values = labels.map(() => element("span"));
    this.end = element("span");
    this.begin = element("span");
    this.summary = element("p", { class: "visually-hidden" });
    this.node = element("figure", {}, this.caption(title), this.summary, this.plot(svg));
  }

  caption(title) {
    const names = ["first", "second"];
    const entries = this.labels.map((label, index) => {
      return element("span", {}, swatch(names[index]), ` ${label} `, this.values[index]);
    });
    return element("figcaption", {}, element("b", {}, title), ...entries);
  }

  plot(svg) {
    const axis = element("div", { class: "axis" }, this.end, element("span", {}, this.show(0)));
    const time = element("div", { class: "time" }, this.begin, element("span", {}, "now"));
    return element("div", { class: "plot", "aria-hidden": "true" }, axis, svg, time);
  }

  add(seconds, values) {
    this.tracks.forEach((track, index) => track.add(seconds, values[index]));
    const most = this.tracks.map((track) => track.max);
    const top = this.top ?? roundUp(Math.max(...most));
    this.tracks.forEach((track, index) => {
      this.paths[index].setAttribute("d", track.path(seconds, top));
      setText(this.values[index], this.show(values[index]));
    });
    const span = `${Math.round(this.tracks[0].span(seconds))} s`;
    setText(this.end, this.show(top));
    setText(this.begin, `−${span}`);
    const words = this.labels.map((label, index) => `${label}: at most ${this.show(most[index])}`);
    setText(this.summary, `In the last ${span}, ${words.join("; ")}.`);
  }
}
