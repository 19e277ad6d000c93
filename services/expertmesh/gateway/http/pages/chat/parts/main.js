// The page: asks the gateway, one question at a time. Knows when things happen, not how they are drawn.
const RETRY_MS = 2_000;
const NEAR_PX = 48;

class Chat {
  constructor() {
    this.keyForm = new KeyForm();
    this.conversation = new Conversation();
    this.settings = new Settings(() => this.showExperts());
    this.routes = new RouteView();
    this.announcer = new Announcer(byId("spoken"));
    this.composer = new Composer((question) => this.begin(question), () => this.stop());
    this.stopping = new AbortController();
    this.retry = element("button", { type: "button" }, "Try again");
    this.retry.addEventListener("click", () => this.answerAgain());
    this.views = [];
    byId("new").addEventListener("click", () => this.clear());
    addEventListener("pagehide", () => this.conversation.save());
  }

  async run() {
    this.introduce(await this.connect());
    for (const turn of this.conversation.turns) this.append(turn);
    byId("view").hidden = byId("new").hidden = false;
    this.showExperts();
    this.rest();
    scrollToEnd();
    byId("question").focus();
  }

  // What is served, as soon as the gateway says so.
  async connect() {
    for (;;) {
      try {
        return await (await ask("info")).json();
      } catch (error) {
        if (error instanceof KeyError) await this.askKey(error);
        else await this.waitOut(error);
      }
    }
  }

  async askKey(error) {
    this.say("connecting", "Waiting for an API key");
    await this.keyForm.ask(error.message);
    this.say("connecting", "Connecting");
  }

  async waitOut(error) {
    this.say("failing", `No answer (${error.message}), trying again`);
    await after(RETRY_MS);
  }

  introduce({ model_id: model, version, max_total_tokens: maxTokens }) {
    this.model = model;
    document.title = `${model} · expertmesh`;
    setText(byId("model"), model);
    setText(byId("version"), version);
    setText(byId("max-tokens"), String(maxTokens));
    setText(byId("base"), new URL("v1", document.baseURI).href);
  }

  say(state, words) {
    byId("status").dataset.state = state;
    setText(byId("status"), words);
  }

  append(turn) {
    const view = new TurnView(turn, this.model, this.routes);
    this.views.push(view);
    byId("turns").append(view.node);
    return view;
  }

  begin(question) {
    const view = this.append(this.conversation.begin(question));
    scrollToEnd();
    this.answer(view);
  }

  // The focus would be lost with the button that had it.
  answerAgain() {
    byId("send").focus();
    scrollToEnd();
    this.answer(this.views.at(-1));
  }

  async answer(view) {
    this.start(view);
    const error = await this.receive(view).catch((reason) => reason);
    if (error) this.fail(view, error);
    this.finish(view);
    if (!(error instanceof KeyError)) return;
    await this.askKey(error);
    this.answerAgain();
  }

  start(view) {
    this.stopping = new AbortController();
    this.retry.remove();
    view.restart(this.settings.wantsExperts);
    this.announcer.begin();
    this.conversation.save();
    this.composer.setRunning(true);
    this.say("live", "Answering");
  }

  async receive(view) {
    const messages = this.conversation.messages(view.turn, this.settings.system);
    for await (const piece of streamAnswer({ messages, ...this.settings.fields }, this.stopping.signal)) {
      this.stopping.signal.throwIfAborted(); // what had come already is not shown after Stop
      keepEnd(() => this.show(view, piece));
    }
  }

  show(view, piece) {
    view.add(piece);
    view.showTokens(this.settings.wantsExperts);
    this.announcer.add(piece.text);
  }

  fail(view, error) {
    if (this.stopping.signal.aborted) view.end("stopped");
    else view.end("failed", error.message);
  }

  finish(view) {
    this.announcer.end(view.words);
    this.conversation.save();
    this.composer.setRunning(false);
    keepEnd(() => this.rest());
  }

  rest() {
    this.say("live", "Ready");
    this.views.at(-1)?.node.append(this.retry);
  }

  stop() {
    this.stopping.abort();
  }

  clear() {
    this.stop();
    this.conversation.clear();
    this.routes.clear();
    this.announcer.begin();
    this.views = [];
    byId("turns").replaceChildren();
    byId("question").focus();
  }

  showExperts() {
    byId("routes").hidden = !this.settings.wantsExperts;
    for (const view of this.views) view.showTokens(this.settings.wantsExperts);
  }
}

// What grows stays in view, unless somebody reads further up.
function keepEnd(change) {
  const isAtEnd = scrollY + innerHeight > document.documentElement.scrollHeight - NEAR_PX;
  change();
  if (isAtEnd) scrollToEnd();
}

function scrollToEnd() {
  scrollTo(0, document.documentElement.scrollHeight);
}

new Chat().run();
