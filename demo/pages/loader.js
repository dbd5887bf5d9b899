// How the player reaches the film: asks the router, follows its 302 to an edge, stays with that edge, and
// asks the router again when the edge fails.
//
// Must stay true: the player only ever sees the router's URLs, so it does not notice a change of edge; a
// failed request is tried again elsewhere long before the buffer is empty; every wait has a limit.

const FIRST_BYTE_MS_MAX = 2500;   // an edge that says nothing for so long is taken as gone
const PROGRESS_MS_MAX = 2500;     // so is one that stops in the middle
const GIVE_UP_MS = 25000;         // then the player is told; its buffer is 30 s or more
const BACKOFF_MS_MAX = 1000;

// The last member of Cache-Status is the tier nearest to us: the edge (RFC 9211, section 2).
export function parseCacheStatus(field) {
  const members = splitOutsideQuotes(field ?? '', ',').map((member) => {
    const [name, ...parameters] = splitOutsideQuotes(member, ';');
    const values = new Map(parameters.map((p) => {
      const at = p.indexOf('=');
      return at < 0 ? [p, true] : [p.slice(0, at), p.slice(at + 1)];
    }));
    return { name: name.replace(/^"|"$/g, ''), hit: values.has('hit'), fwd: values.get('fwd') ?? null,
      collapsed: values.has('collapsed') };
  }).filter((m) => m.name);
  return { members, edge: members.at(-1) ?? null };
}

function splitOutsideQuotes(text, separator) {
  const parts = [''];
  let quoted = false;
  for (const c of text) {
    if (c === '"') quoted = !quoted;
    if (c === separator && !quoted) parts.push('');
    else parts[parts.length - 1] += c;
  }
  return parts.map((p) => p.trim()).filter((p) => p);
}

// Knows the edge that the last 302 gave; shared by all loaders of a player.
export class Steering {
  constructor(router, { onEvent = () => {}, onAnswer = () => {} } = {}) {
    this.router = new URL(router).origin;
    this.edge = null;
    this.onEvent = onEvent;
    this.onAnswer = onAnswer;
  }

  // Gets a path from the present edge, or by way of the router; retries until it works or time is up.
  async get(path, { signal, headers, onFirstByte = () => {}, onProgress = () => {} } = {}) {
    const begin = performance.now();
    for (let attempt = 1; ; attempt++) {
      const base = this.edge ?? this.router;
      const started = performance.now();
      try {
        const answer = await this.try(base + path, { signal, headers, onFirstByte, onProgress });
        const edge = new URL(answer.url).origin;
        if (edge !== this.router && edge !== this.edge) {
          this.onEvent(`${this.edge ? 'moved' : 'router sent us'} to ${new URL(edge).host}`);
          this.edge = edge;
        }
        const result = { ...answer, path, attempts: attempt, ms: performance.now() - started };
        this.onAnswer(result);
        return result;
      } catch (error) {
        if (signal?.aborted) throw error;
        if (base === this.edge) {
          this.onEvent(`${new URL(base).host} failed (${error.message}): asking the router again`);
          this.edge = null;
        }
        if (error.final || performance.now() - begin > GIVE_UP_MS) throw error;
        // A killed edge leaves the router's answers within a second: the first retry is at once, later ones
        // wait.
        await pause(attempt === 1 ? 0 : Math.min(BACKOFF_MS_MAX, 150 * attempt), signal);
      }
    }
  }

