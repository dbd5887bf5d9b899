// Browser tests: the demo's pages in Debian's Chromium, against the real programs.
//
//   node run.mjs --program target/release/tidegate --work target/browser
//
// Every test has its own lines `ok`, `FAILED` or `SKIPPED`; the last line is the honest sum. A test that
// cannot run here is skipped with its reason, and counts as failed when CI is set.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { startDemo } from './demo.mjs';
import { keepPicture, launch, open, state, until } from './page.mjs';

const FILM_SECONDS = 36;
const here = path.dirname(fileURLToPath(import.meta.url));
const options = new Map();
for (let i = 2; i < process.argv.length; i += 2) options.set(process.argv[i], process.argv[i + 1]);
const program = path.resolve(options.get('--program') ?? 'target/release/tidegate');
const work = path.resolve(options.get('--work') ?? 'target/browser');
const chromium = options.get('--chromium') ?? '/usr/bin/chromium';
const pages = path.resolve(here, '../../demo/pages');
// Extra options for the demo, for trying these tests against other programs.
const extra = (options.get('--demo-options') ?? '').split(' ').filter(Boolean);
const artefacts = path.join(work, 'artefacts');
const dir = path.join(work, 'demo');
const film = ['--film-seconds', String(FILM_SECONDS), '--film-height', '360', ...extra];
const ci = ['1', 'true'].includes(process.env.CI ?? '');
const sum = { passed: 0, failed: 0, skipped: 0 };

class Skip extends Error {}

async function test(name, body) {
  const began = Date.now();
  const seconds = () => `${((Date.now() - began) / 1000).toFixed(1)} s`;
  try {
    const note = await body();
    sum.passed += 1;
    console.log(`ok       ${name} (${seconds()})${note ? `: ${note}` : ''}`);
  } catch (error) {
    if (error instanceof Skip && !ci) {
      sum.skipped += 1;
      console.log(`SKIPPED  ${name}: ${error.message}`);
      return;
    }
    sum.failed += 1;
    console.log(`FAILED   ${name} (${seconds()}): ${error.stack ?? error}`);
  }
}

async function withDemo(more, body) {
  const demo = await startDemo({ program, dir, pages, options: [...film, ...more] });
  let stopped;
  try {
    await body(demo);
  } catch (error) {
    console.log(demo.log());
    throw error;
  } finally {
    stopped = await demo.stop();
  }
  assert.equal(stopped.ended, 'code 0 signal null', 'the demo ends well on Ctrl-C');
  assert.deepEqual(stopped.left, [], 'the demo leaves no process running');
}

function inNamespace(command) {
  return spawnSync('unshare', ['-m', 'sh', '-ec', command], { encoding: 'utf8', maxBuffer: 16 << 20 });
}

// Goal: a viewer that knows only a name. Method: see named.mjs; the host's own resolv.conf is never touched.
async function namedPlay() {
  const probe = inNamespace('true');
  if (probe.status !== 0) {
    throw new Skip(`a mount namespace is needed (unshare -m): ${(probe.stderr || String(probe.error)).trim()}; ` +
      'run as root, in a container with CAP_SYS_ADMIN');
  }
  let note;
  await withDemo(['--location', 'name', '--dns-port', '53', '--net', '77'], async (demo) => {
    const resolv = path.join(work, 'resolv.conf');
    const nsswitch = path.join(work, 'nsswitch.conf');
    writeFileSync(resolv, `nameserver ${demo.facts.nodes['router-1'].address}\noptions timeout:1 attempts:3\n`);
    writeFileSync(nsswitch, 'hosts: files dns\n');
    const facts = JSON.stringify({ pages: demo.facts.pages, chromium, artefacts, filmSeconds: FILM_SECONDS });
    const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
    const bind = (from, to) => `mount --bind ${quote(from)} "$(readlink -f ${to})"`;
    const result = inNamespace(`${bind(resolv, '/etc/resolv.conf')}
      if [ -e /etc/nsswitch.conf ]; then ${bind(nsswitch, '/etc/nsswitch.conf')}; fi
      exec ${quote(process.execPath)} ${quote(path.join(here, 'named.mjs'))} ${quote(facts)}`);
    assert.equal(result.status, 0, `the play in the namespace failed:\n${result.stdout}${result.stderr}`);
    note = result.stdout.trim();
  });
  return note;
}

