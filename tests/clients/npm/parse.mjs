// An answer that is read by a schema: a schema in the way of https://standardschema.dev, without a library.
import { standardResponseFormat, standardFunction } from "openai/helpers/standard-schema";
import { client, messages, print, script } from "./client.mjs";

const schema = {
  type: "object",
  properties: { city: { type: "string" }, degrees: { type: "integer" } },
  required: ["city", "degrees"],
  additionalProperties: false,
};
const weather = {
  "~standard": {
    version: 1,
    vendor: "none",
    validate: (value) => ({ value: { ...value, read: true } }),
    jsonSchema: { input: () => schema },
  },
};
const said = { city: "Oslo", degrees: 3 };
const asked = { model: "echo", messages };

const answer = await client.chat.completions.parse({
  ...asked,
  response_format: standardResponseFormat(weather, "weather"),
  metadata: script({ text: JSON.stringify(said) }),
});
const calls = await client.chat.completions.parse({
  ...asked,
  tools: [standardFunction({ name: "weather", parameters: weather })],
  tool_choice: "required",
  metadata: script({ call: { arguments: said } }),
});

print({
  parsed: answer.choices[0].message.parsed,
  called: calls.choices[0].message.tool_calls[0].function.parsed_arguments,
});
