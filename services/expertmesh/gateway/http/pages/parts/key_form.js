// Asks people for a key. Knows the form, not what the key opens.
class KeyForm {
  constructor() {
    this.form = byId("key-form");
    this.field = byId("key");
    this.taken = () => {};
    this.form.addEventListener("submit", (event) => this.take(event));
  }

  // Returns once a key has been entered.
  async ask(message) {
    this.form.hidden = false;
    byId("key-message").textContent = message;
    this.field.focus();
    await new Promise((taken) => (this.taken = taken));
  }

  take(event) {
    event.preventDefault();
    keepKey(this.field.value);
    this.field.value = "";
    this.form.hidden = true;
    this.taken();
  }
}
