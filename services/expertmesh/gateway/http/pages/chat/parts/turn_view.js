// A question and its answer. Knows a turn and its elements, not how answers come.
const ENDINGS = { stop: "", length: "Ended here: the answer may have no more tokens.", stopped: "Stopped." };

class TurnView {
  constructor(turn, model, routes) {
    this.turn = turn;
    this.routes = routes;
    this.text = element("p", { class: "text" }, turn.text);
    this.answer = element("div", {}, this.text);
    this.note = element("p", { class: "note" });
    const question = element("p", { class: "text question" }, turn.question);
    this.node = element("article", {}, element("h2", {}, "You"), question, element("h2", {}, model), this.answer, this.note);
    this.writeNote();
  }

  // Makes room for an answer, with experts or without.
  restart(withExperts) {
    Object.assign(this.turn, { text: "", ending: null, error: "" });
    this.text.replaceChildren();
    this.removeTokens();
    if (withExperts) this.tokens = this.routes.makeTokenView();
    this.writeNote();
  }

  add({ text, tokens, ending }) {
    this.turn.text += text;
    this.turn.ending = ending;
    this.text.append(text);
    if (this.tokens) this.routes.add(this.tokens, tokens);
    if (ending) this.writeNote();
  }

  end(ending, error = "") {
    Object.assign(this.turn, { ending, error });
    this.writeNote();
  }

  // Tokens stand in for the text, in which they cannot be told apart.
  showTokens(isWanted) {
    const node = isWanted && this.tokens?.tokens.length ? this.tokens.node : this.text;
    if (this.answer.firstChild !== node) this.answer.replaceChildren(node);
  }

  removeTokens() {
    if (this.tokens) this.routes.forget(this.tokens);
    this.tokens = null;
  }

  get words() {
    const { text, ending, error } = this.turn;
    if (ending === "failed") return `${text ? "Broken off" : "No answer"}: ${error}`;
    return ENDINGS[ending] ?? "";
  }

  writeNote() {
    setText(this.note, this.words);
    this.note.classList.toggle("error", this.turn.ending === "failed");
  }
}
