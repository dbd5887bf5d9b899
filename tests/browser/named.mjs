// Plays the film twice through DNS name and 302. Runs inside a mount namespace whose resolv.conf names the
// demo's router, so that Chromium resolves as on a machine that uses this CDN (see run.mjs).
//
// Goal: router's DNS, its 302, the edge's own name, playback to the end, hits on the second play.

import assert from 'node:assert/strict';
import { keepPicture, launch, open, until } from './page.mjs';

const { pages, chromium, artefacts, filmSeconds } = JSON.parse(process.argv[2]);
const PLAY_MS_MAX = (filmSeconds + 30) * 1000;
const browser = await launch(chromium);
try {
  const { page, complaints } = await open(browser, `${pages}/?rendition=3`);
  const first = await until(page, 'first play', 't.ended', PLAY_MS_MAX);
  await keepPicture(page, artefacts, 'named-first-play');
  assert.equal(first.stalls, 0, `first play stalled: ${JSON.stringify(first.events)}`);
  assert.ok(first.router.startsWith('router-1.tidegate.test'), `the film was asked at ${first.router}`);
  const segments = first.segments.filter((s) => s.play === 1);
  assert.ok(segments.length >= 2 * Math.floor(filmSeconds / 6), `${segments.length} media segments came`);
  for (const s of segments) {
    assert.match(new URL(s.url).hostname, /^edge-\w+\.film\.tidegate\.test$/, 'served by an edge under its own name');
    assert.equal(new URL(s.url).hostname.split('.')[0], s.edge, 'Cache-Status names the edge that served');
  }

  const routed = await page.evaluate(async () => {
    const answer = await fetch('http://cdn.film.tidegate.test:8080/film/master.m3u8');
    return { redirected: answer.redirected, status: answer.status, by: answer.headers.get('cache-status') };
  });
  assert.equal(routed.status, 200, 'the routed name leads to an edge');
  assert.equal(routed.redirected, false, 'straight, by DNS alone');
  assert.match(routed.by, /edge-a\d/, 'an edge of the PoP of this client');

  await page.click('#again');
  const second = await until(page, 'second play', 't.plays === 2 && t.ended', PLAY_MS_MAX);
  await keepPicture(page, artefacts, 'named-second-play');
  assert.equal(second.stalls, 0, `second play stalled: ${JSON.stringify(second.events)}`);
  const again = second.segments.filter((s) => s.play === 2);
  assert.equal(again.length, segments.length, 'as many media segments as at first');
  const missed = again.filter((s) => !s.hit).map((s) => `${s.name}: ${s.cacheStatus}`);
  assert.deepEqual(missed, [], 'every media segment of the second play is a hit');
  assert.deepEqual(complaints, [], 'the console is clean');
  process.stdout.write(`start ${first.startupMs} ms, then ${second.startupMs} ms; ${again.length} hits\n`);
} finally {
  await browser.close();
}
