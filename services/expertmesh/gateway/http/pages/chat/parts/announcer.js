// Reads an answer out in sentences as it comes. Knows text, not what it says.
const SENTENCE = /^[^]*?(?:[.!?…](?=\s)|[。！？\n])/;

class Announcer {
  constructor(log) {
    this.log = log;
    this.rest = "";
  }

  begin() {
    this.log.replaceChildren();
    this.rest = "";
  }

  add(text) {
    this.rest += text;
    for (let sentence; (sentence = SENTENCE.exec(this.rest)?.[0]); ) {
      this.say(sentence);
      this.rest = this.rest.slice(sentence.length);
    }
  }

  // Says what is left, and `words` after it.
  end(words) {
    for (const text of [this.rest, words]) this.say(text);
    this.rest = "";
  }

  say(text) {
    if (text.trim()) this.log.append(element("p", {}, text.trim()));
  }
}
