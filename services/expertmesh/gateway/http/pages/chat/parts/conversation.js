// What was asked and answered, and how to ask on; kept in this browser. Knows neither elements nor the gateway.
const TURNS_NAME = "expertmesh-conversation";
const SETTINGS_NAME = "expertmesh-chat-settings";

// Turns: `question`, `text` of the answer, `ending` (stop, length, stopped, failed; null as long as it comes), `error`.
class Conversation {
  constructor() {
    this.turns = recall(TURNS_NAME, []);
    for (const turn of this.turns) turn.ending ??= "stopped";
  }

  begin(question) {
    const turn = { question, text: "", ending: null, error: "" };
    this.turns.push(turn);
    return turn;
  }

  // What `turn` asks the model. Questions that got no answer are left out: roles take turns in most templates.
  messages(turn, system) {
    const before = this.turns.slice(0, this.turns.indexOf(turn)).filter(({ text }) => text);
    return [
      ...(system ? [{ role: "system", content: system }] : []),
      ...before.flatMap(({ question, text }) => [{ role: "user", content: question }, { role: "assistant", content: text }]),
      { role: "user", content: turn.question },
    ];
  }

  clear() {
    this.turns = [];
    this.save();
  }

  save() {
    keep(TURNS_NAME, this.turns);
  }
}

// Storage that is full or forbidden costs no more than the memory of it.
function keep(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch (error) {
    console.warn(error);
  }
}

function recall(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch (error) {
    console.warn(error);
    return otherwise;
  }
}
