// Vercel's AI SDK: its provider for servers like this one, and that of OpenAI on both APIs.

import assert from "node:assert/strict";
import { test } from "node:test";

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, streamText, tool } from "ai";

import { MAX_TOKENS, Subtract, answer, key, model, question, url } from "./asked.mjs";

const openai = createOpenAI({ baseURL: url, apiKey: key });
const compatible = createOpenAICompatible({
  name: "expertmesh",
  baseURL: url,
  apiKey: key,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const models = {
  compatible: compatible(model),
  "OpenAI's chat": openai.chat(model),
  "OpenAI's responses": openai.responses(model),
};

for (const [name, model] of Object.entries(models)) {
  const asked = { model, prompt: question, maxOutputTokens: MAX_TOKENS, maxRetries: 0 };

  test(`${name}: chat and stream`, async () => {
    assert.equal((await generateText(asked)).text, answer);
    const result = streamText(asked);
    assert.equal(await result.text, answer);
    assert.ok((await result.usage).outputTokens > 0);
  });

  test(`${name}: a tool is called and its result is taken`, async () => {
    const subtract = tool({ description: "a - b", inputSchema: Subtract, execute: ({ a, b }) => a - b });
    const { toolResults, response } = await generateText({ ...asked, tools: { subtract }, toolChoice: "required" });
    assert.equal(toolResults[0].output, toolResults[0].input.a - toolResults[0].input.b);
    const messages = [{ role: "user", content: question }, ...response.messages];
    const told = { ...asked, prompt: undefined, messages, tools: { subtract }, toolChoice: "none" };
    assert.ok((await generateText(told)).text);
  });

  test(`${name}: structured output`, async () => {
    const output = Output.object({ schema: Subtract });
    Subtract.parse((await generateText({ ...asked, output })).output);
    Subtract.parse(await streamText({ ...asked, output }).output);
  });
}
