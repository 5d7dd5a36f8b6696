// node's ws, without the add-ons in C++ that it can have.
"use strict";
const { createServer } = require("node:http");
const { WebSocketServer, WebSocket } = require("ws");

const http = createServer();
const server = new WebSocketServer({ server: http, perMessageDeflate: false });
const fan = new Set();

server.on("connection", (ws, request) => {
  ws.on("error", () => {});
  if (request.url === "/fan") {
    fan.add(ws);
    ws.on("close", () => fan.delete(ws));
  }
  ws.on("message", (data, isBinary) => {
    if (request.url !== "/publish") {
      ws.send(data, { binary: isBinary });
      return;
    }
    for (const subscriber of fan) {
      subscriber.send(data, { binary: isBinary });
    }
  });
});

const flag = process.argv.indexOf("--heartbeat");
if (flag !== -1) {
  setInterval(() => {
    for (const ws of server.clients) {
      if (ws.readyState === WebSocket.OPEN) {
        ws.send("heartbeat");
      }
    }
  }, parseFloat(process.argv[flag + 1]) * 1000);
}

http.listen(0, "127.0.0.1", 4096, () => {
  console.log(`listening on ws://127.0.0.1:${http.address().port}/ws`);
});
