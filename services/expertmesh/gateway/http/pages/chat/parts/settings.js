// How to ask. Knows the fields and what they mean to the gateway.
const FIELDS = ["temperature", "limit", "system"];

class Settings {
  constructor(onExperts) {
    const kept = recall(SETTINGS_NAME, {});
    for (const name of FIELDS) byId(name).value = kept[name] ?? "";
    byId("experts").checked = Boolean(kept.experts);
    byId("experts").addEventListener("change", () => onExperts());
    byId("ask").addEventListener("change", () => this.keep());
    // What is wrong in there would else be refused unseen.
    byId("settings").addEventListener("invalid", () => (byId("settings").open = true), true);
  }

  keep() {
    const fields = Object.fromEntries(FIELDS.map((name) => [name, byId(name).value]));
    keep(SETTINGS_NAME, { ...fields, experts: this.wantsExperts });
  }

  get wantsExperts() {
    return byId("experts").checked;
  }

  get system() {
    return byId("system").value.trim();
  }

  // Fields of a request; what is left empty the gateway decides. Only with log-probabilities do tokens have a text.
  get fields() {
    return {
      ...(byId("temperature").value && { temperature: byId("temperature").valueAsNumber }),
      ...(byId("limit").value && { max_tokens: byId("limit").valueAsNumber }),
      ...(this.wantsExperts && { return_routed_experts: true, logprobs: true }),
    };
  }
}
