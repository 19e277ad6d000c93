// The page: asks again and again, and hands what comes to its parts. Knows when to ask, not how things are drawn.
const RETRY_MS = 2_000;

class Dashboard {
  constructor() {
    this.keyForm = new KeyForm();
    this.isPaused = false;
    this.wake = () => {};
    this.heat = new HeatMap(byId("heat"), byId("heat-readout"), byId("heat-legend"));
    this.table = new ExpertTable(byId("experts"));
    this.tokens = new TimeLine("Tokens/s", ["generated", "prompts"], shortNumber);
    this.sequences = new TimeLine("Sequences", ["running", "waiting"], shortNumber);
    this.cache = new TimeLine("KV cache in use", ["blocks"], percent, 1);
    byId("lines").append(this.tokens.node, this.sequences.node, this.cache.node);
    byId("pause").addEventListener("click", () => this.togglePause());
    document.addEventListener("visibilitychange", () => this.wake());
  }

  async run() {
    for (;;) {
      await this.turn();
      while (this.isPaused || document.hidden) await new Promise((wake) => (this.wake = wake));
    }
  }

  async turn() {
    try {
      const update = await readLoad();
      if (!this.isPaused) this.show(update);
    } catch (error) {
      if (error instanceof KeyError) return this.askKey(error.message);
      this.say("failing", `No answer (${error.message}), trying again`);
      await after(RETRY_MS);
    }
  }

  show(update) {
    const seconds = performance.now() / 1000;
    byId("view").hidden = byId("pause").hidden = false;
    this.say("live", "Live");
    this.showNow(update);
    this.heat.show(update.experts.map((expert) => expert.layers));
    this.tokens.add(seconds, [update.generated, update.prompt]);
    this.sequences.add(seconds, [update.gateway.running, update.gateway.waiting]);
    this.cache.add(seconds, [update.gateway.kv_cache_usage]);
    this.table.show(seconds, update);
  }

  showNow({ generated, prompt, balancedness, gateway }) {
    setText(byId("now-generated"), shortNumber(generated));
    setText(byId("now-prompt"), shortNumber(prompt));
    setText(byId("now-running"), shortNumber(gateway.running));
    setText(byId("now-waiting"), shortNumber(gateway.waiting));
    setText(byId("now-kv"), percent(gateway.kv_cache_usage));
    setText(byId("now-balance"), balancedness > 0 ? balancedness.toFixed(2) : "–");
  }

  say(state, words) {
    byId("status").dataset.state = state;
    setText(byId("status"), words);
  }

  togglePause() {
    this.isPaused = !this.isPaused;
    setText(byId("pause"), this.isPaused ? "Resume" : "Pause");
    this.say(...(this.isPaused ? ["paused", "Paused"] : ["connecting", "Connecting"]));
    this.wake();
  }

  async askKey(message) {
    byId("view").hidden = byId("pause").hidden = true;
    this.say("connecting", "Waiting for an API key");
    await this.keyForm.ask(message);
    this.say("connecting", "Connecting");
  }
}

new Dashboard().run();
