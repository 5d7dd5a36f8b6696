// Chromium against whit: browser.mjs page URL PID, or foreign-page URL refused|open.
// NODE_CLIENT is the folder that `playwright-core` is installed in, PROFILE a folder for the browser's data.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdir, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';

const { chromium } = createRequire(`${process.env.NODE_CLIENT}/`)('playwright-core');
const [test, url, argument] = process.argv.slice(2);
const ok = fact => console.log(`ok: ${fact}`);

async function launch(options = {}) {
  const browser = await chromium.launchPersistentContext(process.env.PROFILE, {
    executablePath: '/usr/bin/chromium',
    headless: true,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--no-proxy-server',
      // Nothing but this machine can be reached.
      '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1',
    ],
    ...options,
  });
  browser.setDefaultTimeout(10_000);
  return browser;
}

/** The fields of the page, and what a person does with them. */
class Page {
  constructor(page) {
    this.page = page;
    this.complaints = [];
    page.on('console', message => {
      if (['error', 'warning'].includes(message.type())) this.complaints.push(`console: ${message.text()}`);
    });
    page.on('pageerror', error => this.complaints.push(`script: ${error.message}`));
    page.on('requestfailed', request => this.complaints.push(`no answer: ${request.url()}`));
    page.on('response', response => {
      if (response.status() >= 400) this.complaints.push(`${response.status()}: ${response.url()}`);
    });
  }

  state(state) {
    return this.page.locator(`#state[data-state=${state}]`).waitFor();
  }

  /** The last row of this way and kind, once it says this. */
  async row(way, kind, what) {
    const row = this.page.locator(`#log > [data-way=${way}][data-kind=${kind}]`).filter({ hasText: what }).last();
    await row.waitFor();
    return { what: await row.locator('.what').textContent(), size: Number(await row.getAttribute('data-size')), time: await row.locator('.time').textContent() };
  }

  async send(kind, text) {
    await this.page.selectOption('#kind', kind);
    await this.page.fill('#message', text);
    await this.page.press('#message', 'Enter');
  }

  /** Sends and waits until it is back, with this text and size. */
  async exchange(kind, text, shown, size) {
    await this.send(kind, text);
    for (const way of ['sent', 'received']) {
      const row = await this.row(way, kind, shown);
      assert.equal(row.what, shown);
      assert.equal(row.size, size);
      assert.match(row.time, /^\d\d:\d\d:\d\d\.\d\d\d$/);
    }
  }

  async beats() {
    return Number(await this.page.textContent('#beats'));
  }

  /** Waits until there are more heartbeats than these. */
  beatsBeyond(count) {
    return this.page.waitForFunction(count => Number(document.querySelector('#beats').textContent) > count, count);
  }

  async detail() {
    return this.page.textContent('#detail');
  }

  async screenshot(name) {
    if (!process.env.SCREENSHOTS) return;
    await mkdir(process.env.SCREENSHOTS, { recursive: true });
    await this.page.screenshot({ path: `${process.env.SCREENSHOTS}/${name}.png` });
  }
}

const origin = url.replace('ws:', 'http:').replace(/\/[^/]*$/, '/');

