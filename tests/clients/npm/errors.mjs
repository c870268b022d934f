// What goes wrong is one of the client's own error classes.
import OpenAI from "openai";
import { client, messages, print, script } from "./client.mjs";

async function raised(changes) {
  try {
    const answer = await client.chat.completions.create({ model: "echo", messages, ...changes });
    if (changes.stream) for await (const chunk of answer) void chunk;
  } catch (error) {
    const known = error instanceof OpenAI.APIError;
    return { kind: known && error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
}

const fails = script({ tokens: 9, hang_at: 2, hang_ms: 50, fail_at: 3 });
print({
  bad: await raised({ temperature: 9 }),
  missing: await raised({ model: "nope" }),
  failed: await raised({ metadata: script({ raise_in: "prepare" }) }),
  streamed: await raised({ stream: true, metadata: fails }),
});
