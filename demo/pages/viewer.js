// The viewer page: plays the film through the router and shows, for each media segment, who served it and
// how.
//
// `window.tidegate` holds what a test (or a curious person at the console) wants to know.

import Hls from '/vendor/hls.mjs';
import { Steering, loaderFor, parseCacheStatus } from '/loader.js';

const SEGMENTS_SHOWN_MAX = 200;
const EVENTS_SHOWN_MAX = 6;
const BUFFER_SECONDS = 45;
// `?rendition=2` begins with that rendition and stays; `?buffer=10` keeps a smaller buffer, to see a change
// sooner.
const wish = new URLSearchParams(location.search);
const $ = (id) => document.getElementById(id);
const video = $('video');
const state = window.tidegate = { stalls: 0, segments: [], events: [], ended: false, startupMs: null, error: null,
  plays: 0, edge: null, router: null };
let hls = null;
let facts = null;
let began = 0;
let playing = false;

function say(text, isError = false) {
  $('message').textContent = text;
  $('message').className = isError ? 'error' : '';
}

function event(text) {
  const at = `${((performance.now() - began) / 1000).toFixed(1)} s`;
  state.events.push({ at, text });
  const line = document.createElement('li');
  line.textContent = `${at}  ${text}`;
  $('events').prepend(line);
  while ($('events').children.length > EVENTS_SHOWN_MAX) $('events').lastChild.remove();
}

function edgeName(answer, cache) {
  const { hostname } = new URL(answer.url);
  return cache.edge?.name ?? facts.edges.find((e) => e.address === hostname)?.id ?? hostname;
}

// Called for every answer from an edge; media segments get a row.
function answered(answer) {
  const cache = parseCacheStatus(answer.cacheStatus);
  const edge = edgeName(answer, cache);
  state.edge = edge;
  $('edge').textContent = edge;
  const segment = /\/([^/]+)\/segment_(\d+)\.m4s$/.exec(answer.path);
  if (!segment) return;
  const row = { url: answer.url, path: answer.path, name: `${segment[1]} ${Number(segment[2])}`, edge,
    hit: cache.edge?.hit ?? false, collapsed: cache.edge?.collapsed ?? false, cacheStatus: answer.cacheStatus,
    via: answer.via, bytes: answer.bytes.byteLength, ms: Math.round(answer.ms), attempts: answer.attempts,
    play: state.plays };
  state.segments.push(row);
  show(row);
}

function show(row) {
  const line = document.createElement('tr');
  line.title = row.cacheStatus || 'no Cache-Status came';
  const word = row.hit ? 'hit' : 'miss';
  const cells = [row.name, row.edge, null, row.bytes.toLocaleString('en'), String(row.ms)];
  cells.forEach((text, index) => {
    const cell = document.createElement('td');
    if (index > 2) cell.className = 'n';
    if (text === null) {
      const badge = document.createElement('span');
      badge.className = `badge ${word}`;
      badge.textContent = word + (row.collapsed ? ', joined' : '') + (row.attempts > 1 ? `, try ${row.attempts}` : '');
      cell.append(badge);
    } else cell.textContent = text;
    line.append(cell);
  });
  $('segments').prepend(line);
  while ($('segments').children.length > SEGMENTS_SHOWN_MAX) $('segments').lastChild.remove();
  const mine = state.segments.filter((s) => s.play === state.plays);
  const hits = mine.filter((s) => s.hit).length;
  $('hits').textContent = `${hits} of ${mine.length} (${Math.round(100 * hits / mine.length)}\u00a0%)`;
}

// The rendition that the address of the page asks for; -1: whatever the line carries.
function wished() {
  const n = Number.parseInt(wish.get('rendition') ?? '', 10);
  return n >= 0 ? n : -1;
}

function start() {
  hls?.destroy();
  Object.assign(state, { stalls: 0, ended: false, startupMs: null, error: null, edge: null });
  state.plays += 1;
  began = performance.now();
  playing = false;
  $('stalls').textContent = '0';
  $('startup').textContent = '-';
  $('segments').replaceChildren();
  if (!Hls.isSupported()) {
    state.error = 'this browser has no Media Source Extensions';
    say(`${state.error}; open ${facts.master} in a player instead`, true);
    return;
  }
  const steering = new Steering(facts.master, { onEvent: event, onAnswer: answered });
  hls = new Hls({
    loader: loaderFor(steering),
    // Losing an edge costs a few seconds of loading and must never be seen, so the buffer is larger than
    // that.
    maxBufferLength: Number(wish.get('buffer')) || BUFFER_SECONDS,
    maxMaxBufferLength: Number(wish.get('buffer')) || 2 * BUFFER_SECONDS,
    maxBufferSize: 120 * 1000 * 1000,
    backBufferLength: 30,
    startLevel: wished(),
  });
  // Retries live in the loader, which knows of other edges; hls.js comes after it gave up.
  for (const policy of ['manifestLoadPolicy', 'playlistLoadPolicy', 'fragLoadPolicy']) {
    Object.assign(hls.config[policy].default, { maxTimeToFirstByteMs: 30000, maxLoadTimeMs: 60000 });
  }
  hls.on(Hls.Events.MANIFEST_PARSED, (_, { levels }) => {
    const auto = new Option('auto', '-1');
    $('rendition').replaceChildren(auto, ...levels.map((l, i) => new Option(`${l.height}p`, String(i))));
    const fixed = Math.min(wished(), levels.length - 1);
    $('rendition').value = String(fixed);
    if (fixed >= 0) hls.loadLevel = fixed;
    video.play().catch(() => {
      // Browsers let a page start by itself only without sound.
      video.muted = true;
      video.play().catch(() => say('Press play.'));
    });
  });
  hls.on(Hls.Events.ERROR, (_, data) => {
    if (!data.fatal) return;
    if (data.type === Hls.ErrorTypes.MEDIA_ERROR && !state.error) {
      state.error = data.details;
      hls.recoverMediaError();
      return;
    }
    state.error = `${data.details}${data.reason ? `: ${data.reason}` : ''}`;
    say(`The film cannot be played: ${state.error}`, true);
  });
  hls.loadSource(facts.master);
  hls.attachMedia(video);
  say('');
}

video.addEventListener('playing', () => {
  if (state.startupMs === null) {
    state.startupMs = Math.round(performance.now() - began);
    $('startup').textContent = `${state.startupMs} ms`;
  }
  playing = true;
});
video.addEventListener('waiting', () => {
  // Waiting before the first picture, while seeking, or at the end is not a stall.
  if (!playing || video.seeking || video.ended) return;
  state.stalls += 1;
  $('stalls').textContent = String(state.stalls);
  event('the player stalled');
});
video.addEventListener('ended', () => {
  state.ended = true;
  event('the film is over');
});
$('again').addEventListener('click', start);
$('rendition').addEventListener('change', () => { hls.nextLevel = Number($('rendition').value); });
setInterval(() => {
  const { buffered, currentTime } = video;
  let ahead = 0;
  for (let i = 0; i < buffered.length; i++) {
    if (buffered.start(i) <= currentTime + 0.1 && buffered.end(i) > currentTime) ahead = buffered.end(i) - currentTime;
  }
  $('buffer').textContent = `${ahead.toFixed(0)} s`;
  if (video.videoHeight) $('playing').textContent = `${video.videoWidth} x ${video.videoHeight}`;
}, 500);

try {
  facts = await (await fetch('/api/facts')).json();
  state.router = new URL(facts.master).host;
  start();
} catch (error) {
  state.error = error.message;
  say(`The demo does not answer: ${error.message}`, true);
}