async function usePage() {
  const browser = await launch({ viewport: { width: 1280, height: 800 } });
  const page = new Page(await browser.newPage());
  const answer = await page.page.goto(origin);
  assert.equal(answer.status(), 200);
  await page.state('open');
  assert.equal(await page.page.inputValue('#url'), url);
  ok(`the page connects by itself to ${url}`);

  const text = 'Grüße aus Zürich ✓';
  await page.exchange('text', text, text, Buffer.byteLength(text));
  ok('text comes back, with its size in bytes and the time of day in ms');
  await page.exchange('binary', '00 7F 0xff,0a', '00 7f ff 0a', 4);
  ok('binary comes back as binary');

  await page.send('binary', 'xyz');
  assert.equal(await page.page.evaluate(() => document.querySelector('#message').validity.customError), true);
  assert.equal(await page.page.textContent('#sent'), '2');
  ok('what is no hex is not sent');

  const html = '<img src=x onerror="document.title=1"><b>bold</b>';
  await page.exchange('text', html, html, html.length);
  assert.equal(await page.page.locator('#log img, #log b').count(), 0);
  assert.equal(await page.page.title(), 'whit');
  ok('a message that looks like HTML is shown as text');

  await page.beatsBeyond(await page.beats());
  assert.equal(await page.page.locator('#log [data-kind=heartbeat]').count(), 0);
  await page.page.check('#beats-listed');
  await page.row('received', 'heartbeat', 'heartbeat');
  await page.page.uncheck('#beats-listed');
  assert.equal(await page.page.locator('#log [data-kind=heartbeat]').count(), 0);
  ok('heartbeats are counted, and listed only if that is asked for');
  assert.equal(await page.page.textContent('#counts'), '↑ 3 sent \u00a0↓ 3 received');
  ok('each message came back once');
  await page.screenshot('desktop-light-open');

  await page.page.click('#toggle');
  await page.state('closed');
  assert.match(await page.detail(), /code 1000, clean/);
  await page.row('note', 'closed', 'code 1000, clean');
  assert.equal(await page.page.isDisabled('#send'), true);
  ok('Close closes with 1000, clean');

  await page.page.click('#toggle');
  await page.state('open');
  await page.exchange('text', 'back again', 'back again', 10);
  ok('Connect connects again');

  await page.page.evaluate(() => { for (let i = 0; i < 600; i++) socket.send(`flood ${i}`); });
  await page.row('received', 'text', 'flood 599');
  assert.equal(await page.page.locator('#log > *').count(), 500);
  ok('the log ends at 500 rows');
  await page.page.click('#clear');
  assert.equal(await page.page.locator('#log > *').count(), 0);
  ok('Clear empties it');

  const phone = new Page(await browser.newPage());
  await phone.page.setViewportSize({ width: 390, height: 780 });
  await phone.page.emulateMedia({ colorScheme: 'dark' });
  await phone.page.goto(origin);
  await phone.state('open');
  await phone.exchange('text', '{"room": "kitchen", "celsius": 21.5, "humidity": 48}', '{"room": "kitchen", "celsius": 21.5, "humidity": 48}', 52);
  await phone.exchange('binary', 'de ad be ef', 'de ad be ef', 4);
  const width = await phone.page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.equal(width[0], width[1]);
  for (const target of await phone.page.locator('button, select, input:not([type=checkbox]), label:has(input)').all()) {
    assert.ok((await target.boundingBox()).height >= 44, 'a thing to touch is lower than 44 pixels');
  }
  ok('on a phone nothing is wider than the screen or too small to touch');
  await phone.beatsBeyond(1);
  await phone.screenshot('phone-dark-open');

  process.kill(Number(argument), 'SIGTERM');
  for (const each of [page, phone]) {
    await each.state('closed');
    assert.match(await each.detail(), /code 1001, clean, “.+”/);
  }
  ok(`at SIGTERM both pages show: ${await page.detail()}`);
  await phone.screenshot('phone-dark-closed');
  await page.screenshot('desktop-light-closed');

  assert.deepEqual([...page.complaints, ...phone.complaints], []);
  ok('no console error, no failed request');

  await page.page.click('#toggle');
  await page.row('note', 'closed', 'could not connect: code 1006, not clean');
  ok('with the server gone the page tells that it could not connect');
  await browser.close();
}

async function useForeignPage() {
  const server = createServer((_, response) => {
    response.setHeader('Content-Type', 'text/html');
    response.end('<!doctype html><title>Another site</title>');
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const site = `http://localhost:${server.address().port}`;

  const browser = await launch();
  const page = await browser.newPage();
  await page.goto(`${site}/`);
  const end = await page.evaluate(url => new Promise(resolve => {
    const socket = new WebSocket(url);
    socket.onopen = () => resolve('open');
    socket.onclose = () => resolve('refused');
  }), url);
  assert.equal(end, argument);
  ok(`a page of ${site} that connects to ${url}: ${end}`);
  await browser.close();
  server.close();
}

await rm(process.env.PROFILE, { recursive: true, force: true });
await { page: usePage, 'foreign-page': useForeignPage }[test]();