// Goal: losing the edge that serves is not seen. Method: a small buffer, kill -9 in the middle of the film.
async function killedEdge(browser, demo) {
  const { page, close } = await open(browser, `${demo.facts.pages}/?rendition=2&buffer=9`);
  await until(page, 'begin', 'video.currentTime > 4 && t.segments.length >= 2', 30_000);
  const before = (await state(page)).edge;
  const pid = demo.read().nodes[before]?.pid;
  assert.ok(pid, `the page names an edge of the demo: ${before}`);
  process.kill(pid, 'SIGKILL');
  const counted = (await state(page)).segments.length;
  const moved = await until(page, 'another edge', `t.segments.length > ${counted + 1} && t.edge !== '${before}'`, 30_000);
  assert.notEqual(moved.edge, before);
  const end = await until(page, 'the end', 't.ended', (FILM_SECONDS + 20) * 1000);
  await keepPicture(page, artefacts, 'killed-edge');
  assert.equal(end.stalls, 0, `stalled: ${JSON.stringify(end.events)}`);
  const after = end.segments.slice(counted + 1).filter((s) => s.edge === before);
  assert.deepEqual(after, [], `nothing comes from ${before} any more`);
  await close();
  return `${before} killed, ${moved.edge} went on`;
}

// Goal: the picture is alive. Method: read the numbers in the picture, ask an edge for something, read again.
async function chainPage(browser, demo) {
  const { page, complaints, close } = await open(browser, `${demo.facts.pages}/chain`);
  const requests = () => page.evaluate(() => {
    const texts = [...document.querySelectorAll('[data-node^="edge"] [data-field="first"]')];
    return texts.reduce((sum, e) => sum + (Number.parseInt(e.textContent, 10) || 0), 0);
  });
  await page.waitForFunction(() => document.querySelectorAll('[data-node]').length === 10, null, { timeout: 10_000 });
  await page.waitForFunction(() => /requests/.test(document.querySelector('[data-node="edge-a1"]')?.textContent ?? ''),
    null, { timeout: 10_000 });
  const before = await requests();
  const address = demo.facts.nodes['edge-b1'].address;
  for (let i = 0; i < 5; i++) {
    const answer = await fetch(`http://${address}:8080/about.txt`);
    assert.equal(answer.status, 200);
    await answer.text();
  }
  await page.waitForFunction((n) => {
    const texts = [...document.querySelectorAll('[data-node^="edge"] [data-field="first"]')];
    return texts.reduce((sum, e) => sum + (Number.parseInt(e.textContent, 10) || 0), 0) >= n;
  }, before + 5, { timeout: 10_000 });
  await keepPicture(page, artefacts, 'chain');
  assert.deepEqual(complaints, [], 'the console is clean');
  await close();
  const phone = await open(browser, `${demo.facts.pages}/chain`, { width: 390, height: 844 });
  await phone.page.waitForFunction(() => document.querySelectorAll('[data-node]').length === 10, null, { timeout: 10_000 });
  const wide = await phone.page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  await keepPicture(phone.page, artefacts, 'chain-phone');
  await phone.close();
  assert.ok(wide <= 0, `on a phone the page is ${wide} px too wide`);
  return `${before} requests, then ${before + 5} or more`;
}

// Goal: caches are warm after a stop. Method: the play before this demo's start left media segments at one edge of
// PoP a; that edge answers a hit without asking anybody.
async function warmStart(demo) {
  const text = async (url) => (await fetch(url)).text();
  const base = demo.facts.master.replace('master.m3u8', '');
  const version = /^([0-9a-f]{16})\/360p/m.exec(await text(demo.facts.master))?.[1];
  assert.ok(version, 'the multivariant playlist names the 360p rendition');
  const path = `${new URL(base).pathname}${version}/360p/segment_00002.m4s`;
  const answers = [];
  for (const edge of ['edge-a1', 'edge-a2']) {
    const answer = await fetch(`http://${demo.facts.nodes[edge].address}:8080${path}`);
    assert.equal(answer.status, 200);
    await answer.arrayBuffer();
    answers.push(answer.headers.get('cache-status'));
  }
  assert.ok(answers.some((a) => /^edge-a\d; hit/.test(a)), `no edge was warm: ${JSON.stringify(answers)}`);
}

