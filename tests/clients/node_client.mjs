// A client of whit, with `ws`: node_client.mjs URL PID. NODE_CLIENT is the folder that `ws` is installed in.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createRequire } from 'node:module';

const WebSocket = createRequire(`${process.env.NODE_CLIENT}/`)('ws');
const [url, pid] = process.argv.slice(2);
const ok = fact => console.log(`ok: ${fact}`);

/** Opens a connection whose messages wait in `inbox` until they are asked for. */
async function open() {
  const ws = new WebSocket(url);
  const inbox = [];
  let wake = () => {};
  ws.on('message', (data, isBinary) => {
    inbox.push(isBinary ? data : data.toString());
    wake();
  });
  ws.ended = new Promise(resolve => ws.on('close', (code, reason) => {
    resolve({ code, reason: reason.toString() });
    wake();
  }));
  ws.next = async () => {
    while (inbox.length === 0) {
      assert.equal(ws.readyState, WebSocket.OPEN, 'the connection ended while a message was due');
      await new Promise(resolve => { wake = resolve; });
    }
    return inbox.shift();
  };
  ws.nextButHeartbeats = async () => {
    for (;;) {
      const message = await ws.next();
      if (message !== 'heartbeat') return message;
    }
  };
  await once(ws, 'open');
  return ws;
}

let ws = await open();
for (const size of [0, 1, 125, 126, 65535, 65536]) {
  for (const message of ['x'.repeat(size), randomBytes(size)]) {
    ws.send(message);
    // Strict: a string is no Buffer.
    assert.deepStrictEqual(await ws.nextButHeartbeats(), message, `${typeof message} of ${size} bytes`);
  }
}
ok('text and binary of 0, 1, 125, 126, 65535 and 65536 bytes come back identical');

for (const text of ['grüße, 世界', '🦀', '<b>&amp;</b>']) {
  ws.send(text);
  assert.equal(await ws.nextButHeartbeats(), text);
}
ok('unicode comes back identical');

const messages = Array.from({ length: 500 }, (_, i) => (i % 2 ? `${i}` : Buffer.from(`${i}`)));
messages.forEach(message => ws.send(message));
for (const message of messages) {
  assert.deepStrictEqual(await ws.nextButHeartbeats(), message);
}
ok('500 messages sent without waiting come back once each, in order');

for (const payload of ['', 'whit', 'x'.repeat(125)]) {
  ws.ping(payload);
  const [pong] = await once(ws, 'pong');
  assert.equal(pong.toString(), payload);
}
ok('pings of 0, 4 and 125 bytes get their pongs');

let beats = 0;
const first = performance.now();
while (beats < 2) {
  assert.equal(await ws.next(), 'heartbeat');
  beats += 1;
}
assert.ok(performance.now() - first < 2900, 'two heartbeats took more than two seconds');
ok('heartbeats come');

for (const [code, reason] of [[1000, ''], [4000, 'enough']]) {
  ws.close(code, reason);
  assert.equal((await ws.ended).code, code);
  ok(`a close with ${code} is answered with ${code}`);
  ws = await open();
}

ws.close();
// 1005 stands for a Close without a code, 1006 would be a lost connection.
assert.equal((await ws.ended).code, 1005);
ok('a close without a code is answered without one');

ws = await open();
ws.send(Buffer.alloc(65537));
assert.equal((await ws.ended).code, 1009);
ok('a message of 65537 bytes is closed with 1009');

ws = await open();
process.kill(Number(pid), 'SIGTERM');
const end = await ws.ended;
assert.equal(end.code, 1001);
assert.notEqual(end.reason, '');
ok(`at SIGTERM the connection is closed with 1001, "${end.reason}"`);
