// The clients of the TypeScript SDK through the steps of the test; see sdk_client.py.
//
//     node typescript_client.mjs v1|v2 PLAN FOLDER_OF_NODE_MODULES

import { createRequire } from "node:module";

const [library, text, folder] = process.argv.slice(2);
const { server, mode, only } = JSON.parse(text);
const require = createRequire(`${folder}/`);
const LONG = "everything__trigger-long-running-operation";
const ENDLESS = { duration: 600, steps: 3000 };
const INFO = { name: `typescript-${library}`, version: "1.0.0" };

const say = (step) => process.stdout.write(JSON.stringify(step) + "\n");

async function connect() {
  const v2 = library === "v2";
  const http = require(v2 ? "@modelcontextprotocol/client" : "@modelcontextprotocol/sdk/client/streamableHttp.js");
  const stdio = require(v2 ? "@modelcontextprotocol/client/stdio" : "@modelcontextprotocol/sdk/client/stdio.js");
  const { Client } = v2 ? http : require("@modelcontextprotocol/sdk/client/index.js");
  const transport = server.url
    ? new http.StreamableHTTPClientTransport(new URL(server.url), { requestInit: { headers: server.headers } })
    : new stdio.StdioClientTransport(server);
  const client = new Client(INFO, v2 ? { versionNegotiation: { mode } } : {});
  await client.connect(transport);
  const call = (name, args, options) =>
    v2
      ? client.callTool({ name, arguments: args }, options)
      : client.callTool({ name, arguments: args }, undefined, options);
  return [client, call];
}

const [client, call] = await connect();
say({ tools: (await client.listTools()).tools.map((tool) => tool.name) });
if (only === "list") {
  await client.close();
  process.exit(0);
}
let answer = await call("time__get_current_time", { timezone: "UTC" });
say({ answer: answer.content[0].text });
const progress = [];
answer = await call(LONG, { duration: 0.4, steps: 2 }, { onprogress: (each) => progress.push(each.progress) });
say({ answer: answer.content[0].text, progress });
const stop = new AbortController();
try {
  await call(LONG, ENDLESS, { signal: stop.signal, onprogress: () => stop.abort() });
} catch (error) {
  say({ cancelled: stop.signal.aborted });
}
await call(LONG, ENDLESS, { timeout: 600_000, onprogress: (each) => say({ running: each.progress }) });
