// An answer as it comes. Knows the route and its events, not what is shown.

// What came at once: `text` to append, `tokens` with the experts of each where these were asked for, and how it ended.
async function* streamAnswer(request, signal) {
  const reply = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true }),
    signal,
  });
  for await (const event of eventsOf(reply.body)) {
    if (event === "[DONE]") return;
    yield toPiece(JSON.parse(event));
  }
  throw new Error("the gateway hung up");
}

// The data of server-sent events, each of one line as this gateway sends them.
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) yield event.slice("data: ".length);
  }
}

function toPiece({ choices, error }) {
  if (error) throw new Error(error.message);
  const [{ delta, finish_reason: ending, logprobs, routed_experts: routes }] = choices;
  const tokens = (routes ?? []).map((layers, index) => ({ text: logprobs.content[index].token, layers }));
  return { text: delta.content ?? "", tokens, ending };
}
