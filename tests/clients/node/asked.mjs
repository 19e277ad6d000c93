// What the clients are asked for, and which gateway they ask.

import { z } from "zod";

export const [url, key, model] = ["URL", "KEY", "MODEL"].map((name) => process.env[`GATEWAY_${name}`]);
export const [question, answer] = ["QUESTION", "ANSWER"].map((name) => process.env[`ASKED_${name}`]);
export const MAX_TOKENS = 300;

// Within bounds, so that a small model comes to an end.
const number = z.number().int().min(0).max(999);
export const Subtract = z.object({ a: number, b: number });