// Goal: every byte of the film through the chain is the origin's. Method: each file below the origin's directory, from
// each edge, over HTTP and HTTPS (trusting only the demo's CA), whole and in random ranges, by SHA-256.
async function everyByte(demo) {
  const root = path.join(dir, 'origin');
  const files = readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !entry.name.startsWith('.'))
    .map((entry) => path.relative(root, path.join(entry.parentPath ?? entry.path, entry.name)));
  assert.ok(files.filter((name) => name.endsWith('.m4s')).length >= 4 * FILM_SECONDS / 6, `${files.length} files`);
  const plain = new http.Agent({ keepAlive: true });
  const sealed = new https.Agent({ keepAlive: true, ca: readFileSync(path.join(dir, 'tls', 'ca.pem')) });
  const ask = (base, name, range) => new Promise((resolve, reject) => {
    const [get, agent] = base.startsWith('https') ? [https.get, sealed] : [http.get, plain];
    const headers = range ? { range: `bytes=${range[0]}-${range[1]}` } : {};
    get(`${base}/${name}`, { agent, headers }, (answer) => {
      const pieces = [];
      answer.on('data', (piece) => pieces.push(piece));
      answer.on('end', () => resolve({ status: answer.statusCode, bytes: Buffer.concat(pieces) }));
      answer.on('error', reject);
    }).on('error', reject);
  });
  const hash = (bytes) => createHash('sha256').update(bytes).digest('hex');
  let seed = 20261121;
  const below = (bound) => {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    return seed % bound;
  };
  let answers = 0;
  for (const edge of ['edge-a1', 'edge-a2', 'edge-b1', 'edge-b2']) {
    const { address } = demo.facts.nodes[edge];
    for (const base of [`http://${address}:8080`, `https://${address}:8443`]) {
      for (const name of files) {
        const file = readFileSync(path.join(root, name));
        const whole = await ask(base, name);
        assert.equal(whole.status, 200, `${base}/${name}`);
        assert.equal(hash(whole.bytes), hash(file), `${base}/${name}`);
        for (let n = 0; n < 2 && file.length > 1; n++) {
          const first = below(file.length);
          const last = first + below(file.length - first);
          const part = await ask(base, name, [first, last]);
          assert.equal(part.status, 206, `${base}/${name} ${first}-${last}`);
          assert.equal(hash(part.bytes), hash(file.subarray(first, last + 1)), `${base}/${name} ${first}-${last}`);
        }
        answers += 3;
      }
    }
  }
  plain.destroy();
  sealed.destroy();
  return `${files.length} files, ${answers} answers`;
}

// Goal: one command says why. Method: the line that the demo prints, against the running router and edge.
function explain(demo) {
  const result = spawnSync(program, ['explain', '--client', '127.0.0.1', '--snapshot', path.join(dir, 'snapshot'),
    '--trust', path.join(dir, 'keys', 'trust.pub'), demo.facts.master], { encoding: 'utf8' });
  assert.equal(result.status, 0, result.stderr);
  for (const word of ['pop-a', 'edge-a', 'playlists', 'parent-']) {
    assert.ok(result.stdout.includes(word), `explain does not name ${word}:\n${result.stdout}`);
  }
}

// Goal: a viewer chooses the rendition. Method: begin with the smallest, choose the largest, watch the
// picture.
async function chosenRendition(browser, demo) {
  const { page, complaints, close } = await open(browser, `${demo.facts.pages}/?rendition=0&buffer=9`,
    { width: 390, height: 844 });
  await until(page, 'smallest', 'video.currentTime > 1 && video.videoHeight === 144', 30_000);
  await page.selectOption('#rendition', '3');
  const now = await until(page, 'largest', 'video.videoHeight === 360', 30_000);
  await keepPicture(page, artefacts, 'viewer-phone');
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(wide <= 0, `on a phone the page is ${wide} px too wide`);
  assert.ok(now.segments.some((s) => s.path.includes('/360p/')));
  assert.deepEqual(complaints, [], 'the console is clean');
  await close();
}

