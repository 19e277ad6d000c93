// Where questions are written, and answers stopped. Knows keys and buttons, not what becomes of a question.
class Composer {
  constructor(onQuestion, onStop) {
    this.onQuestion = onQuestion;
    this.onStop = onStop;
    this.isRunning = false;
    byId("ask").addEventListener("submit", (event) => this.submit(event));
    byId("send").addEventListener("click", (event) => this.press(event));
    byId("question").addEventListener("keydown", (event) => this.onKey(event));
    document.addEventListener("keydown", ({ key }) => key === "Escape" && this.onStop());
  }

  // The one button keeps the focus while it changes its meaning.
  setRunning(isRunning) {
    this.isRunning = isRunning;
    setText(byId("send"), isRunning ? "Stop" : "Send");
  }

  onKey(event) {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!this.isRunning) byId("ask").requestSubmit();
  }

  // The second half of a double click on Send does not mean Stop.
  press(event) {
    if (!this.isRunning) return;
    event.preventDefault();
    if (event.detail < 2) this.onStop();
  }

  submit(event) {
    event.preventDefault();
    const question = byId("question").value;
    if (this.isRunning || !question.trim()) return;
    byId("question").value = "";
    this.onQuestion(question);
  }
}
