// OpenAI's client for JavaScript.

import assert from "node:assert/strict";
import { test } from "node:test";

import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";

import { MAX_TOKENS, Subtract, answer, key, model, question, url } from "./asked.mjs";

const client = new OpenAI({ baseURL: url, apiKey: key, maxRetries: 0 });
const asked = { model, messages: [{ role: "user", content: question }], max_tokens: MAX_TOKENS };

test("chat and stream", async () => {
  const reply = await client.chat.completions.create(asked);
  assert.equal(reply.choices[0].message.content, answer);
  const stream = client.chat.completions.stream(asked);
  assert.equal(await stream.finalContent(), answer);
});

test("a tool is called and its result is taken", async () => {
  const calls = [];
  const subtract = zodFunction({ name: "subtract", parameters: Subtract, function: (numbers) => calls.push(numbers) });
  const runner = client.chat.completions.runTools({
    ...asked,
    tools: [subtract],
    tool_choice: { type: "function", function: { name: "subtract" } },
  });
  await runner.done();
  assert.equal(calls.length, 1);
  Subtract.parse(calls[0]);
});

test("calls are read out of a stream", async () => {
  const tools = [zodFunction({ name: "subtract", parameters: Subtract })];
  const stream = client.chat.completions.stream({ ...asked, tools, tool_choice: "required" });
  const { choices } = await stream.finalChatCompletion();
  Subtract.parse(choices[0].message.tool_calls[0].function.parsed_arguments);
});

test("structured output", async () => {
  const format = zodResponseFormat(Subtract, "subtract");
  const reply = await client.chat.completions.parse({ ...asked, response_format: format });
  Subtract.parse(reply.choices[0].message.parsed);
});

test("responses", async () => {
  const response = await client.responses.create({ model, input: question });
  assert.equal(response.output_text, answer);
  const stream = client.responses.stream({ model, input: question, text: { format: zodTextFormat(Subtract, "subtract") } });
  Subtract.parse((await stream.finalResponse()).output_parsed);
});