// Goal: the page of a load is whole by itself, and true. Method: a short load on an edge of the demo; the page from
// the disk in a browser that tells what it asks for; its numbers against the report that was written as JSON beside it.
async function loadReport(browser, demo) {
  const edge = demo.facts.nodes['edge-a1'];
  const [html, json] = ['report.html', 'report.json'].map((name) => path.join(work, name));
  const made = spawnSync(path.join(path.dirname(program), 'tidegate-load'), ['run', '--quiet', '--rate', '50',
    '--duration', '3s', '--warmup', '1s', '--connections', '4', '--html', html, '--json', json,
    '--url', `http://${edge.address}:8080/about.txt`, '--server-pid', String(demo.read().nodes['edge-a1'].pid),
    '--assert', 'requests == 150', '--assert', 'errors == 0'], { encoding: 'utf8' });
  assert.equal(made.status, 0, made.stderr);
  const report = JSON.parse(readFileSync(json, 'utf8'));
  for (const [name, viewport] of [['wide', { width: 1280, height: 860 }], ['phone', { width: 390, height: 844 }]]) {
    const { page, complaints, close } = await open(browser, 'about:blank', viewport);
    const asked = [];
    page.on('request', (request) => asked.push(request.url()));
    await page.goto(`file://${html}`, { waitUntil: 'load' });
    const seen = await page.evaluate(() => ({
      report: JSON.parse(document.querySelector('#report').textContent),
      verdict: document.querySelector('.verdict h2').textContent,
      tiles: Object.fromEntries([...document.querySelectorAll('.tiles > div')].map((tile) =>
        [tile.querySelector('h2').textContent, tile.querySelector('.note').textContent])),
      charts: [...document.querySelectorAll('.charts figure')].map((figure) => ({
        name: figure.querySelector('h2').textContent,
        lines: [...figure.querySelectorAll('svg path.line, svg circle.point')].map((line) => {
          const box = line.getBBox();
          return { width: box.width, finite: [box.x, box.y, box.width, box.height].every(Number.isFinite) };
        }),
        width: figure.querySelector('svg').getBoundingClientRect().width,
      })),
      wide: document.documentElement.scrollWidth - innerWidth,
    }));
    assert.deepEqual(seen.report, report, 'the page holds the report');
    assert.equal(seen.verdict, 'Passed: all 2 assertions held');
    assert.equal(seen.tiles.Answers, `${report.answers} of ${report.requests} requests`);
    assert.ok(seen.charts.length >= 4, `${seen.charts.length} charts`);
    for (const chart of seen.charts) {
      assert.ok(chart.width > 100, `${chart.name} is ${chart.width} px wide`);
      assert.ok(chart.lines.length > 0 && chart.lines.every((line) => line.finite), `${chart.name} is drawn`);
    }
    const drawn = seen.charts.filter((chart) => chart.lines.some((line) => line.width > 50)).map((chart) => chart.name);
    for (const wanted of ['First byte', 'Answers', 'Throughput', 'CPUs kept busy']) {
      assert.ok(drawn.includes(wanted), `${wanted} has a line; with one are ${drawn}`);
    }
    await page.locator('.charts svg').first().hover();
    assert.deepEqual(asked, [`file://${html}`], 'nothing else is asked for');
    assert.ok(seen.wide <= 0, `on ${name} the page is ${seen.wide} px too wide`);
    assert.deepEqual(complaints, [], 'the console is clean');
    await keepPicture(page, artefacts, `load-${name}`);
    await close();
  }
  return `${report.answers} answers`;
}

if (!existsSync(chromium)) {
  console.log(`FAILED   ${chromium} is missing: apt-get install chromium (make test does that by itself)`);
  console.log('browser: 0 passed, 1 failed, 0 skipped');
  process.exit(1);
}
rmSync(artefacts, { recursive: true, force: true });
// What an earlier run left warm would prove nothing.
rmSync(path.join(dir, 'store'), { recursive: true, force: true });
mkdirSync(work, { recursive: true });

await test('plays to the end through DNS name and 302, and from warm caches the second time', namedPlay);
try {
  await withDemo(['--net', '78', '--restart-after', '0'], async (demo) => {
    await test('a second start finds its caches warm', () => warmStart(demo));
    await test('every byte of the film is the origin\'s, over HTTP and HTTPS, whole and in ranges', () => everyByte(demo));
    await test('explain names the edge, the rule and the parent', () => explain(demo));
    const browser = await launch(chromium);
    try {
      await test('the page of a load is whole by itself and says what its JSON says', () => loadReport(browser, demo));
      await test('the chain page shows numbers that grow', () => chainPage(browser, demo));
      await test('the viewer page lets one choose the rendition', () => chosenRendition(browser, demo));
      await test('an edge killed in the middle is not seen by the viewer', () => killedEdge(browser, demo));
    } finally {
      await browser.close();
    }
  });
} catch (error) {
  sum.failed += 1;
  console.log(`FAILED   the demo in address mode: ${error.stack ?? error}`);
}
console.log(`browser: ${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`);
console.log(`pictures: ${artefacts}`);
process.exit(sum.failed ? 1 : 0);