  async try(url, { signal, headers, onFirstByte, onProgress }) {
    const stop = new AbortController();
    const follow = () => stop.abort(signal.reason);
    signal?.addEventListener('abort', follow);
    let timer;
    const within = (ms, what) => {
      clearTimeout(timer);
      timer = setTimeout(() => stop.abort(new Error(`${what} within ${ms} ms`)), ms);
    };
    try {
      within(FIRST_BYTE_MS_MAX, 'no answer');
      const response = await fetch(url, { signal: stop.signal, headers, cache: 'no-store', mode: 'cors' });
      onFirstByte();
      if (response.status >= 400) {
        // What the client asked wrongly stays wrong at every edge; anything else is worth another one.
        const error = new Error(`status ${response.status}`);
        error.status = response.status;
        error.final = response.status < 500 && response.status !== 408 && response.status !== 429;
        throw error;
      }
      // The length is that of the coded bytes, and what comes here is decoded (RFC 9110, section 8.6).
      const coded = response.headers.has('content-encoding');
      const expected = coded ? NaN : Number(response.headers.get('content-length') ?? NaN);
      const chunks = [];
      let loaded = 0;
      const reader = response.body.getReader();
      for (;;) {
        within(PROGRESS_MS_MAX, 'no more bytes');
        const { done, value } = await reader.read();
        if (done) break;
        chunks.push(value);
        loaded += value.byteLength;
        onProgress(loaded, expected);
      }
      if (Number.isFinite(expected) && loaded !== expected) throw new Error(`${loaded} of ${expected} bytes came`);
      const bytes = new Uint8Array(loaded);
      let at = 0;
      for (const chunk of chunks) { bytes.set(chunk, at); at += chunk.byteLength; }
      return { url: response.url, status: response.status, bytes,
        cacheStatus: response.headers.get('cache-status') ?? '', age: response.headers.get('age'),
        via: response.headers.get('via'), headers: response.headers };
    } catch (error) {
      throw stop.signal.aborted && stop.signal.reason instanceof Error ? stop.signal.reason : error;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', follow);
    }
  }
}

function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener('abort', () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
  });
}

// A loader class for hls.js that goes through the steering.
export function loaderFor(steering) {
  return class SteeredLoader {
    constructor() {
      this.stats = { aborted: false, loaded: 0, retry: 0, total: 0, chunkCount: 0, bwEstimate: 0,
        loading: { start: 0, first: 0, end: 0 }, parsing: { start: 0, end: 0 },
        buffering: { start: 0, first: 0, end: 0 } };
      this.context = null;
      this.callbacks = null;
      this.stop = new AbortController();
      this.answer = null;
    }

    destroy() {
      this.callbacks = null;
      this.end();
    }

    abort() {
      const { callbacks } = this;
      this.callbacks = null;
      this.end();
      callbacks?.onAbort?.(this.stats, this.context, null);
    }

    end() {
      if (!this.stats.loading.end) this.stats.aborted = true;
      this.stop.abort(new Error('not needed any more'));
    }

    load(context, _config, callbacks) {
      this.context = context;
      this.callbacks = callbacks;
      this.stats.loading.start = performance.now();
      const { pathname, search } = new URL(context.url, location.href);
      const headers = context.rangeEnd ? { range: `bytes=${context.rangeStart ?? 0}-${context.rangeEnd - 1}` } : {};
      steering.get(pathname + search, {
        signal: this.stop.signal,
        headers,
        onFirstByte: () => { this.stats.loading.first = performance.now(); },
        onProgress: (loaded, total) => {
          this.stats.loaded = loaded;
          if (Number.isFinite(total)) this.stats.total = total;
        },
      }).then((answer) => {
        this.answer = answer;
        const { stats } = this;
        stats.loading.end = Math.max(performance.now(), stats.loading.first);
        stats.loaded = stats.total = answer.bytes.byteLength;
        stats.retry = answer.attempts - 1;
        stats.chunkCount = 1;
        // Waits of failed attempts are no measure of the line, so they are kept out of the bandwidth
        // estimate.
        stats.loading.start = Math.max(stats.loading.start, stats.loading.end - answer.ms);
        stats.loading.first = Math.max(stats.loading.start, stats.loading.first);
        const data = context.responseType === 'arraybuffer' ? answer.bytes.buffer
          : new TextDecoder().decode(answer.bytes);
        // The player is told the URL it asked for: the edge behind it may change at any time.
        this.callbacks?.onSuccess({ url: context.url, data, code: answer.status }, stats, context, answer);
      }, (error) => {
        if (this.stop.signal.aborted) return;
        const code = error.status ?? 0;
        this.callbacks?.onError({ code, text: error.message }, context, null, this.stats);
      });
    }

    getCacheAge() { return this.answer?.age ? Number(this.answer.age) : null; }
    getResponseHeader(name) { return this.answer?.headers.get(name) ?? null; }
  };
}
