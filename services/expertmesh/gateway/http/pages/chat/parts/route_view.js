// Which experts a token went to, layer by layer, and how often each was chosen. Knows tokens, not where they stand.
class RouteView {
  constructor() {
    this.views = new Set();
    this.numLayers = 0;
    byId("layer").addEventListener("change", () => this.recolour());
  }

  get layer() {
    return Number(byId("layer").value);
  }

  // A view of tokens that follows the chosen layer until `clear`.
  makeTokenView() {
    const view = new TokenView((token) => this.describe(token));
    view.layer = this.layer;
    this.views.add(view);
    return view;
  }

  forget(view) {
    this.views.delete(view);
    this.count();
  }

  add(view, tokens) {
    if (tokens.length === 0) return;
    this.offerLayers(tokens[0].layers.length);
    view.add(tokens);
    this.count();
  }

  offerLayers(numLayers) {
    if (this.numLayers === numLayers) return;
    this.numLayers = numLayers;
    byId("layer").replaceChildren(...range(numLayers).map((layer) => element("option", {}, String(layer))));
  }

  recolour() {
    for (const view of this.views) view.colourBy(this.layer);
    this.count();
  }

  describe({ text, layers }) {
    byId("routes-hint").hidden = true;
    setText(byId("chosen-token"), spoken(text));
    byId("chosen-layers").replaceChildren(...layers.map((experts, layer) => this.row(experts, layer)));
  }

  row(experts, layer) {
    const chips = experts.map((expert) => chip(expert, String(expert)));
    return element("div", {}, element("dt", {}, `L${layer}`), element("dd", {}, ...chips));
  }

  // How many tokens of the conversation went to each expert in the layer.
  count() {
    const counts = this.counts();
    const entries = [...counts].sort(([first], [second]) => first - second);
    byId("counts").hidden = entries.length === 0;
    setText(byId("counted-layer"), String(this.layer));
    byId("legend").replaceChildren(...entries.map(([expert, tokens]) => chip(expert, `${expert}: ${tokens}`)));
  }

  counts() {
    const counts = new Map();
    for (const view of this.views)
      for (const { layers } of view.tokens)
        for (const expert of layers[this.layer]) counts.set(expert, (counts.get(expert) ?? 0) + 1);
    return counts;
  }

  clear() {
    this.views.clear();
    this.count();
    byId("routes-hint").hidden = false;
    for (const id of ["chosen-token", "chosen-layers"]) byId(id).replaceChildren();
  }
}

function chip(expert, words) {
  const node = element("span", {}, words);
  colour(node, expert);
  return node;
}
