// Stream an answer to Node.js, with types read from protos/ when it starts.
//
// Usage: npm install && node client.mjs [ADDRESS] [QUESTION]
//
// ADDRESS is 127.0.0.1:50051 unless given. EXPERTMESH_API_KEY is sent along where it is set.

import { fileURLToPath } from "node:url";

import grpc from "@grpc/grpc-js";
import protoLoader from "@grpc/proto-loader";

const PROTOS = fileURLToPath(new URL("../../../protos", import.meta.url));
const TIMEOUT_MS = 60_000;

const [address = "127.0.0.1:50051", question = "What is 291 - 150?"] = process.argv.slice(2);

const types = protoLoader.loadSync("expertmesh/v1/generation.proto", { includeDirs: [PROTOS], defaults: true });
const { GenerationService } = grpc.loadPackageDefinition(types).expertmesh.v1;

const metadata = new grpc.Metadata();
if (process.env.EXPERTMESH_API_KEY) {
  metadata.set("authorization", `Bearer ${process.env.EXPERTMESH_API_KEY}`);
}

const client = new GenerationService(address, grpc.credentials.createInsecure());
const answer = client.chat(
  {
    messages: [{ role: "user", content: question }],
    sampling: { maxTokens: 48 },
    output: { stop: ["\n"] },
  },
  metadata,
  { deadline: Date.now() + TIMEOUT_MS },
);
try {
  for await (const { delta } of answer) {
    process.stdout.write(delta.text);
  }
  process.stdout.write("\n");
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
} finally {
  client.close();
}
