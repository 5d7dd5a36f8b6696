// Chromium against whit: browser.mjs page URL PID, plots URL, tee URL, or foreign-page URL refused|open.
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

  /** Has whit echo these lines. To the page they come 250 ms apart. */
  async receive(lines) {
    await this.page.evaluate(lines => new Promise(resolve => {
      window.clock ??= performance.now();
      performance.now = () => clock;
      let left = lines.length;
      // After the page's own listener.
      socket.addEventListener('message', function next() {
        clock += 250;
        left -= 1;
        if (left > 0) return;
        socket.removeEventListener('message', next);
        resolve();
      });
      lines.forEach(line => socket.send(line));
    }), lines);
    await this.drawn();
  }

  /** Waits until the page shows all that it knows. */
  drawn() {
    return this.page.evaluate(async () => {
      do await new Promise(requestAnimationFrame); while (frame);
    });
  }

  /** What each plot says, its line's height (0 to 1) at 100 places from left to right, and its colour. */
  plots() {
    return this.page.locator('#plots canvas').evaluateAll(all => all.map(canvas => {
      const { width, height } = canvas;
      // To read its own pixels again and again makes Chromium complain.
      const copy = new OffscreenCanvas(width, height).getContext('2d');
      copy.drawImage(canvas, 0, 0);
      const { data } = copy.getImageData(0, 0, width, height);
      const line = Array.from({ length: 100 }, (_, place) => {
        const x = Math.floor((place + .5) / 100 * width);
        const rows = Array.from({ length: height }, (_, y) => y).filter(y => data[4 * (y * width + x) + 3] > 127);
        return 1 - rows.reduce((sum, y) => sum + y, 0) / rows.length / height;
      });
      const opaque = data.findIndex((value, i) => i % 4 === 3 && value === 255);
      const text = name => canvas.parentElement.querySelector(`.${name}`).textContent;
      const [name, newest, high, low, span] = ['name', 'newest', 'high', 'low', 'span'].map(text);
      return { name, newest, high, low, span, line, color: `rgb(${data.slice(opaque - 3, opaque).join(', ')})` };
    }));
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

/** Fails unless the plot shows f, from 0 at the left to 1 at the right, and all of its range. */
function assertShows({ line, name }, f) {
  const expected = line.map((_, place) => f((place + .5) / 100));
  const [low, high] = [Math.min(...expected), Math.max(...expected)];
  line.forEach((height, place) => {
    const wanted = (expected[place] - low) / (high - low);
    assert.ok(Math.abs(height - wanted) < .15, `${name} is at ${height} instead of ${wanted}, ${place} % from the left`);
  });
}

async function usePlots() {
  const browser = await launch({ viewport: { width: 1280, height: 800 } });
  const page = new Page(await browser.newPage());
  await page.page.goto(origin);
  await page.state('open');

  const batches = await page.page.evaluate(async () => {
    let batches = 0;
    new MutationObserver(() => { batches += 1; }).observe($('log'), { childList: true });
    for (let i = 0; i < 20_000; i++) socket.send(`${i} ${-i}`);
    while (received < 20_000) await new Promise(requestAnimationFrame);
    return batches;
  });
  await page.drawn();
  assert.ok(batches < 2000, `the log changed ${batches} times`);
  assert.equal(await page.page.locator('#log > *').count(), 500);
  assert.deepEqual((await page.plots()).map(({ name, newest }) => [name, newest]), [['1 of 2', '19999'], ['2 of 2', '-19999']]);
  ok('20,000 messages at once change the page a few times, and the last of them are shown');
  await page.page.click('#clear');
  assert.equal(await page.page.isVisible('#plots'), false);
  ok('Clear takes the plots away');

  const words = ['heartbeat', 'the 3 bears', '12:30', 'http://192.0.2.1/?a=1', '{"half":', 'time=12:30 door=open', '{"state": "up", "note": null}', 'NaN', '0x10', '1e999', ''];
  await page.receive(words);
  assert.equal(await page.page.locator('#log > *').count(), words.length - 1);
  assert.equal(await page.page.isVisible('#plots'), false);
  ok('what is no number is listed, not plotted');

  const angles = Array.from({ length: 121 }, (_, i) => 4 * Math.PI * i / 120);
  const sine = x => Math.sin(4 * Math.PI * x);
  const cosine = x => Math.cos(4 * Math.PI * x);
  await page.receive(['sine cosine', ...angles.map(angle => `${Math.sin(angle)} ${Math.cos(angle)}`), 'out of order', 'failed']);
  const plots = await page.plots();
  assert.deepEqual(plots.map(({ name, newest, high, low, span }) => [name, newest, high, low, span]),
    [['sine', '0', '1', '-1', '30 s'], ['cosine', '1', '1', '-1', '30 s']]);
  assertShows(plots[0], sine);
  assertShows(plots[1], cosine);
  ok('a sine and a cosine are two plots, each with its name, newest value, scale and time');
  await page.screenshot('desktop-light-plots');

  assert.equal(plots[0].color, 'rgb(11, 107, 100)');
  await page.page.evaluate(() => {
    window.change = new Promise(resolve => matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => resolve()));
  });
  await page.page.emulateMedia({ colorScheme: 'dark' });
  await page.page.evaluate(() => change);
  await page.drawn();
  assert.equal((await page.plots())[0].color, 'rgb(95, 208, 197)');
  ok('the plots follow when the colour scheme changes');
  await page.page.click('#clear');

  await page.receive(angles.map(angle => JSON.stringify({ load: Math.sin(angle) / 100, room: 'kitchen', bytes: 2e9 + 1e6 * Math.cos(angle) })));
  const [load, bytes] = await page.plots();
  assert.deepEqual([load, bytes].map(({ name, high, low }) => [name, high, low]), [['load', '0.01', '-0.01'], ['bytes', '2001000000', '1999000000']]);
  assertShows(load, sine);
  assertShows(bytes, cosine);
  ok('each plot has its own scale');

  await page.receive(['celsius=20.5 door=open humidity=48', '-3e2', 'error', '7', '1;2,\t3', '1,,5']);
  assert.deepEqual((await page.plots()).slice(2).map(({ name, newest }) => [name, newest]),
    [['celsius', '20.5'], ['humidity', '48'], ['value', '7'], ['1 of 3', '1'], ['2 of 3', '2'], ['3 of 3', '5']]);
  ok('fields of JSON, pairs, single numbers and columns are plotted, by their names or places');

  await page.receive([Array(40).fill(1).join(' '), ...Array(650).fill('1')]);
  assert.equal(await page.page.locator('#plots canvas').count(), 32);
  assert.equal(await page.page.evaluate(() => Math.max(...Array.from(plots.values(), ({ points }) => points.length))), 600);
  ok('there are at most 32 plots, of 600 points');

  const phone = new Page(await browser.newPage());
  await phone.page.setViewportSize({ width: 390, height: 780 });
  await phone.page.emulateMedia({ colorScheme: 'dark' });
  await phone.page.goto(origin);
  await phone.state('open');
  const header = ' r  b   swpd   free   buff  cache   si   so    bi    bo   in   cs us sy id wa st';
  const names = header.trim().split(/ +/);
  await phone.receive([
    'procs -----------memory---------- ---swap-- -----io---- -system-- ------cpu-----', header,
    ...angles.map(angle => names.map((_, i) => Math.round(10 ** (i % 7) * (1 + Math.sin(angle + i)))).join('  ')),
  ]);
  assert.deepEqual((await phone.plots()).map(({ name }) => name), names);
  const shown = await phone.page.evaluate(() => ({
    isTooWide: document.documentElement.scrollWidth > innerWidth || $('plots').scrollWidth > $('plots').clientWidth,
    isStretched: Array.from(document.querySelectorAll('canvas')).some(canvas => Math.abs(canvas.width - canvas.clientWidth * devicePixelRatio) >= 1),
    log: $('log').clientHeight,
    below: $('log').scrollHeight - $('log').scrollTop - $('log').clientHeight,
  }));
  assert.ok(!shown.isTooWide && !shown.isStretched && shown.log > 100 && shown.below < 40, JSON.stringify(shown));
  ok('the 17 columns of vmstat fit a phone, and the log is still at its end');
  await phone.screenshot('phone-dark-plots');

  assert.deepEqual([...page.complaints, ...phone.complaints], []);
  ok('no console error, no failed request');
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

/** What comes from `whit tee`, whose input is a sine and a cosine, 20 times a period. */
async function useTee() {
  const browser = await launch({ viewport: { width: 1280, height: 800 } });
  const page = new Page(await browser.newPage());
  await page.page.goto(origin);
  await page.state('open');
  // They come no faster than the input has them.
  await page.page.waitForFunction(() => received > 100, undefined, { timeout: 40_000 });
  await page.drawn();
  const plots = await page.plots();
  assert.deepEqual(plots.map(({ name, high, low }) => [name, high, low]), [['sine', '1', '-1'], ['cosine', '1', '-1']]);
  for (const { newest } of plots) assert.ok(Math.abs(Number(newest)) <= 1, newest);
  assert.match((await page.row('received', 'text', '.')).what, /^-?[01]\.\d+ -?[01]\.\d+$/);
  assert.equal(await page.page.textContent('h1 small'), 'standard input');
  ok('lines of standard input are listed, and plotted by their columns');
  await page.screenshot('desktop-light-tee');
  assert.deepEqual(page.complaints, []);
  await browser.close();
}

// The browser before may have left processes that still write there.
await rm(process.env.PROFILE, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
await { page: usePage, plots: usePlots, tee: useTee, 'foreign-page': useForeignPage }[test]();
