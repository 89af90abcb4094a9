// Hocuspocus as it comes. It prints its URL, then answers each line on its standard input with one line: `cpu` (seconds of
// CPU time so far, all threads), `memory` (resident bytes). The end of its input ends it.

import { createInterface } from "node:readline";
import { Server } from "@hocuspocus/server";

const server = new Server({ address: "127.0.0.1", port: 0, quiet: true, stopOnSignals: false });
await server.listen();
console.log(`http://127.0.0.1:${server.address.port}`);

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "cpu") {
    const { user, system } = process.cpuUsage();
    console.log((user + system) / 1e6);
  } else if (line === "memory") {
    console.log(process.memoryUsage.rss());
  } else {
    console.log(`unknown question: ${line}`);
  }
}
process.exit(0);
