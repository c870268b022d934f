// Streams: chunks as they come, the helper that gathers them, and a completion's.
import { client, messages, print, script } from "./client.mjs";

const asked = { model: "echo", messages, n: 2, metadata: script({ think: "hm hm" }) };
const usage = { stream: true, stream_options: { include_usage: true } };
const texts = ["", ""];
let counted = null;
for await (const chunk of await client.chat.completions.create({ ...asked, ...usage })) {
  for (const choice of chunk.choices) texts[choice.index] += choice.delta.content ?? "";
  counted = chunk.usage ?? counted;
}

const contents = [];
const helper = client.chat.completions.stream({ ...asked, n: 1, ...usage });
helper.on("content", (delta) => contents.push(delta));
const final = await helper.finalChatCompletion();

let completed = "";
for await (const chunk of await client.completions.create({ model: "echo", prompt: "a b", stream: true }))
  completed += chunk.choices[0].text;

print({
  texts,
  usage: counted,
  content: contents.join(""),
  message: final.choices[0].message,
  final_usage: final.usage,
  completed,
});
