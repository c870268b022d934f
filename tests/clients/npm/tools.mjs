// The client calls the functions that the model asks for, and sends their results back.
import { client, messages, print, script } from "./client.mjs";

const calls = [{ arguments: { city: "Oslo" } }, { arguments: { city: "Rome" } }];

async function run(stream) {
  const metadata = script({ think: "hm", call: calls });
  const called = [];
  const weather = ({ city }) => {
    called.push(city);
    Object.assign(metadata, script({ text: "Three degrees." })); // what the model says to the results
    return `3 degrees in ${city}`;
  };
  const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const tool = { function: weather, parse: JSON.parse, name: "weather", description: "", parameters };
  const tools = [{ type: "function", function: tool }];
  const runner = client.chat.completions.runTools({ model: "echo", messages, metadata, tools, stream });
  const final = await runner.finalContent();
  return { called, final, roles: runner.messages.map((message) => message.role) };
}

print({ whole: await run(false), streamed: await run(true) });
